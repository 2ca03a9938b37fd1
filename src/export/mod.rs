//! Exporting: from a tree, or directly from registries, to image layouts and archives.
//!
//! A layout is a sink like any other. An archive is a stream, which the engine cannot write out of order: the
//! engine selects the content of the images (`recording_sink.rs`), which is then verified in the tree and written.
//! Images from registries are first saved into a staging tree next to the archive, which is removed once the
//! archive is complete.

mod deferred_observer;
mod options;
mod output;
mod recording_sink;

pub use crate::oci::layout::RefNameStyle;
pub use options::{ExportFrom, ExportOptions, Exported, Format};
pub use output::{ExportTo, is_written_in_place, open_in_place};

use crate::archive::{self, ArchiveImage, ArchivePlan};
use crate::content::retry::RetryPolicy;
use crate::content::{Place, Publication, Source};
use crate::error::{Error, ErrorKind, ErrorReport, Result};
use crate::layout::Layout;
use crate::oci::layout::EntryName;
use crate::oci::{Digest, Reference, Tag};
use crate::registry::Access;
use crate::save::{ImageSaver, NameRule, SaveImage, SaveOptions, convert, sessions};
use crate::store::{Durability, Store};
use crate::transfer::{
    ArchiveStep, Engine, Image, ImageReport, IndexMode, Observer, ReferrerKinds, Report, Resolution, Silent,
    Status, TransferOptions, Verb, megabytes,
};
use deferred_observer::{ArchiveProgress, DeferredObserver, ObservedReader, interrupted};
use output::Output;
use recording_sink::RecordingSink;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Exports `images` to `to`. A failed image is a row of the report and the others are exported; if all fail, nothing is
/// written.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::export::{ExportFrom, ExportOptions, ExportTo, Format, export};
///
/// let from = ExportFrom::Tree("/var/lib/registry".into(), None);
/// let options = ExportOptions::new(Format::OciArchive, from).with_platforms("amd64")?;
/// export(["nginx:1.27"], ExportTo::Path("nginx.tar".into()), options).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidInput` for names that cannot be parsed, for two images that would get the same name, and for a
/// destination that does not fit the format; `Storage` when the destination cannot be written.
pub async fn export<I>(images: I, to: ExportTo, options: ExportOptions) -> Result<Exported>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    let mut images: Vec<SaveImage> = convert(images)?;
    let requested = images.iter().map(|image| image.reference.clone()).collect();
    if let ExportFrom::Tree(dir, names) = &options.from {
        let store = Store::open_read_only(dir)?;
        let names = NameRule::of(&store, names.as_ref())?;
        for image in &mut images {
            use_source_name(&mut image.reference, &store, &names)?;
        }
    }
    let places = places(&images, options.ref_names)?;
    let token = options.cancel.clone();
    let export = Export { images, requested, places, options, token };
    match (export.options.format, to) {
        (Format::OciLayout, ExportTo::Path(dir)) => export.to_layout(&dir).await,
        (Format::OciLayout, ExportTo::Stream(_)) => {
            let message = "an image layout is a directory and cannot be written to a stream";
            Err(Error::new(ErrorKind::InvalidInput, "oci-layout", message)
                .with_hint("name a directory, or use --format oci-archive"))
        }
        (_, to) => export.to_archive(to).await,
    }
}

/// Replaces the name of an image by the one that it was saved from, if that is recorded.
fn use_source_name(reference: &mut Reference, store: &Store, names: &NameRule) -> Result<()> {
    let Ok(place) = names.find(store, reference) else { return Ok(()) };
    let digest = match (&reference.digest, &place.tag) {
        (Some(digest), _) => Some(*digest),
        (None, Some(tag)) => store.read_tag(&place.repository, tag)?,
        (None, None) => None,
    };
    let Some(digest) = digest else { return Ok(()) };
    if let Some(record) = store.source_of(&place, &digest)? {
        reference.registry = record.source.registry;
        reference.repository = record.source.repository;
        reference.tag = record.source.tag;
    }
    Ok(())
}

/// The place of each image. No two may have the same name, or the same tag if entries are named by tag.
fn places(images: &[SaveImage], ref_names: RefNameStyle) -> Result<Vec<Place>> {
    let mut taken: HashMap<Place, &Reference> = HashMap::new();
    let mut tags: HashMap<&Tag, &Reference> = HashMap::new();
    let mut places = Vec::with_capacity(images.len());
    for image in images {
        let place = NameRule::Domain.place(&image.reference)?;
        if let Some(other) = taken.insert(place.clone(), &image.reference) {
            let message = format!("{other} and {} would have the same name", image.reference);
            return Err(Error::new(ErrorKind::InvalidInput, &place, message).with_hint("remove one of them"));
        }
        if ref_names == RefNameStyle::Tag
            && let Some(tag) = &image.reference.tag
            && let Some(other) = tags.insert(tag, &image.reference)
        {
            let message = format!("{other} and {} have the same tag", image.reference);
            return Err(Error::new(ErrorKind::InvalidInput, "--ref-name tag", message)
                .with_hint("export them separately, or use --ref-name full"));
        }
        places.push(place);
    }
    Ok(places)
}

struct Export {
    /// The images, by the names that they were saved from where these are recorded.
    images: Vec<SaveImage>,
    /// Their names as requested.
    requested: Vec<Reference>,
    places: Vec<Place>,
    options: ExportOptions,
    token: CancellationToken,
}

impl Export {
    async fn to_layout(&self, dir: &Path) -> Result<Exported> {
        let names = self.places.iter().zip(&self.images);
        let names = names.map(|(place, image)| (place.clone(), self.entry_name(&image.reference)));
        let names = names.collect();
        let path = dir.to_owned();
        let layout = Arc::new(blocking(move || Layout::create(&path, names)).await?);
        let engine = Engine::new(layout.clone(), self.copy_options(), Arc::new(self.observer(false)))?;
        let engine = Arc::new(engine.doing(Verb::Export));
        let report = match &self.options.from {
            ExportFrom::Tree(tree, names) => {
                let store = Store::open_read_only(tree)?;
                let names = NameRule::of(&store, names.as_ref())?;
                let images = self.tree_images(&store, &names);
                engine.run(images, &self.token).await
            }
            ExportFrom::Registries { access, .. } => {
                let sessions = sessions(&self.images, access, self.options.transfer.jobs);
                let image = |(place, image): (&Place, &SaveImage)| {
                    let source = sessions.with(&image.reference.registry)?;
                    Ok(self.image(source, place, image, image.reference.clone()))
                };
                let images = self.places.iter().zip(&self.images).map(image).collect::<Result<_>>()?;
                engine.run(images, &self.token).await
            }
        };
        blocking(move || {
            layout.tidy();
            Ok(())
        })
        .await?;
        Ok(Exported { report: self.with_names(report), archive_bytes: None })
    }

    fn entry_name(&self, reference: &Reference) -> EntryName {
        EntryName::new(reference, self.options.ref_names)
    }

    /// The engine's options. A tree may be sparse; an index in a registry is expected to be complete.
    fn copy_options(&self) -> TransferOptions {
        let mut copy = self.options.transfer.clone();
        if matches!(self.options.from, ExportFrom::Tree(..)) {
            copy.sparse = true;
            copy.retry = RetryPolicy::local();
        }
        if self.options.format == Format::DockerArchive {
            copy.index = IndexMode::Flatten;
            copy.referrers.kinds = ReferrerKinds::None;
        }
        copy
    }

    fn image<S: Source>(
        &self,
        source: Arc<S>,
        place: &Place,
        image: &SaveImage,
        reference: Reference,
    ) -> Image<S> {
        Image {
            source,
            place: place.clone(),
            alias: None,
            reference,
            platforms: image.platforms.clone(),
            resolved: None,
            pinned: None,
            origin: None,
            warnings: Vec::new(),
        }
    }

    /// The images by their names in the tree. A missing one fails when the engine reaches it.
    fn tree_images(&self, store: &Store, names: &NameRule) -> Vec<Image<Store>> {
        let source = Arc::new(store.clone());
        let images = self.places.iter().zip(&self.images).zip(&self.requested);
        let found = images.map(|((place, image), requested)| {
            let mut image = self.image(source.clone(), place, image, image.reference.clone());
            match names.find(store, requested) {
                Ok(found) => {
                    image.reference.repository = found.repository;
                    image.reference.tag = found.tag.filter(|_| requested.tag.is_some());
                }
                Err(error) => image.resolved = Some(Resolution::Known(Err(error))),
            }
            image
        });
        found.collect()
    }

    /// The report with the requested names.
    fn with_names(&self, mut report: Report) -> Report {
        for (row, image) in report.images.iter_mut().zip(&self.images) {
            deferred_observer::set_name(row, &image.reference);
        }
        report
    }

    fn observer(&self, deferred: bool) -> DeferredObserver {
        let names = self.images.iter().map(|image| image.reference.clone());
        DeferredObserver::new(self.options.observer.clone(), self.places.iter().cloned().zip(names), deferred)
    }

    async fn to_archive(&self, to: ExportTo) -> Result<Exported> {
        let output = blocking(move || Output::open(to)).await?;
        let observer = Arc::new(self.observer(true));
        let exported = match &self.options.from {
            ExportFrom::Tree(tree, names) => {
                let store = Store::open_read_only(tree)?;
                let names = NameRule::of(&store, names.as_ref())?;
                self.archive(&store, &names, output, observer.clone()).await?
            }
            ExportFrom::Registries { access, staging } => {
                self.archive_from_registries(access, staging, output, observer.clone()).await?
            }
        };
        observer.finish(&exported.report, self.places.iter());
        Ok(exported)
    }

    /// Saves the images into `staging`, and archives them from there.
    async fn archive_from_registries(
        &self,
        access: &Access,
        staging: &Path,
        output: Output,
        observer: Arc<DeferredObserver>,
    ) -> Result<Exported> {
        let mut options = SaveOptions::new(staging);
        options.transfer = self.copy_options();
        options.names = Some(NameRule::Domain);
        options.durability = Durability::None;
        options.access = access.clone();
        options.cancel = self.token.clone();
        options.observer = observer;
        let saver = ImageSaver::new(options)?;
        let mut saved = self.with_names(saver.save(self.images.clone()).await?);
        if saved.aborted.is_some() {
            mark_cancelled(&mut saved, 0..self.images.len());
            return Ok(Exported { report: saved, archive_bytes: None });
        }
        // Saving has reported the progress already.
        let mut exported = self.archive(saver.store(), &NameRule::Domain, output, Arc::new(Silent)).await?;
        merge(&mut exported.report, saved);
        if exported.report.is_success() || exported.report.images.iter().all(is_final) {
            let staging = staging.to_owned();
            // A leftover does no harm: the next export resumes from it.
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(staging)).await;
        }
        Ok(exported)
    }

    /// Archives the images that `store` holds.
    async fn archive(
        &self,
        store: &Store,
        names: &NameRule,
        output: Output,
        observer: Arc<dyn Observer>,
    ) -> Result<Exported> {
        let sink = Arc::new(RecordingSink::new(store.clone()));
        let options = TransferOptions { sparse: true, retry: RetryPolicy::local(), ..self.copy_options() };
        let engine = Engine::new(sink.clone(), options, observer)?.doing(Verb::Export);
        let run = Arc::new(engine).run(self.tree_images(store, names), &self.token).await;
        let mut report = self.with_names(run);
        let (rows, images) = self.recorded_images(&report, sink.take());
        if images.is_empty() || report.aborted.is_some() {
            mark_cancelled(&mut report, rows.into_iter());
            return Ok(Exported { report, archive_bytes: None });
        }
        let started = Instant::now();
        let written = self.write(images, store, output).await;
        add_time(&mut report, &rows, started.elapsed().as_secs_f64());
        let WrittenArchive { outcomes, bytes } = match written {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::Internal => return Err(error),
            Err(error) => {
                mark_cancelled(&mut report, rows.into_iter());
                report.aborted = Some(ErrorReport::from(&error));
                return Ok(Exported { report, archive_bytes: None });
            }
        };
        for (row, outcome) in rows.into_iter().zip(outcomes) {
            let row = &mut report.images[row];
            if let Err(error) = outcome {
                row.status = Status::Failed;
                row.error = Some(ErrorReport::from(&error));
            } else if row.reference.tag.is_none() && self.options.format == Format::DockerArchive {
                row.warnings
                    .push("the image has no name in the docker-archive: it was requested by digest".into());
            }
        }
        Ok(Exported { report, archive_bytes: bytes })
    }

    /// Verifies and writes the archive on a thread of its own. When the run is cancelled, a thread that is blocked
    /// on the reader of a stream is not waited for.
    async fn write(
        &self,
        images: Vec<ArchiveImage>,
        store: &Store,
        output: Output,
    ) -> Result<WrittenArchive> {
        let may_block = output.is_stream();
        let writer = ArchiveWriter {
            images,
            store: store.clone(),
            format: self.options.format,
            token: self.token.clone(),
            observer: self.options.observer.clone(),
        };
        tokio::select! {
            written = blocking(move || writer.write(output)) => written,
            () = self.token.cancelled(), if may_block => Err(interrupted()),
        }
    }

    /// The recorded images in order, and the positions of their rows.
    fn recorded_images(
        &self,
        report: &Report,
        mut recorded: BTreeMap<String, Publication>,
    ) -> (Vec<usize>, Vec<ArchiveImage>) {
        let rows = report.images.iter().zip(&self.places).enumerate();
        let of_row = |(number, (row, place)): (usize, (&ImageReport, &Place))| {
            let content = recorded.remove(&place.to_string())?;
            let name = self.entry_name(&row.reference);
            Some((number, ArchiveImage { reference: row.reference.clone(), name, content }))
        };
        rows.filter_map(of_row).unzip()
    }
}

/// Runs blocking work on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("export"))?
}

/// Adds the time for writing the archive to each of its images: none of them is complete before it is.
fn add_time(report: &mut Report, rows: &[usize], seconds: f64) {
    report.seconds += seconds;
    rows.iter().for_each(|row| report.images[*row].seconds += seconds);
}

/// An archive that was written.
struct WrittenArchive {
    /// The result for each image.
    outcomes: Vec<Result<()>>,
    /// The archive's length; `None` if no image was left to write.
    bytes: Option<u64>,
}

/// Writes images of a tree into an archive. Blocking.
struct ArchiveWriter {
    images: Vec<ArchiveImage>,
    store: Store,
    format: Format,
    token: CancellationToken,
    observer: Arc<dyn Observer>,
}

impl ArchiveWriter {
    fn write(&self, output: Output) -> Result<WrittenArchive> {
        let free_space = output.free_space()?;
        let plan = self.plan(free_space.unwrap_or(u64::MAX))?;
        if plan.image_count() == 0 {
            return Ok(WrittenArchive { outcomes: plan.outcomes, bytes: None });
        }
        let needed = plan.size();
        if let Some(free) = free_space.filter(|free| *free < needed) {
            let message = format!("the archive needs {}, {} are free", megabytes(needed), megabytes(free));
            return Err(Error::new(ErrorKind::Storage, output.name(), message)
                .with_hint("free some space, or write to another disk"));
        }
        let name = output.name().to_owned();
        let progress = ArchiveProgress::start(&*self.observer, ArchiveStep::Writing, needed);
        let content = |digest: &Digest| self.open(digest, None);
        let advanced = |bytes| progress.advance(bytes);
        let written = output.write(&self.token, &advanced, |out| plan.write(&content, out, &name).map(drop));
        progress.finish(written.is_ok());
        Ok(WrittenArchive { outcomes: plan.outcomes, bytes: Some(written?) })
    }

    /// Reads and verifies the content of the archive.
    fn plan(&self, free_space: u64) -> Result<ArchivePlan> {
        let size = self.content_size()?;
        let progress = ArchiveProgress::start(&*self.observer, ArchiveStep::Checking, size);
        let content = |digest: &Digest| self.open(digest, Some(progress));
        let plan = match self.format {
            Format::DockerArchive => archive::plan_docker(&self.images, &content, free_space),
            Format::OciLayout | Format::OciArchive => archive::plan_oci(&self.images, &content),
        };
        progress.finish(!self.token.is_cancelled());
        if self.token.is_cancelled() { Err(interrupted()) } else { Ok(plan) }
    }

    fn open<'a>(
        &'a self,
        digest: &Digest,
        progress: Option<ArchiveProgress<'a>>,
    ) -> Result<Option<archive::OpenedContent<'a>>> {
        let Some((content, size)) = self.store.open_blob(digest)? else { return Ok(None) };
        Ok(Some((Box::new(ObservedReader { content, token: &self.token, progress }), size)))
    }

    /// The total size of the images' blobs, each counted once.
    fn content_size(&self) -> Result<u64> {
        let blobs: BTreeSet<&Digest> = self.images.iter().flat_map(|image| &image.content.blobs).collect();
        let mut sum: u64 = 0;
        for digest in blobs {
            sum = sum.saturating_add(self.store.blob_size(digest)?.unwrap_or_default());
        }
        Ok(sum)
    }
}

/// Marks successful rows as cancelled, because their archive was not written.
fn mark_cancelled(report: &mut Report, rows: impl Iterator<Item = usize>) {
    for row in rows {
        let row = &mut report.images[row];
        if row.error.is_none() {
            let message = "the run ended before the archive was complete";
            let error = Error::new(ErrorKind::Cancelled, &row.reference, message);
            row.status = Status::Failed;
            row.error = Some(ErrorReport::from(&error));
        }
    }
}

/// Whether another attempt would fail in the same way, so that there is nothing to resume.
fn is_final(row: &ImageReport) -> bool {
    let kind = row.error.as_ref().map(|failure| failure.kind);
    matches!(
        kind,
        Some(
            ErrorKind::NotFound
                | ErrorKind::PlatformNotFound
                | ErrorKind::InvalidInput
                | ErrorKind::Unsupported
        )
    )
}

/// Adds the results of saving to the report of the archive.
fn merge(report: &mut Report, saved: Report) {
    report.bytes_fetched = saved.bytes_fetched;
    report.bytes_reused = saved.bytes_reused;
    report.seconds += saved.seconds;
    for (row, saved) in report.images.iter_mut().zip(saved.images) {
        if saved.status == Status::Failed || saved.status == Status::Skipped {
            *row = saved;
        } else if row.status != Status::Failed {
            let warnings = std::mem::take(&mut row.warnings);
            row.bytes_fetched = saved.bytes_fetched;
            row.bytes_reused = saved.bytes_reused;
            row.attempts = saved.attempts;
            row.seconds += saved.seconds;
            row.warnings = saved.warnings.into_iter().chain(warnings).collect();
        }
    }
}
