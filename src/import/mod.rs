//! Importing: from image layouts, archives and packed charts into a tree.
//!
//! The verb finds the images in the source, names them in the tree, and hands them to the engine: an imported image
//! is verified, deduplicated and published in the same way as a saved one.

mod companions;
mod input;
mod naming;
mod referring;

pub use naming::NewName;

use crate::content::retry::RetryPolicy;
use crate::content::{Place, Resolved, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::ListedImage;
use crate::oci::{Descriptor, PlatformSet, Reference};
use crate::save::{NameRule, check_collisions, yield_short_names};
use crate::store::{Durability, Store, path};
use crate::transfer::{
    Engine, Event, Image, Observer, Report, Resolution, Silent, TransferOptions, Verb, transfer_setters,
};
use companions::Companion;
use input::{ImportInput, ImportSource};
use referring::{ListedReferrers, ReferringSource};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The name of a stream in messages.
const STREAM: &str = "stdin";

/// Options of an import.
#[derive(Clone)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The directory to import into, which a registry can serve; created if it does not exist.
    pub dir: PathBuf,
    /// Platforms and limits. Entries of an index whose content the source does not contain are skipped.
    pub transfer: TransferOptions,
    /// How images are named in the tree; `None` for the rule that it was saved with, and the default in a new one.
    pub names: Option<NameRule>,
    /// Whether a tag may be replaced by an image from another registry or repository.
    pub replace: bool,
    /// Replaces the names that the images have in the source.
    pub rename: Option<NewName>,
    /// What an imported image survives.
    pub durability: Durability,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl ImportOptions {
    transfer_setters!();

    /// Default options for an import into `dir`: all platforms, original names, no progress events.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            transfer: TransferOptions {
                sparse: true,
                attestations: true,
                retry: RetryPolicy::local(),
                ..TransferOptions::default()
            },
            names: None,
            replace: false,
            rename: None,
            durability: Durability::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }

    /// Uses these names in the directory.
    #[must_use]
    pub fn with_names(self, names: NameRule) -> Self {
        Self { names: Some(names), ..self }
    }
}

/// The source of an import.
pub enum ImportFrom {
    /// The directory of an image layout, or an archive: docker-archive or oci-archive, uncompressed or compressed
    /// with gzip or zstd; or a packed Helm chart.
    Path(PathBuf),
    /// A stream of an archive.
    Stream(Box<dyn Read + Send>),
}

/// Imports every image of `from`. A failed image is a row of the report; the others continue.
///
/// Attestations and other referrers that the source lists without a name are imported by digest, into the repository of
/// the image that they refer to.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::import::{ImportFrom, ImportOptions, import};
///
/// let options = ImportOptions::new("/var/lib/registry");
/// let report = import(ImportFrom::Path("nginx.tar".into()), options).await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidInput` when `from` is not a readable archive or layout, contains no images, or contains different images
/// that would get the same name in the directory; `Storage` when the directory cannot be used.
pub async fn import(from: ImportFrom, options: ImportOptions) -> Result<Report> {
    let token = &options.cancel;
    let name = match &from {
        ImportFrom::Path(path) => path.display().to_string(),
        ImportFrom::Stream(_) => STREAM.to_owned(),
    };
    // Opened before the tree is created, so that a wrong path does not leave a directory behind.
    let opened_name = name.clone();
    let input = blocking(&name, token, move || ImportInput::open(from, &opened_name)).await?;
    let is_new = !options.dir.exists();
    let (store, names) =
        NameRule::open_store(&options.dir, options.names.as_ref(), options.durability, options.replace)?;
    let import = Import { name, store: store.clone(), names, options: &options, token };
    let imported = import.run_locked(input).await;
    let is_empty = imported.as_ref().map_or(true, |report| report.done() == 0);
    if is_new && is_empty {
        let dir = options.dir.clone();
        // What cannot be removed is an empty directory of images, in which nothing is lost.
        let _ = tokio::task::spawn_blocking(move || remove_empty(&store, &dir)).await;
    }
    imported
}

/// Removes the directory that an import created, if nothing was saved into it.
fn remove_empty(store: &Store, dir: &Path) -> Result<()> {
    let _lock = store.lock_exclusive("import", Duration::ZERO)?;
    let is_empty = store.repositories()?.is_empty() && store.blobs()?.is_empty();
    if is_empty && store.internal_files()?.partial.files == 0 {
        let failed = |cause| Error::storage(dir.display(), "remove the directory", cause);
        std::fs::remove_dir_all(dir.join(path::INTERNAL)).map_err(failed)?;
        // Fails if anything else is in it.
        std::fs::remove_dir(dir).map_err(failed)?;
    }
    Ok(())
}

/// Runs blocking work on a thread of its own, and stops waiting for it when the run is cancelled.
async fn blocking<T: Send + 'static>(
    name: &str,
    token: &CancellationToken,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => done.map_err(|_| Error::internal(name))?.map_err(as_invalid_input),
        () = token.cancelled() => Err(Error::new(ErrorKind::Cancelled, "", "the run was interrupted")),
    }
}

/// A source that is damaged as a whole is as unusable as one of another format, and gets the same exit code.
fn as_invalid_input(error: Error) -> Error {
    if error.kind() == ErrorKind::Corrupt {
        error.with_kind(ErrorKind::InvalidInput).on(Side::Source)
    } else {
        error
    }
}

/// One import, once its source is open.
struct Import<'a> {
    /// The name of the source in messages.
    name: String,
    store: Store,
    names: NameRule,
    options: &'a ImportOptions,
    token: &'a CancellationToken,
}

impl Import<'_> {
    /// Imports the images of `input`. Others may save into the directory at the same time, but nothing may be removed.
    async fn run_locked(&self, input: ImportInput) -> Result<Report> {
        let _lock = self.store.lock_shared(Duration::ZERO)?;
        let dir = self.options.dir.clone();
        let name = self.name.clone();
        let source = blocking(&self.name, self.token, move || input.into_source(&name, &dir)).await?;
        match source {
            ImportSource::Layout(layout, images) => self.run(layout, images).await,
            ImportSource::Chart(chart, images) => self.run(chart, images).await,
            ImportSource::Archive(archive) => {
                let images = archive.images().to_vec();
                self.run(archive, images).await
            }
        }
    }

    async fn run<S: Source>(&self, source: S, listed: Vec<ListedImage>) -> Result<Report> {
        let (named, companions) = companions::split(&source, listed).await;
        let (named, by_tag) = companions::take_tagged(&source, named).await;
        let (companions, referrers): (Vec<_>, Vec<_>) =
            companions.into_iter().partition(|companion| companion.is_attestation);
        let mut listed = ListedReferrers { by_tag, ..ListedReferrers::default() };
        for referrer in referrers {
            listed.by_subject.entry(referrer.subject).or_default().push(referrer.root);
        }
        let source = Arc::new(ReferringSource::new(source, listed));
        let references = naming::references(&self.name, &named, self.options.rename.as_ref())?;
        let mut images = Vec::with_capacity(named.len() + companions.len());
        for (listed, reference) in named.iter().zip(references) {
            let resolved = verified_root(listed, &reference)
                .map(|root| Resolved { digest: root.digest, manifest: None });
            images.push(Image {
                source: source.clone(),
                place: self.names.place(&reference)?,
                alias: self.names.alias(&reference),
                reference,
                platforms: None,
                resolved: Some(Resolution::Known(resolved)),
                pinned: None,
                origin: listed.reference.clone(),
                warnings: Vec::new(),
            });
        }
        yield_short_names(&mut images);
        check_collisions(&images, self.options.transfer.index)?;
        self.add_companions(&mut images, &companions);
        let engine = Engine::new(
            Arc::new(self.store.clone()),
            self.options.transfer.clone(),
            self.options.observer.clone(),
        )?;
        Ok(Arc::new(engine.doing(Verb::Import)).run(images, self.token).await)
    }

    /// Adds attestations and referrers, by digest, to the repositories of the images that they refer to.
    fn add_companions<S>(&self, images: &mut Vec<Image<S>>, companions: &[Companion]) {
        let keep = |companion: &&Companion| self.options.transfer.attestations || !companion.is_attestation;
        let left_out = companions.len() - companions.iter().filter(keep).count();
        if left_out > 0 {
            let message = format!("{}: {left_out} attestations are left out", self.name);
            self.options.observer.event(&Event::Warning { reference: None, message: &message });
        }
        for companion in companions.iter().filter(keep) {
            for subject in &companion.subjects {
                let Some(image) = images.get(*subject) else { continue };
                let digest = companion.root.digest;
                let without_tag = |place: &Place| Place { repository: place.repository.clone(), tag: None };
                let companion = Image {
                    source: image.source.clone(),
                    place: without_tag(&image.place),
                    alias: image.alias.as_ref().map(without_tag),
                    reference: Reference { tag: None, digest: Some(digest), ..image.reference.clone() },
                    // Their platform, if they state one, is not that of an image.
                    platforms: Some(PlatformSet::All),
                    resolved: Some(Resolution::Known(Ok(Resolved { digest, manifest: None }))),
                    pinned: None,
                    origin: None,
                    warnings: Vec::new(),
                };
                let known = |image: &Image<S>| {
                    image.place == companion.place && image.reference.digest == companion.reference.digest
                };
                if !images.iter().any(known) {
                    images.push(companion);
                }
            }
        }
    }
}

/// The root of a listed image, which must match the digest in `reference` if that has one.
fn verified_root(listed: &ListedImage, reference: &Reference) -> Result<Descriptor> {
    let root = listed.root.clone()?;
    match &reference.digest {
        Some(named) if *named != root.digest => {
            let message = format!("the name says {named}, the content is {}", root.digest);
            Err(Error::new(ErrorKind::Corrupt, reference, message).on(Side::Source))
        }
        _ => Ok(root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn digest_in_name_must_match_content() {
        let root = Descriptor::new("", Digest::of(b"x"), 1);
        for (digest, matches) in [(Digest::of(b"x"), true), (Digest::of(b"y"), false)] {
            for name in ["q.io/a", "q.io/a:1"] {
                let label = format!("{name}@{digest}");
                let listed = ListedImage::full(&label, Ok(root.clone()));
                let verified = verified_root(&listed, listed.reference.as_ref().unwrap());
                assert_eq!(verified.is_ok(), matches, "{label}");
                if let Err(error) = verified {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert!(error.to_string().contains(&label), "{error}");
                }
            }
        }
    }
}
