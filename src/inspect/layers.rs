//! The layers of an image.

use crate::oci::manifest::ImageManifest;
use crate::oci::{Digest, ImageConfig};
use serde::{Deserialize, Serialize};

/// One layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LayerInspection {
    /// Its digest, as stored.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes, as stored.
    pub size: u64,
    /// Its digest when uncompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// The command that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Its file name, for artifacts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

pub(super) fn of(image: &ImageManifest, config: &ImageConfig) -> Vec<LayerInspection> {
    let commands = config.made_by(image.layers.len());
    let layers = image.layers.iter().enumerate();
    let layers = layers.map(|(number, layer)| LayerInspection {
        digest: layer.digest,
        media_type: layer.media_type.clone(),
        size: layer.size,
        diff_id: config.rootfs.diff_ids.get(number).copied(),
        created_by: commands.get(number).map(|command| (*command).to_owned()),
        title: layer.annotations.get("org.opencontainers.image.title").cloned(),
    });
    layers.collect()
}
