//! Bundles: what a directory lacks, in files that fit on any medium.
//!
//! The far side says what it has ([`HaveList`]); [`bundle`] writes only what it lacks, cut into parts; [`unbundle`] writes the parts
//! into the directory of the far side, and publishes the images once everything that they need is present. Each part is a tar file
//! that holds a subtree of the registry's directory. docs/reference/bundle-format.md describes the format.

mod base;
mod check;
mod document;
mod have;
mod input;
mod member;
mod missing;
mod plan;
mod publish;
mod receive;
mod report;
mod select;
mod tar_reader;
mod tar_writer;
mod unbundle;
mod write;

pub use base::BundleSince;
pub use check::{BundleCheck, CheckedPart, check_bundle};
pub use document::{
    BaseKind, BundleBase, BundleDocument, BundlePart, BundledContent, BundledImage, BundledReferrer,
    BundledSource, MAX_SIGNATURE,
};
pub use have::{HaveHeader, HaveList};
pub use input::UnbundleFrom;
pub use missing::{MissingContent, RequestedImage};
pub use plan::MIN_PART_BYTES;
pub use report::{PartStatus, UnbundleReport, UnbundledImage, UnbundledPart, UnbundledStatus};
pub use select::{BundleImages, OmittedImage};
pub use unbundle::{UnbundleOptions, unbundle};

use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use crate::save::NameRule;
use crate::store::Store;
use base::AssumedContent;
use plan::BundlePlan;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The default limit of a part: less than 4 GiB, so that FAT32 holds it.
pub const DEFAULT_PART_BYTES: u64 = 4 << 30;

/// Options of bundling.
#[derive(Clone)]
#[non_exhaustive]
pub struct BundleOptions {
    /// The directory of saved images.
    pub dir: PathBuf,
    /// Which of its images.
    pub images: BundleImages,
    /// What the receiving directory has already.
    pub since: Vec<BundleSince>,
    /// Every part is shorter than this, in bytes.
    pub part_bytes: u64,
    /// How images are named in the directory; `None` for the rule that it was saved with.
    pub names: Option<NameRule>,
    /// Signs the bundle.
    pub signer: Option<Arc<dyn BundleSigner>>,
    /// Receives the progress.
    pub observer: Arc<dyn BundleObserver>,
}

impl BundleOptions {
    /// Default options: all images of `dir`, all of their content, parts of less than 4 GiB.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            images: BundleImages::default(),
            since: Vec::new(),
            part_bytes: DEFAULT_PART_BYTES,
            names: None,
            signer: None,
            observer: Arc::new(()),
        }
    }

    /// Bundles these images.
    #[must_use]
    pub fn with_images(self, images: BundleImages) -> Self {
        Self { images, ..self }
    }

    /// Leaves out what the receiving directory has.
    #[must_use]
    pub fn with_since(self, since: impl IntoIterator<Item = BundleSince>) -> Self {
        Self { since: since.into_iter().collect(), ..self }
    }

    /// Makes every part shorter than `part_bytes`.
    #[must_use]
    pub fn with_part_bytes(self, part_bytes: u64) -> Self {
        Self { part_bytes, ..self }
    }

    /// Signs the bundle with `signer`.
    #[must_use]
    pub fn with_signer(self, signer: Arc<dyn BundleSigner>) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// Sends the progress to `observer`.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn BundleObserver>) -> Self {
        Self { observer, ..self }
    }
}

/// Where a bundle is written.
#[non_exhaustive]
pub enum BundleTo {
    /// Nowhere: the report says what would be written.
    Nowhere,
    /// A directory that does not exist or is empty. It appears when the bundle is complete.
    Directory(PathBuf),
    /// A stream, as one tar file with the files of the directory.
    Stream(Box<dyn Write + Send>),
}

/// Signs bundles.
pub trait BundleSigner: Send + Sync {
    /// The signature of `document`, the bytes of `bundle.json`, which names everything else by its digest.
    ///
    /// # Errors
    /// Why it can't be signed.
    fn sign(&self, document: &[u8]) -> Result<Vec<u8>>;
}

/// Verifies the signatures of bundles.
pub trait BundleVerifier: Send + Sync {
    /// Accepts `signature` as one of `document`, the bytes of `bundle.json`.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn verify(&self, document: &[u8], signature: &[u8]) -> Result<()>;
}

/// Receives the progress of bundling and unbundling.
pub trait BundleObserver: Send + Sync {
    /// So many bytes are to be moved, if that is known.
    fn started(&self, bytes: u64) {
        let _ = bytes;
    }

    /// So many bytes have been moved since the last call.
    fn moved(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl BundleObserver for () {}

/// The error for a file that can't be read.
fn unreadable(path: &Path, cause: &io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ErrorKind::InvalidInput,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, path.display(), format!("cannot read it: {cause}")).on(Side::Source)
}

/// The result of bundling.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BundleReport {
    /// The version of this format: 1.
    pub schema: u32,
    /// The ID of the bundle.
    pub id: Digest,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Number of images.
    pub images: usize,
    /// The images that are left out.
    pub omitted: Vec<OmittedImage>,
    /// Number of blobs and manifests that the bundle brings.
    pub blobs: usize,
    /// Their total size in bytes.
    pub blob_bytes: u64,
    /// Number of blobs and manifests that are assumed to be present.
    pub assumed_blobs: usize,
    /// Their total size in bytes.
    pub assumed_bytes: u64,
    /// The parts; of a dry run, without their digests.
    pub parts: Vec<ReportedPart>,
    /// The total length of the parts in bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A part of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ReportedPart {
    /// Its file.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its digest, once it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Writes a bundle of the images of a directory. Blocks the thread.
///
/// An image that the directory does not have all of is left out, and the report says so. Equal input gives equal bytes.
///
/// # Errors
/// `NotFound` for an image that the directory does not have; `InvalidInput` if there is none, if a base is none, or something is in the
/// way; `Corrupt` if content does not match its digest; `Storage`.
pub fn bundle(options: &BundleOptions, to: BundleTo) -> Result<BundleReport> {
    let started = Instant::now();
    let store = Store::open_read_only(&options.dir)?;
    store.check_is_tree()?;
    let names = NameRule::of(&store, options.names.as_ref())?;
    let _lock = store.hold_off_removals(std::time::Duration::ZERO);
    let assumed = AssumedContent::read(&options.since)?;
    let plan = BundlePlan::make(&store, &names, &options.images, assumed, options.part_bytes)?;
    let omitted = plan.omitted.clone();
    let bytes = plan.bytes();
    let observer = &*options.observer;
    let signer = options.signer.as_deref();
    observer.started(plan.document.bytes_sent());
    let (document, dry_run) = match to {
        BundleTo::Nowhere => (plan.document, true),
        BundleTo::Directory(dir) => (write::to_directory(plan, &store, &dir, signer, observer)?, false),
        BundleTo::Stream(out) => (write::to_stream(plan, &store, out, signer, observer)?, false),
    };
    let (sent, assumed): (Vec<_>, Vec<_>) =
        document.content.iter().partition(|content| !content.parts.is_empty());
    let size = |all: &[&BundledContent]| all.iter().map(|content| content.size).sum();
    let part = |part: &BundlePart| ReportedPart {
        file: part.file.clone(),
        bytes: part.bytes,
        digest: (!dry_run).then_some(part.digest),
    };
    Ok(BundleReport {
        schema: 1,
        id: document.id,
        dry_run,
        images: document.images.len(),
        omitted,
        blobs: sent.len(),
        blob_bytes: size(&sent),
        assumed_blobs: assumed.len(),
        assumed_bytes: size(&assumed),
        parts: document.parts.iter().map(part).collect(),
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}
