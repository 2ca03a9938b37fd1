//! What the engine tells of its work while it goes on.

use super::report::ImageReport;
use crate::error::{Error, ErrorReport};
use crate::oci::{Digest, Reference};
use serde::{Serialize, Serializer};

/// Something that happened. Serialises to one flat JSON object with the name in `event`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run begins.
    RunStarted {
        /// How many images it is about.
        images: usize,
    },
    /// What an image needs is known.
    ImagePlanned {
        /// The image.
        reference: &'a Reference,
        /// Bytes of blobs that this image is the first to need and that have to be fetched.
        fetch_bytes: u64,
        /// Bytes of blobs that are there already, or that another image of the run brings.
        reuse_bytes: u64,
    },
    /// A blob begins to come.
    BlobStarted {
        /// The image that it is fetched for.
        reference: &'a Reference,
        /// The blob.
        digest: Digest,
        /// Its whole size in bytes.
        size: u64,
        /// Bytes of it that an earlier run left and that do not come again.
        resumed: u64,
    },
    /// Bytes of a blob came.
    BlobAdvanced {
        /// The blob.
        digest: Digest,
        /// How many bytes, since the last such event.
        bytes: u64,
    },
    /// A blob that began has ended.
    BlobFinished {
        /// The blob.
        digest: Digest,
        /// Its whole size in bytes.
        size: u64,
        /// Whether it is there now, whole and verified.
        complete: bool,
    },
    /// A request or a blob failed in a way that may pass, and is tried again.
    Retrying {
        /// What is tried again: a reference or digest.
        subject: &'a str,
        /// How many tries were made so far.
        attempts: u32,
        /// Why.
        #[serde(serialize_with = "as_report")]
        #[cfg_attr(feature = "schema", schemars(with = "ErrorReport"))]
        error: &'a Error,
    },
    /// Something that a person should know and that fails nothing.
    Warning {
        /// The image it is about, if it is about one.
        #[serde(skip_serializing_if = "Option::is_none")]
        reference: Option<&'a Reference>,
        /// What there is to know.
        message: &'a str,
    },
    /// A step of making an archive begins.
    ArchiveStarted {
        /// Which.
        step: ArchiveStep,
        /// How many bytes it goes over.
        bytes: u64,
    },
    /// A step of making an archive has gone over more bytes.
    ArchiveAdvanced {
        /// Which.
        step: ArchiveStep,
        /// How many bytes, since the last such event.
        bytes: u64,
    },
    /// A step of making an archive has ended.
    ArchiveFinished {
        /// Which.
        step: ArchiveStep,
        /// Whether it came to its end. After the writing the archive then stands.
        complete: bool,
    },
    /// An image has ended: saved (or what else the verb does), unchanged, skipped or failed.
    ImageFinished {
        /// Its row in the report.
        #[serde(flatten)]
        image: &'a ImageReport,
    },
}

/// The steps of making an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveStep {
    /// All that goes into it is read and verified.
    Checking,
    /// It is written.
    Writing,
}

fn as_report<S: Serializer>(error: &&Error, serializer: S) -> Result<S::Ok, S::Error> {
    ErrorReport::from(*error).serialize(serializer)
}

/// Who is told of events. Called from many tasks at once and often: it must be quick and must not block.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of `event`.
    fn event(&self, event: &Event<'_>);
}

/// An observer that takes no note.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
