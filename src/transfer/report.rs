//! The word of a run: what became of each image.

use crate::content::Place;
use crate::error::ErrorReport;
use crate::oci::{Digest, Reference, Repository, Tag};
use serde::{Deserialize, Serialize};

/// What became of one image. Each verb has a word of its own for what it was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Status {
    /// It was fetched, in whole or in part, and published in a tree.
    Saved,
    /// It was brought into a registry from a tree.
    Pushed,
    /// It was brought from one registry into another.
    Copied,
    /// It is in the archive or layout, which stands.
    Exported,
    /// It was brought from an archive or layout into a tree.
    Imported,
    /// It would be saved: this and the next two only in the plan of a dry run.
    WouldSave,
    /// It would be pushed.
    WouldPush,
    /// It would be copied.
    WouldCopy,
    /// All of it was there, and its tag too: nothing was written.
    Unchanged,
    /// It has not the platform asked for, and that was allowed.
    Skipped,
    /// It could not be had; its tag was not touched.
    Failed,
}

impl Status {
    /// Whether the verb did what it was asked for: saved, pushed, copied, exported or imported.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Self::Saved | Self::Pushed | Self::Copied | Self::Exported | Self::Imported)
    }

    /// Whether a verb would do so, in the plan of a dry run.
    #[must_use]
    pub fn is_planned(self) -> bool {
        matches!(self, Self::WouldSave | Self::WouldPush | Self::WouldCopy)
    }
}

/// What a run is for: the word for an image that it did it to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    /// From registries into a tree.
    #[default]
    Save,
    /// From a tree into a registry.
    Push,
    /// From one registry into another.
    Copy,
    /// Into an archive or a layout. It has no dry run.
    Export,
    /// From an archive or a layout into a tree. It has no dry run.
    Import,
}

impl Verb {
    /// The status of an image that it was done to.
    pub(crate) fn done(self) -> Status {
        match self {
            Self::Save => Status::Saved,
            Self::Push => Status::Pushed,
            Self::Copy => Status::Copied,
            Self::Export => Status::Exported,
            Self::Import => Status::Imported,
        }
    }

    /// The status of an image that it would be done to.
    pub(crate) fn planned(self) -> Status {
        match self {
            Self::Push => Status::WouldPush,
            Self::Copy => Status::WouldCopy,
            Self::Save | Self::Export | Self::Import => Status::WouldSave,
        }
    }
}

/// One image's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ImageReport {
    /// The image as asked for, in normal form.
    pub reference: Reference,
    /// What became of it.
    pub status: Status,
    /// The repository that it has where it was brought to: in the tree, at the registry; in an archive or layout, beside the registry's name.
    pub repository: Repository,
    /// The tag that it has there; none when it was asked for by digest alone.
    pub tag: Option<Tag>,
    /// What the tag names there: a manifest's or an index's digest.
    pub digest: Option<Digest>,
    /// The digest that the source names, where it is not `digest` (a pruned or flattened index).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<Digest>,
    /// What the tag named there before, where that was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Digest>,
    /// The platforms that were copied or already present.
    pub platforms: Vec<String>,
    /// What the index names and was not copied: platforms, or `attestation`. Clients that read a whole index fail on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// Bytes that came over the network for it: blobs, manifests.
    pub bytes_fetched: u64,
    /// Bytes of its blobs that were there or that another image of the run brought.
    pub bytes_reused: u64,
    /// Tries of its worst request or blob: 1 when nothing had to be tried again.
    pub attempts: u32,
    /// How long it took, in seconds, from when its turn came until it was on stable storage.
    pub seconds: f64,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// What there is to know beside: a tag that moved, a short name that was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a run would do for one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ImagePlan {
    /// The image as asked for, in normal form.
    pub reference: Reference,
    /// What would become of it.
    pub status: Status,
    /// The repository that it would have in the tree.
    pub repository: Repository,
    /// The tag that it would have there.
    pub tag: Option<Tag>,
    /// What the tag would name.
    pub digest: Option<Digest>,
    /// The platforms that would be present.
    pub platforms: Vec<String>,
    /// What the index names and would not be copied: platforms, or `attestation`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// Bytes of blobs that would come for it; a blob that several images share counts with the first.
    pub fetch_bytes: u64,
    /// How many blobs these are.
    pub fetch_blobs: u64,
    /// Bytes of its blobs that are there, or that an image before it would bring.
    pub reuse_bytes: u64,
    /// Why it would fail or be skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// What there is to know beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl ImagePlan {
    /// A plan of which nothing is known yet.
    pub(crate) fn new(reference: Reference, place: Place) -> Self {
        Self {
            reference,
            status: Status::Failed,
            repository: place.repository,
            tag: place.tag,
            digest: None,
            platforms: Vec::new(),
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
    /// The version of this form, as in [`Report`].
    pub schema: u32,
    /// A row for each image, in the order of the list.
    pub images: Vec<ImagePlan>,
    /// Bytes that would come over the network, manifests left out.
    pub fetch_bytes: u64,
    /// How many blobs would come.
    pub fetch_blobs: u64,
    /// Bytes that would not have to come.
    pub reuse_bytes: u64,
    /// How long planning took, in seconds.
    pub seconds: f64,
}

/// What became of a whole run. Its JSON form is what `--report` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Report {
    /// The version of this form: raised when a field changes its meaning or goes.
    pub schema: u32,
    /// A row for each image, in the order of the list.
    pub images: Vec<ImageReport>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// Bytes that did not have to come: there already, or shared between images.
    pub bytes_reused: u64,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// Why the run ended before its images did, if it did: the disk was full, the run was interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted: Option<ErrorReport>,
}

impl Report {
    /// The current version of the JSON form.
    pub const SCHEMA: u32 = 1;

    /// How many images the verb was done to: saved, pushed, copied, exported or imported.
    #[must_use]
    pub fn done(&self) -> usize {
        self.images.iter().filter(|image| image.status.is_done()).count()
    }

    /// How many images have this status.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.images.iter().filter(|image| image.status == status).count()
    }

    /// Whether the run came to its end with no image failed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.aborted.is_none() && self.count(Status::Failed) == 0
    }
}
