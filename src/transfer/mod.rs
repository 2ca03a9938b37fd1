//! The engine: moves images from a source to a sink.
//!
//! For each image: resolve the name, walk the manifests (children of an index filtered by platform), compare with
//! what the sink holds, bring the blobs it lacks, publish. It knows the seams only ([`crate::content`]),
//! verifies every byte itself, and is the only place where content is moved.

mod blob;
mod download;
mod dry_run;
pub mod event;
mod graph;
mod hasher;
mod image;
mod manifests;
mod node;
mod oci_media_types;
pub mod options;
mod platforms;
pub mod report;
mod rewrite;
mod scheduler;
mod single_flight;
mod stats;
mod upload;

#[cfg(feature = "archive")]
pub(crate) use blob::megabytes;
pub use event::{ArchiveStep, Event, Observer, Silent};
pub use options::{IndexMode, MediaTypes, MissingPlatform, PartPolicy, TransferOptions};
pub use report::{ImagePlan, ImageReport, Plan, Report, Status, Verb};

use crate::content::{Place, Resolved, Sink};
use crate::error::Result;
use crate::oci::{PlatformSet, Reference};
use futures::future::{BoxFuture, Shared};
use std::sync::Arc;
use std::time::Instant;

/// An image to copy.
#[derive(Clone, Debug)]
pub struct Image<S> {
    /// Where it comes from.
    pub source: Arc<S>,
    /// Its name there.
    pub reference: Reference,
    /// Its own choice of platforms, if it has one.
    pub platforms: Option<PlatformSet>,
    /// Where it goes.
    pub place: Place,
    /// A second place, taken unless another image has it.
    pub alias: Option<Place>,
    /// The digest that its tag names, if it was requested already.
    pub resolved: Option<Resolution>,
    /// What is to be said of it in the report.
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

/// Copies images into one sink. Blobs, manifests and limits are shared by all of them.
pub struct Engine<K: Sink> {
    sink: Arc<K>,
    options: TransferOptions,
    verb: Verb,
    observer: Arc<dyn Observer>,
    hasher: hasher::Hasher<K::Writer>,
    flight: single_flight::Flight,
    manifests: manifests::Manifests,
}

impl<K: Sink> Engine<K> {
    /// An engine that copies into `sink`.
    ///
    /// # Errors
    /// `Storage` when the system refuses it threads.
    pub fn new(sink: Arc<K>, options: TransferOptions, observer: Arc<dyn Observer>) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // With SHA instructions one thread keeps up with two receiving cores; without, each core hashes.
        let fast = crate::oci::sha256::Kernel::best().has_sha_instructions();
        let threads = if fast { cores.div_ceil(2) } else { cores };
        Ok(Self {
            sink,
            observer,
            hasher: hasher::Hasher::start(threads)?,
            flight: single_flight::Flight::default(),
            manifests: manifests::Manifests::default(),
            verb: Verb::default(),
            options,
        })
    }

    /// The same engine, whose reports speak of `verb`.
    #[must_use]
    pub fn doing(self, verb: Verb) -> Self {
        Self { verb, ..self }
    }

    /// The most blob requests in flight to one source.
    fn jobs(&self) -> usize {
        self.options.jobs.max(1)
    }
}

/// Seconds since `start`.
fn lap(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
