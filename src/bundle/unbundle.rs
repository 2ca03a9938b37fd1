//! Unbundling: from parts into a tree.

use super::document::{BundleDocument, BundledContent, BundledImage};
use super::input::{BundleInput, InputReader, UnbundleFrom};
use super::missing::{MissingContent, RequestedImage};
use super::receive::{Receiver, is_final};
use super::report::{UnbundleReport, UnbundledImage, UnbundledStatus};
use super::{BundleObserver, BundleVerifier, publish};
use crate::content::{Publication, Sink};
use crate::error::{Error, ErrorKind, ErrorReport, Result};
use crate::save::NameRule;
use crate::store::{Durability, Store};
use futures::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How many images are published at once: they share syncs.
const CONCURRENT_IMAGES: usize = 32;
/// How long to wait for a process that removes something.
const LOCK_TIMEOUT: Duration = Duration::ZERO;

/// Options of unbundling.
#[derive(Clone)]
#[non_exhaustive]
pub struct UnbundleOptions {
    /// The directory to unbundle into; created if it does not exist.
    pub dir: PathBuf,
    /// Whether a tag may be replaced by an image from another registry or repository.
    pub replace: bool,
    /// What an image survives.
    pub durability: Durability,
    /// Verifies the signatures of the bundles; without it, none is needed.
    pub verifier: Option<Arc<dyn BundleVerifier>>,
    /// Receives the progress.
    pub observer: Arc<dyn BundleObserver>,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl UnbundleOptions {
    /// Default options for the directory `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            replace: false,
            durability: Durability::default(),
            verifier: None,
            observer: Arc::new(()),
            cancel: CancellationToken::new(),
        }
    }

    /// Lets tags be replaced by images from another registry or repository.
    #[must_use]
    pub fn with_replace(self, replace: bool) -> Self {
        Self { replace, ..self }
    }

    /// Accepts only bundles with a signature that `verifier` accepts.
    #[must_use]
    pub fn with_verifier(self, verifier: Arc<dyn BundleVerifier>) -> Self {
        Self { verifier: Some(verifier), ..self }
    }

    /// Sends the progress to `observer`.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn BundleObserver>) -> Self {
        Self { observer, ..self }
    }

    /// Ends the run when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }
}

/// Writes the content of `from` into a directory and publishes the images, if everything that they need is present then.
///
/// Parts may come in any order and in several runs; content that the directory has is not written again. A damaged part is a row of
/// the report, and what is intact of it is kept. If content is missing, no image of that bundle is published, and the report says
/// what is missing.
///
/// # Errors
/// `InvalidInput` if one of `from` is not a bundle; `Storage` if the directory can't be written; `Cancelled`.
pub async fn unbundle(from: Vec<UnbundleFrom>, options: UnbundleOptions) -> Result<UnbundleReport> {
    let started = Instant::now();
    let verifier = options.verifier.clone();
    let open = move |from| BundleInput::open(from, verifier.as_deref());
    let inputs = blocking(move || from.into_iter().map(open).collect::<Result<Vec<_>>>()).await?;
    let store = open_store(&options, inputs.iter().filter_map(BundleInput::document))?;
    store.check_usable()?;
    if inputs.iter().all(|input| input.document().is_some()) {
        let documents = inputs.iter().filter_map(BundleInput::document);
        options.observer.started(documents.map(BundleDocument::bytes_sent).sum());
    }
    // Shared: others may save at the same time, but nothing may be removed.
    let _lock = store.lock_shared(LOCK_TIMEOUT)?;
    let mut report = UnbundleReport { schema: 1, ..UnbundleReport::default() };
    let read = {
        let (store, runtime, options) = (store.clone(), Handle::current(), options.clone());
        let work = move || {
            let receiver = Receiver::new(&store, runtime, &*options.observer, options.cancel.clone());
            let mut reader = InputReader::new(&store, receiver, options.verifier.as_deref());
            inputs.into_iter().try_for_each(|input| reader.input(input))?;
            reader.finish()
        };
        blocking(work).await?
    };
    // Published by themselves; waits for that.
    store.publish(Publication { blobs: read.written, ..Publication::default() }).await?;
    report.parts = read.parts;
    report.bytes_written = read.bytes_written;
    report.bytes_present = read.bytes_present;
    // Again, since the rule of names may have come with a stream.
    let store = open_store(&options, read.documents.iter())?;
    for document in read.documents {
        report.bundles.push(document.id);
        publish_images(&store, Arc::new(document), &mut report).await?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Opens the directory with the rule of names of the bundles.
fn open_store<'d>(
    options: &UnbundleOptions,
    documents: impl Iterator<Item = &'d BundleDocument>,
) -> Result<Store> {
    let names = common_names(documents)?;
    let (store, _) = NameRule::open_store(&options.dir, names.as_ref(), options.durability, options.replace)?;
    Ok(store)
}

/// The rule of names that all bundles share.
fn common_names<'d>(documents: impl Iterator<Item = &'d BundleDocument>) -> Result<Option<NameRule>> {
    let mut common: Option<&str> = None;
    for names in documents.filter_map(|document| document.names.as_deref()) {
        if common.is_some_and(|common| common != names) {
            let why = "the bundles name images by different rules";
            return Err(Error::new(ErrorKind::InvalidInput, names, why)
                .with_hint("unbundle them into different directories"));
        }
        common = Some(names);
    }
    common.map(str::parse).transpose()
}

/// Publishes the images of a bundle, unless something is missing.
async fn publish_images(
    store: &Store,
    document: Arc<BundleDocument>,
    report: &mut UnbundleReport,
) -> Result<()> {
    let missing = {
        let (store, document) = (store.clone(), document.clone());
        blocking(move || publish::missing(&store, &document)).await?
    };
    if !missing.is_empty() {
        let row = |image: &BundledImage| UnbundledImage::new(image, UnbundledStatus::Incomplete);
        report.images.extend(document.images.iter().map(row));
        report.missing.push(missing_content(&document, missing));
        return Ok(());
    }
    let images = document.images.iter().map(|image| publish_image(store, image));
    let mut rows = futures::stream::iter(images).buffered(CONCURRENT_IMAGES);
    while let Some(row) = rows.next().await {
        report.images.push(row?);
    }
    Ok(())
}

async fn publish_image(store: &Store, image: &BundledImage) -> Result<UnbundledImage> {
    let place = image.place();
    let is_unchanged = match &place.tag {
        Some(tag) => Sink::tag(store, &place.repository, tag).await? == Some(image.digest),
        None => store.is_revision(&place.repository, &image.digest).await?,
    };
    let publication = {
        let (store, image) = (store.clone(), image.clone());
        blocking(move || publish::publication(&store, &image)).await
    };
    let published = match publication {
        Ok(publication) => store.publish(publication).await,
        Err(error) => Err(error),
    };
    match published {
        Ok(()) if is_unchanged => Ok(UnbundledImage::new(image, UnbundledStatus::Unchanged)),
        Ok(()) => Ok(UnbundledImage::new(image, UnbundledStatus::Published)),
        Err(error) if is_final(&error) => Err(error),
        Err(error) => {
            let row = UnbundledImage::new(image, UnbundledStatus::Failed);
            Ok(UnbundledImage { error: Some(ErrorReport::from(&error)), ..row })
        }
    }
}

/// Runs file-system work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Error::internal("unbundle")))
}

fn missing_content(document: &BundleDocument, content: Vec<BundledContent>) -> MissingContent {
    let image = |image: &BundledImage| RequestedImage {
        digest: image.digest,
        repository: image.repository.clone(),
        tag: image.tag.clone(),
    };
    MissingContent::new(document.id, content, document.images.iter().map(image).collect())
}
