//! Content descriptors (OCI image spec, descriptor.md).

use super::digest::Digest;
use super::platform::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a manifest or index says of one piece of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type; empty where a careless writer left it out.
    #[serde(default)]
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes.
    pub size: u64,
    /// For an index's entries: what the manifest runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where foreign content can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The type of the artifact that the content is a manifest of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but what is required.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            artifact_type: None,
        }
    }

    /// For an attestation manifest (buildkit's `vnd.docker.reference.type`): the digest of the image that it speaks of.
    #[must_use]
    pub fn attestation_of(&self) -> Option<Digest> {
        self.annotations.get("vnd.docker.reference.type").filter(|kind| *kind == "attestation-manifest")?;
        self.annotations.get("vnd.docker.reference.digest")?.parse().ok()
    }
}
