//! The result of unbundling.

use super::document::BundledImage;
use super::missing::MissingContent;
use crate::error::ErrorReport;
use crate::oci::Digest;
use serde::{Deserialize, Serialize};

/// The result of unbundling.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UnbundleReport {
    /// The version of this format: 1.
    pub schema: u32,
    /// The IDs of the bundles.
    pub bundles: Vec<Digest>,
    /// The parts, in the order in which they were read.
    pub parts: Vec<UnbundledPart>,
    /// The images; none if no bundle.json was read.
    pub images: Vec<UnbundledImage>,
    /// What the images lack; nothing is published then.
    pub missing: Vec<MissingContent>,
    /// Bytes of content that were written.
    pub bytes_written: u64,
    /// Bytes of content that the directory had already, as far as parts were read.
    pub bytes_present: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A part that was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UnbundledPart {
    /// Its file.
    pub file: String,
    /// What became of it.
    pub status: PartStatus,
    /// Why it is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PartStatus {
    /// All of it was read and verified.
    Read,
    /// The directory had all of its content, so it was not read.
    Skipped,
    /// The file is not there.
    Absent,
    /// It is damaged; what is intact of it was written.
    Damaged,
}

/// An image of a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UnbundledImage {
    /// Its name in the directory.
    pub image: String,
    /// Its digest.
    pub digest: Digest,
    /// What became of it.
    pub status: UnbundledStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnbundledStatus {
    /// Its tag names it now.
    Published,
    /// Its tag named it before.
    Unchanged,
    /// Content of its bundle is missing, so nothing of the bundle is published.
    Incomplete,
    /// It could not be published.
    Failed,
}

impl UnbundledImage {
    pub(super) fn new(image: &BundledImage, status: UnbundledStatus) -> Self {
        Self { image: image.name(), digest: image.digest, status, error: None }
    }
}

impl UnbundleReport {
    /// Whether all parts are intact and all images published.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.parts.iter().all(|part| part.status != PartStatus::Damaged)
            && self.missing.is_empty()
            && self.images.iter().all(|image| image.error.is_none())
    }

    /// Number of images with this status.
    #[must_use]
    pub fn count(&self, status: UnbundledStatus) -> usize {
        self.images.iter().filter(|image| image.status == status).count()
    }
}
