//! Progress events.

use super::report::ImageReport;
use crate::error::{Error, ErrorReport};
use crate::oci::{Digest, Reference};
use serde::{Serialize, Serializer};

/// A progress event. Serialises to one flat JSON object whose field `event` has the name.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run has started.
    RunStarted {
        /// The number of images.
        images: usize,
    },
    /// The image has been resolved and compared with the sink.
    ImagePlanned {
        /// The image.
        reference: &'a Reference,
        /// Bytes to be downloaded, not counting blobs that another image of the run was the first to need.
        fetch_bytes: u64,
        /// Bytes of blobs that are present or that another image of the run downloads.
        reuse_bytes: u64,
        /// What its index names and is not transferred: platforms, or `attestation`. Empty unless the index is kept.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        omitted: &'a [String],
    },
    /// The download of a blob has started.
    BlobStarted {
        /// The image that it is downloaded for.
        reference: &'a Reference,
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Bytes that an earlier run left and that are not downloaded again.
        resumed: u64,
    },
    /// Bytes of a blob have arrived.
    BlobAdvanced {
        /// The blob.
        digest: Digest,
        /// The number of bytes since the last such event.
        bytes: u64,
    },
    /// The download of a blob has ended.
    BlobFinished {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Whether it is complete and verified.
        complete: bool,
    },
    /// A request or download failed and will be retried.
    Retrying {
        /// What is retried: a reference or digest.
        subject: &'a str,
        /// The number of attempts so far.
        attempts: u32,
        /// The failure.
        #[serde(serialize_with = "as_report")]
        #[cfg_attr(feature = "schema", schemars(with = "ErrorReport"))]
        error: &'a Error,
    },
    /// Something that the user should know and that fails no image.
    Warning {
        /// The image that it concerns, if any.
        #[serde(skip_serializing_if = "Option::is_none")]
        reference: Option<&'a Reference>,
        /// The message.
        message: &'a str,
    },
    /// A step of writing an archive has started.
    ArchiveStarted {
        /// The step.
        step: ArchiveStep,
        /// The bytes that it will process.
        bytes: u64,
    },
    /// A step of writing an archive has processed bytes.
    ArchiveAdvanced {
        /// The step.
        step: ArchiveStep,
        /// The number of bytes since the last such event.
        bytes: u64,
    },
    /// A step of writing an archive has ended.
    ArchiveFinished {
        /// The step.
        step: ArchiveStep,
        /// Whether it was completed. The archive exists once the writing step was.
        complete: bool,
    },
    /// An image is done: transferred, unchanged, skipped or failed.
    ImageFinished {
        /// Its entry in the report.
        #[serde(flatten)]
        image: &'a ImageReport,
    },
}

/// The steps of writing an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveStep {
    /// The content is read and verified.
    Checking,
    /// The archive is written.
    Writing,
}

fn as_report<S: Serializer>(error: &&Error, serializer: S) -> Result<S::Ok, S::Error> {
    ErrorReport::from(*error).serialize(serializer)
}

/// Receives progress events. Called often and from many tasks at once: implementations must be quick and must not block.
pub trait Observer: Send + Sync + 'static {
    /// Handles `event`.
    fn event(&self, event: &Event<'_>);
}

/// An observer that ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
