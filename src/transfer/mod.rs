//! The engine: transfers images from a source to a sink.
//!
//! For each image: resolve the name, walk the manifests (children of an index filtered by platform), compare with the sink,
//! download the missing blobs, publish. The engine knows only the interfaces in [`crate::content`] and verifies every byte
//! itself.

mod blob;
mod blob_flights;
mod documents;
mod download;
mod dry_run;
pub mod event;
mod graph;
mod hasher;
mod image;
mod node;
mod oci_media_types;
pub mod options;
mod pinned;
mod platforms;
mod referrers;
pub mod report;
mod resolve;
mod rewrite;
mod scheduler;
mod shape;
mod signatures;
mod source_copies;
mod stats;
mod stop;
mod upload;

#[cfg(feature = "archive")]
pub(crate) use blob::megabytes;
pub use event::{ArchiveStep, Event, Observer, Silent};
pub(crate) use options::transfer_setters;
pub use options::{
    IndexMode, MediaTypes, MissingPlatform, MissingReferrers, RangePolicy, ReferrerKinds, ReferrerOptions,
    TransferOptions,
};
pub use pinned::PinnedContent;
pub use report::{ImagePlan, ImageReport, ManifestReport, Plan, ReferrerReport, Report, Status, Verb};

use crate::content::{Place, Resolved, Sink};
use crate::error::Result;
use crate::oci::{PlatformSet, RawManifest, Reference};
use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use std::sync::Arc;
use std::time::Instant;

/// An image to transfer.
#[derive(Clone, Debug)]
pub struct Image<S> {
    /// Where it comes from.
    pub source: Arc<S>,
    /// Its name there.
    pub reference: Reference,
    /// The platforms to transfer, if not those of the options.
    pub platforms: Option<PlatformSet>,
    /// Where it goes.
    pub place: Place,
    /// A second place, used unless another image has it.
    pub alias: Option<Place>,
    /// The digest that its tag names, if it was requested already.
    pub resolved: Option<Resolution>,
    /// What a lock file says of its content, which must be that.
    pub pinned: Option<Arc<PinnedContent>>,
    /// The name to record as its source, if it has one there.
    pub origin: Option<Reference>,
    /// Warnings to include in the report.
    pub warnings: Vec<String>,
}

/// The digest of a tag, as requested before the image's turn.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// It is known, or why it cannot be.
    Known(Result<Resolved>),
    /// It is being requested. `None` if it is not needed: the image is pinned by digest.
    Pending(Shared<BoxFuture<'static, Result<Option<Resolved>>>>),
}

/// Transfers images into one sink. They share blobs, manifests and limits.
pub struct Engine<K: Sink> {
    sink: Arc<K>,
    options: TransferOptions,
    verb: Verb,
    observer: Arc<dyn Observer>,
    hasher: hasher::Hasher<K::Writer>,
    flight: blob_flights::BlobFlights,
    manifests: documents::SharedDocuments<RawManifest>,
    configs: documents::SharedDocuments<Bytes>,
}

impl<K: Sink> Engine<K> {
    /// An engine that writes to `sink`.
    ///
    /// # Errors
    /// `Storage` if threads cannot be started.
    pub fn new(sink: Arc<K>, options: TransferOptions, observer: Arc<dyn Observer>) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // With SHA instructions one thread keeps up with two cores that receive; without them, each core hashes.
        let fast = crate::oci::sha256::Kernel::best().has_sha_instructions();
        let threads = if fast { cores.div_ceil(2) } else { cores };
        Ok(Self {
            sink,
            observer,
            hasher: hasher::Hasher::start(threads)?,
            flight: blob_flights::BlobFlights::default(),
            manifests: documents::SharedDocuments::default(),
            configs: documents::SharedDocuments::default(),
            verb: Verb::default(),
            options,
        })
    }

    /// Sets the verb that reports and progress use.
    #[must_use]
    pub fn doing(self, verb: Verb) -> Self {
        Self { verb, ..self }
    }

    /// The maximum number of concurrent blob requests to one source.
    fn jobs(&self) -> usize {
        self.options.jobs.max(1)
    }
}

/// The seconds since `start`.
fn elapsed_seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
