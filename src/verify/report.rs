//! What was found in a tree, as data. Its JSON form is what `saver verify --json` prints.

use crate::oci::Digest;
use serde::{Deserialize, Serialize};

/// What a verification found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VerifyReport {
    /// The version of this form: raised when a field changes its meaning or goes.
    pub schema: u32,
    /// Whether every blob was hashed.
    pub deep: bool,
    /// How many repositories there are.
    pub repositories: usize,
    /// How many tags there are.
    pub tags: usize,
    /// How many manifests were checked; one that several repositories have counts once.
    pub manifests: usize,
    /// How many blobs there are, manifests among them.
    pub blobs: usize,
    /// The bytes of all blobs.
    pub blob_bytes: u64,
    /// What is wrong, by path. Nothing here: the tree is true.
    pub problems: Vec<Problem>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<Note>,
    /// The tags that can't be pulled in whole: `repository:tag`.
    pub broken: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl VerifyReport {
    /// The current version of the JSON form.
    pub const SCHEMA: u32 = 1;

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Problem {
    /// The path, relative to the tree's directory.
    pub path: String,
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// The digest it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Every image that suffers: `repository:tag`, or `repository@digest` where no tag reaches it.
    pub images: Vec<String>,
    /// What is wrong, for a person.
    pub message: String,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// Content that a manifest or tag needs is not there.
    Missing,
    /// Content has other bytes than its digest promises.
    Corrupt,
    /// Content has another size than a manifest says, though its bytes are what its digest promises.
    Size,
    /// Content that the disk does not give out.
    Unreadable,
    /// A link that a manifest or tag needs is not there.
    MissingLink,
    /// A link file that holds no digest, or another than its path says.
    DamagedLink,
    /// A link to content that is not there and that nothing needs.
    DanglingLink,
    /// An index of which no manifest is there.
    EmptyIndex,
    /// A repository without a directory of blob links: garbage collection would empty it, or fail.
    NoLayers,
    /// Something that does not belong in the tree, and that a registry trips over.
    Foreign,
}

impl ProblemKind {
    /// Its stable name, as the JSON form has it.
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
            Self::Foreign => "foreign",
        }
    }
}

/// Something worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Note {
    /// What kind of note it is.
    pub kind: NoteKind,
    /// What there is to know, for a person.
    pub message: String,
    /// The paths it is about, relative to the tree's directory.
    pub paths: Vec<String>,
    /// The bytes that these files have, where that matters.
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
    /// Tags that an interrupted run has not finished.
    Unfinished,
    /// Manifests of a form that is not read: what they need was not checked.
    Opaque,
    /// Names that registries take no notice of.
    Foreign,
    /// There is no tree in the directory.
    NoTree,
}
