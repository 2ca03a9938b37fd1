//! Lock files: what the names of a list were at one time, down to the digests of platforms and referrers.
//!
//! saver's own is a plain list that any reader of plain lists can use. Each line pins an image by digest, and comments hold the
//! rest:
//!
//! ```text
//! # saver lock v1 index=keep attestations=yes foreign-layers=no
//! quay.io/team/app:1.4@sha256:...  # platform=linux/amd64 want.list:3 tags=semver:^1 newest=1
//! #   manifest sha256:... 48121334 linux/amd64
//! #   referrer sha256:... of sha256:... application/vnd.dev.sigstore.bundle.v0.3+json
//! ```

mod plain;
mod yaml;

use crate::oci::{Digest, Reference};
pub(super) use plain::attach;
use serde::{Deserialize, Serialize};
pub(super) use yaml::{read_carvel, read_helm};

/// Images that are pinned by digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LockFile {
    /// The version of this format, which changes when a field is removed or changes its meaning.
    pub schema: u32,
    /// How the images were resolved.
    pub options: LockOptions,
    /// The images, in the order of their lists.
    pub images: Vec<LockedImage>,
}

/// How the images of a lock file were resolved, as far as it decides what a directory contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockOptions {
    /// How indexes are saved: `keep`, `prune` or `flatten`.
    pub index: String,
    /// Whether attestations in indexes are saved.
    pub attestations: bool,
    /// Whether foreign layers are saved.
    pub foreign_layers: bool,
}

/// A pinned image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockedImage {
    /// Its name with its digest at the registry. Helm's lock files pin platforms only, and have no digest here.
    pub reference: Reference,
    /// The platforms to save, such as `linux/amd64,linux/arm64` or `all`; `None` if the lock file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platforms: Option<String>,
    /// The manifests of these platforms.
    #[serde(default)]
    pub manifests: Vec<LockedManifest>,
    /// Its signatures and other referrers; `None` if the lock file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrers: Option<Vec<LockedReferrer>>,
    /// The list that names it, and the rule that selected its tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selected_by: String,
}

/// A pinned image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its size with its configuration and layers, in bytes, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its platform; `None` for an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// A pinned referrer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockedReferrer {
    /// Its digest.
    pub digest: Digest,
    /// The manifest that it refers to.
    pub subject: Digest,
    /// Its artifact type, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// The formats of lock files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockFormat {
    /// saver's own, a plain list.
    #[default]
    Plain,
    /// ImagesLock of Carvel's imgpkg, which pins indexes.
    Carvel,
    /// Images.lock of Helm charts, which pins the manifests of platforms.
    Helm,
}

impl LockFile {
    /// The current version of the JSON format.
    pub const SCHEMA: u32 = 1;

    /// A lock file of `images`.
    #[must_use]
    pub fn new(options: LockOptions, images: Vec<LockedImage>) -> Self {
        Self { schema: Self::SCHEMA, options, images }
    }

    /// Its text. The same images have the same text: it has no dates.
    #[must_use]
    pub fn to_text(&self, format: LockFormat) -> String {
        match format {
            LockFormat::Plain => plain::write(self),
            LockFormat::Carvel => yaml::write_carvel(self),
            LockFormat::Helm => yaml::write_helm(self),
        }
    }
}

/// Images with all kinds of content.
#[cfg(test)]
fn sample() -> LockFile {
    let digest = |text: &str| Digest::of(text.as_bytes());
    let manifest = |text: &str, platform: Option<&str>| LockedManifest {
        digest: digest(text),
        bytes: Some(12),
        platform: platform.map(str::to_owned),
    };
    let image = |name: &str, root: &str| LockedImage {
        reference: Reference::parse(&format!("{name}@{}", digest(root))).unwrap(),
        platforms: Some("linux/amd64,linux/arm64".to_owned()),
        manifests: Vec::new(),
        referrers: Some(Vec::new()),
        selected_by: "want.list:3 tags=semver:^1 newest=1".to_owned(),
    };
    let referrer = |text: &str, artifact_type: Option<&str>| LockedReferrer {
        digest: digest(text),
        subject: digest("index"),
        artifact_type: artifact_type.map(str::to_owned),
    };
    let options = LockOptions { index: "keep".to_owned(), attestations: true, foreign_layers: false };
    let images = vec![
        LockedImage {
            manifests: vec![
                manifest("amd64", Some("linux/amd64")),
                manifest("windows", Some("windows(10.0.1)/amd64")),
            ],
            referrers: Some(vec![referrer("one", Some("application/vnd.sbom+json")), referrer("two", None)]),
            ..image("quay.io/team/app:1.4", "index")
        },
        LockedImage {
            platforms: Some("all".to_owned()),
            manifests: vec![manifest("chart", None)],
            selected_by: String::new(),
            ..image("localhost:5000/charts/app:1.0", "chart")
        },
        image("quay.io/team/by-digest", "by digest"),
    ];
    LockFile::new(options, images)
}
