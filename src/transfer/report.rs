//! Reports: the result of a run for each image.

use crate::content::Place;
use crate::error::ErrorReport;
use crate::oci::{Digest, Reference, Repository, Tag};
use serde::{Deserialize, Serialize};

/// The result for one image. Each verb has its own status for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Status {
    /// Downloaded, in whole or in part, and published in a tree.
    Saved,
    /// Pushed from a tree into a registry.
    Pushed,
    /// Copied from one registry to another.
    Copied,
    /// Written to an archive or layout.
    Exported,
    /// Imported from an archive or layout into a tree.
    Imported,
    /// Would be saved. This and the next two occur only in the plan of a dry run.
    WouldSave,
    /// It would be pushed.
    WouldPush,
    /// It would be copied.
    WouldCopy,
    /// Complete already: nothing was written.
    Unchanged,
    /// Lacks a requested platform, and skipping was allowed.
    Skipped,
    /// Failed; its tag was not changed.
    Failed,
}

impl Status {
    /// Whether the image was saved, pushed, copied, exported or imported.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Self::Saved | Self::Pushed | Self::Copied | Self::Exported | Self::Imported)
    }

    /// Whether a dry run would do so.
    #[must_use]
    pub fn is_planned(self) -> bool {
        matches!(self, Self::WouldSave | Self::WouldPush | Self::WouldCopy)
    }
}

/// The purpose of a run, which determines the status of a transferred image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    /// From registries into a tree.
    #[default]
    Save,
    /// From a tree into a registry.
    Push,
    /// From one registry into another.
    Copy,
    /// Into an archive or layout. It has no dry run.
    Export,
    /// From an archive or layout into a tree. It has no dry run.
    Import,
}

impl Verb {
    /// The status of an image that was transferred.
    pub(crate) fn done(self) -> Status {
        match self {
            Self::Save => Status::Saved,
            Self::Push => Status::Pushed,
            Self::Copy => Status::Copied,
            Self::Export => Status::Exported,
            Self::Import => Status::Imported,
        }
    }

    /// The status of an image that would be transferred.
    pub(crate) fn planned(self) -> Status {
        match self {
            Self::Push => Status::WouldPush,
            Self::Copy => Status::WouldCopy,
            Self::Save | Self::Export | Self::Import => Status::WouldSave,
        }
    }
}

/// The result for one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ImageReport {
    /// The image as requested, in normal form.
    pub reference: Reference,
    /// The result.
    pub status: Status,
    /// Its repository at the destination: in the tree, at the registry, or in the layout.
    pub repository: Repository,
    /// Its tag at the destination; `None` if it was requested by digest only.
    pub tag: Option<Tag>,
    /// The digest of the manifest or index that the tag names at the destination.
    pub digest: Option<Digest>,
    /// The digest at the source, if it differs from `digest` because the index was pruned or flattened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<Digest>,
    /// The digest that the tag named at the destination before, if it was another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Digest>,
    /// The platforms that were copied or already present.
    pub platforms: Vec<String>,
    /// Its image manifests: one for each platform, and those without a platform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<ManifestReport>,
    /// What the index names and was not transferred: platforms, or `attestation`. Clients that read the whole index fail on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// The signatures, attestations, SBOMs and other referrers that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerReport>,
    /// Bytes received over the network for it: blobs and manifests.
    pub bytes_fetched: u64,
    /// Chunks of its layers that arrived corrupt and were downloaded again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corrupt_chunks: u64,
    /// Bytes of its blobs that were present or that another image of the run downloaded.
    pub bytes_reused: u64,
    /// The highest attempt count of any request for this image; 1 means no retries.
    pub attempts: u32,
    /// The time from its start until it was on stable storage, in seconds.
    pub seconds: f64,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// Warnings, for instance that a tag has moved or a short name was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ManifestReport {
    /// Its platform; `None` for an artifact, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its digest.
    pub digest: Digest,
    /// Its size with its configuration and layers, in bytes.
    pub bytes: u64,
}

/// A referrer of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ReferrerReport {
    /// The manifest that it refers to.
    pub subject: Digest,
    /// Its own digest; `None` if it could not be determined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The tag that connects it with its subject, if it is one of cosign's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Its artifact type, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Why it is missing at the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What a run would do for one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ImagePlan {
    /// The image as requested, in normal form.
    pub reference: Reference,
    /// What would happen to it.
    pub status: Status,
    /// Its repository at the destination.
    pub repository: Repository,
    /// Its tag at the destination.
    pub tag: Option<Tag>,
    /// The digest that the tag would name.
    pub digest: Option<Digest>,
    /// The digest at the source, if it differs from `digest` because the index would be pruned or flattened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<Digest>,
    /// The platforms that would be present.
    pub platforms: Vec<String>,
    /// The image manifests that would be present.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<ManifestReport>,
    /// The referrers that would be present.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerReport>,
    /// What the index names and would not be transferred: platforms, or `attestation`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// Bytes to download; a blob that several images share counts for the first.
    pub fetch_bytes: u64,
    /// The number of blobs to download.
    pub fetch_blobs: u64,
    /// Bytes of its blobs that are present or that an earlier image would download.
    pub reuse_bytes: u64,
    /// Why it would fail or be skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl ImagePlan {
    /// A plan before anything is known.
    pub(crate) fn new(reference: Reference, place: Place) -> Self {
        Self {
            reference,
            status: Status::Failed,
            repository: place.repository,
            tag: place.tag,
            digest: None,
            source_digest: None,
            platforms: Vec::new(),
            manifests: Vec::new(),
            referrers: Vec::new(),
            omitted: Vec::new(),
            fetch_bytes: 0,
            fetch_blobs: 0,
            reuse_bytes: 0,
            error: None,
            warnings: Vec::new(),
        }
    }
}

/// What a run would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Plan {
    /// The schema version, as in [`Report`].
    pub schema: u32,
    /// One entry for each image, in the order of the list.
    pub images: Vec<ImagePlan>,
    /// Bytes to download, without manifests.
    pub fetch_bytes: u64,
    /// The number of blobs to download.
    pub fetch_blobs: u64,
    /// Bytes that need not be downloaded.
    pub reuse_bytes: u64,
    /// The duration of planning, in seconds.
    pub seconds: f64,
}

/// The result of a run. `--report` writes its JSON form.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Report {
    /// The schema version; incremented when a field is removed or changes its meaning.
    pub schema: u32,
    /// One entry for each image, in the order of the list.
    pub images: Vec<ImageReport>,
    /// Bytes received over the network.
    pub bytes_fetched: u64,
    /// Bytes that were present already or shared between images; a blob that several images share counts once.
    pub bytes_reused: u64,
    /// The duration of the run, in seconds.
    pub seconds: f64,
    /// Why the run ended early, if it did: the disk is full, the run was interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted: Option<ErrorReport>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Report {
    /// The current schema version.
    pub const SCHEMA: u32 = 1;

    /// The number of images that were saved, pushed, copied, exported or imported.
    #[must_use]
    pub fn done(&self) -> usize {
        self.images.iter().filter(|image| image.status.is_done()).count()
    }

    /// The number of images with this status.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.images.iter().filter(|image| image.status == status).count()
    }

    /// Whether the run completed without a failed image.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.aborted.is_none() && self.count(Status::Failed) == 0
    }
}
