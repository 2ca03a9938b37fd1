//! The report of a verification. Its JSON form is the output of `saver verify --json`.

use super::expected::Completeness;
use super::signatures::TrustReport;
use crate::oci::{Digest, Reference};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result of a verification.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VerifyReport {
    /// The version of this format, which changes when a field is removed or changes its meaning.
    pub schema: u32,
    /// Whether every blob was hashed.
    pub deep: bool,
    /// Number of repositories.
    pub repositories: usize,
    /// Number of tags of images; those of signatures and other referrers do not count.
    pub tags: usize,
    /// Number of manifests that were checked. A manifest in several repositories counts once.
    pub manifests: usize,
    /// Number of blobs, including manifests.
    pub blobs: usize,
    /// Total size of all blobs in bytes.
    pub blob_bytes: u64,
    /// The problems, sorted by path. Empty if the tree is intact.
    pub problems: Vec<Problem>,
    /// Remarks that are not problems.
    pub notes: Vec<Note>,
    /// The tags that can't be pulled completely: `repository:tag`.
    pub broken: Vec<String>,
    /// Which of the expected images the tree has, if it was compared with a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Completeness>,
    /// Which images satisfy the signature policy, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustReport>,
    /// The names that the affected images were saved from, by their names in the tree, where that is recorded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Reference>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl VerifyReport {
    /// The current version of the JSON format.
    pub const SCHEMA: u32 = 1;

    /// Whether there are no problems.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether none of the expected images is missing. If it was not compared with a list, none is expected.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.expected.as_ref().is_none_or(|expected| expected.missing.is_empty())
    }

    /// Whether all images satisfy the signature policy. If there is none, all do.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trust.as_ref().is_none_or(|trust| trust.untrusted.is_empty())
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Problem {
    /// The path, relative to the directory of the tree.
    pub path: String,
    /// The kind of the problem.
    pub kind: ProblemKind,
    /// The digest concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// All images affected: `repository:tag`, or `repository@digest` if no tag reaches it.
    pub images: Vec<String>,
    /// A description of the problem.
    pub message: String,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// Content that a manifest or tag needs is missing.
    Missing,
    /// Content does not match its digest, or is not what its link says.
    Corrupt,
    /// Content matches its digest, but not the size in a manifest.
    Size,
    /// Content can't be read from disk.
    Unreadable,
    /// A link that a manifest or tag needs is missing.
    MissingLink,
    /// A link file contains no digest, or not the one in its path.
    DamagedLink,
    /// A link points to missing content that nothing needs.
    DanglingLink,
    /// None of the manifests of an index is stored.
    EmptyIndex,
    /// A repository has no directory of blob links: garbage collection would empty it, or fail.
    NoLayers,
    /// A repository has no directory of tags: garbage collection of untagged manifests would fail for the whole tree.
    NoTags,
    /// A tag has no `current` link: registries list it, but it can't be pulled.
    UnfinishedTag,
    /// An entry does not belong in the tree, and registries fail on it.
    Foreign,
}

impl ProblemKind {
    /// The stable name in the JSON format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::Size => "size",
            Self::Unreadable => "unreadable",
            Self::MissingLink => "missing-link",
            Self::DamagedLink => "damaged-link",
            Self::DanglingLink => "dangling-link",
            Self::EmptyIndex => "empty-index",
            Self::NoLayers => "no-layers",
            Self::NoTags => "no-tags",
            Self::UnfinishedTag => "unfinished-tag",
            Self::Foreign => "foreign",
        }
    }
}

/// A remark that is not a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Note {
    /// The kind of the note.
    pub kind: NoteKind,
    /// A description.
    pub message: String,
    /// The paths concerned, relative to the directory of the tree.
    pub paths: Vec<String>,
    /// Total size of these files in bytes, where that is relevant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The kinds of notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoteKind {
    /// Blobs that no repository links to.
    Unreferenced,
    /// Manifests in an unsupported format; what they reference was not checked.
    Opaque,
    /// Entries that registries ignore.
    Foreign,
    /// There are no images in the tree.
    NoTree,
    /// Interrupted downloads.
    Partial,
    /// Files that a repair moved out of the tree.
    SetAside,
}
