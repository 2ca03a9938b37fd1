//! Exporting: from a tree, or straight from registries, to image layouts and archives.
//!
//! A layout is a sink like any other. An archive is a stream, which the engine can't write to out of order: the engine selects
//! what an image is made of (`select.rs`), all of that is verified where it stands, and then written. Images that come from
//! registries are saved into a tree beside the archive first, which goes when the archive is whole.

mod deferred_observer;
mod output;
mod recording_sink;

pub use output::{ExportTo, is_written_straight, open_straight};

use crate::archive::{self, ArchiveImage, Prepared};
use crate::content::retry::RetryPolicy;
use crate::content::{Place, Publication, Source};
use crate::error::{Error, ErrorKind, ErrorReport, Result};
use crate::layout::Layout;
use crate::oci::{Digest, PlatformSet, Reference};
use crate::registry::Access;
use crate::save::{ImageSaver, NameRule, SaveImage, SaveOptions, convert, sessions};
use crate::store::{Durability, Store};
use crate::transfer::{
    ArchiveStep, Engine, Image, ImageReport, IndexMode, Observer, Report, Silent, Status, TransferOptions,
    Verb, megabytes,
};
use deferred_observer::{Step, Telling, Watched, interrupted};
use output::Output;
use recording_sink::Selection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// The forms that images are exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes: one platform of each image.
    DockerArchive,
    /// An OCI image layout, in a directory.
    OciLayout,
    /// An OCI image layout in a tar file.
    OciArchive,
}

/// Where images are exported from.
#[derive(Clone)]
pub enum ExportFrom {
    /// A tree, and what images are called in it.
    Tree(PathBuf, NameRule),
    /// Their registries. For an archive they are saved into `staging` first: it is gone on with if it is there, and removed once all
    /// images are exported.
    Registries {
        /// How registries are reached.
        access: Box<Access>,
        /// A directory for what is fetched.
        staging: PathBuf,
    },
}

/// Options of an export.
#[derive(Clone)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The form.
    pub format: Format,
    /// Where the images are.
    pub from: ExportFrom,
    /// Platforms, index mode, limits.
    pub copy: TransferOptions,
    /// Receives progress events. The end of an image is reported when its content is complete at the destination.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl ExportOptions {
    /// The default options: all platforms that are there, indexes as they are, silent.
    #[must_use]
    pub fn new(format: Format, from: ExportFrom) -> Self {
        Self {
            format,
            from,
            copy: TransferOptions::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }

    /// Exports these platforms: a [`PlatformSet`], or text such as `"amd64,arm64"` or `"all"`.
    ///
    /// # Errors
    /// `InvalidInput` for text that names no platform.
    pub fn with_platforms<P>(mut self, platforms: P) -> Result<Self>
    where
        P: TryInto<PlatformSet, Error: Into<Error>>,
    {
        self.copy.platforms = platforms.try_into().map_err(Into::into)?;
        Ok(self)
    }

    /// Sends progress events to `observer`.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// Ends the run when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }
}

/// What an export came to.
#[derive(Debug)]
pub struct Exported {
    /// A row for each image. One that was to go into an archive that could not be written has failed, and `aborted` says why.
    pub report: Report,
    /// The archive's length in bytes; none when none was written.
    pub archive_bytes: Option<u64>,
}

/// Exports `images` to `to`. A failed image is a row of the report and the others are exported; if all fail, nothing is
/// written.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::export::{ExportFrom, ExportOptions, ExportTo, Format, export};
/// use saver::save::NameRule;
///
/// let from = ExportFrom::Tree("/var/lib/registry".into(), NameRule::default());
/// let options = ExportOptions::new(Format::OciArchive, from).with_platforms("amd64")?;
/// export(["nginx:1.27"], ExportTo::Path("nginx.tar".into()), options).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidInput` for names that cannot be parsed, for two images that would get the same name, and for a destination that
/// does not fit the format; `Storage` when the destination cannot be written.
pub async fn export<I>(images: I, to: ExportTo, options: ExportOptions) -> Result<Exported>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    let images = convert(images)?;
    let places = places(&images)?;
    let token = options.cancel.clone();
    let export = Export { images, places, options, token };
    match (export.options.format, to) {
        (Format::OciLayout, ExportTo::Path(dir)) => export.to_layout(&dir).await,
        (Format::OciLayout, ExportTo::Stream(_)) => {
            let why = "an image layout is a directory and cannot be written to a stream";
            Err(Error::new(ErrorKind::InvalidInput, "oci-layout", why)
                .with_hint("name a directory, or use --format oci-archive"))
        }
        (_, to) => export.to_archive(to).await,
    }
}

/// Where each image goes: no two may have one name.
fn places(images: &[SaveImage]) -> Result<Vec<Place>> {
    let mut taken: HashMap<Place, &Reference> = HashMap::new();
    let mut places = Vec::with_capacity(images.len());
    for image in images {
        let place = NameRule::Domain.place(&image.reference)?;
        if let Some(other) = taken.insert(place.clone(), &image.reference) {
            let why = format!("{other} and {} would have one name", image.reference);
            return Err(Error::new(ErrorKind::InvalidInput, &place, why).with_hint("take one of them out"));
        }
        places.push(place);
    }
    Ok(places)
}

struct Export {
    images: Vec<SaveImage>,
    places: Vec<Place>,
    options: ExportOptions,
    token: CancellationToken,
}

impl Export {
    async fn to_layout(&self, dir: &Path) -> Result<Exported> {
        let labels = self.places.iter().zip(&self.images);
        let labels = labels.filter_map(|(place, image)| Some((place.clone(), label(&image.reference)?)));
        let layout = Arc::new(Layout::create(dir, labels.collect())?);
        let engine = Engine::new(layout.clone(), self.copy_options(), Arc::new(self.telling(false)))?;
        let engine = Arc::new(engine.doing(Verb::Export));
        let report = match &self.options.from {
            ExportFrom::Tree(tree, names) => {
                let store = Store::open_read_only(tree)?;
                let images = self.in_tree(&store, names);
                engine.run(images, &self.token).await
            }
            ExportFrom::Registries { access, .. } => {
                let sessions = sessions(&self.images, access, self.options.copy.jobs);
                let image = |(place, image): (&Place, &SaveImage)| {
                    let source = sessions.with(&image.reference.registry)?;
                    Ok(self.image(source, place, image, image.reference.clone()))
                };
                let images = self.places.iter().zip(&self.images).map(image).collect::<Result<_>>()?;
                engine.run(images, &self.token).await
            }
        };
        layout.tidy();
        Ok(Exported { report: self.named(report), archive_bytes: None })
    }

    /// The engine's options. A tree may be sparse; a registry should not be.
    fn copy_options(&self) -> TransferOptions {
        let mut copy = self.options.copy.clone();
        if matches!(self.options.from, ExportFrom::Tree(..)) {
            copy.sparse = true;
            copy.retry = RetryPolicy::local();
        }
        if self.options.format == Format::DockerArchive {
            copy.index = IndexMode::Flatten;
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
            warnings: Vec::new(),
        }
    }

    /// The images as the tree has them. One that is not there fails in its turn.
    fn in_tree(&self, store: &Store, names: &NameRule) -> Vec<Image<Store>> {
        let source = Arc::new(store.clone());
        let images = self.places.iter().zip(&self.images);
        let found = images.map(|(place, asked)| {
            let mut image = self.image(source.clone(), place, asked, asked.reference.clone());
            match names.find(store, &asked.reference) {
                Ok(found) => {
                    image.reference.repository = found.repository;
                    image.reference.tag = found.tag.filter(|_| asked.reference.tag.is_some());
                }
                Err(error) => image.resolved = Some(Err(error)),
            }
            image
        });
        found.collect()
    }

    /// The report with the names that were asked for.
    fn named(&self, mut report: Report) -> Report {
        for (row, image) in report.images.iter_mut().zip(&self.images) {
            deferred_observer::name(row, &image.reference);
        }
        report
    }

    fn telling(&self, holds_back: bool) -> Telling {
        let images = self.images.iter().map(|image| image.reference.clone());
        Telling::new(self.options.observer.clone(), self.places.iter().cloned().zip(images), holds_back)
    }

    async fn to_archive(&self, to: ExportTo) -> Result<Exported> {
        let output = Output::prepare(to)?;
        let telling = Arc::new(self.telling(true));
        let exported = match &self.options.from {
            ExportFrom::Tree(tree, names) => {
                let store = Store::open_read_only(tree)?;
                self.archive(&store, names, output, telling.clone()).await?
            }
            ExportFrom::Registries { access, staging } => {
                self.through(access, staging, output, telling.clone()).await?
            }
        };
        telling.rest(&exported.report, self.places.iter());
        Ok(exported)
    }

    /// Saves the images into `staging`, and writes what is there then.
    async fn through(
        &self,
        access: &Access,
        staging: &Path,
        output: Output,
        telling: Arc<Telling>,
    ) -> Result<Exported> {
        let mut options = SaveOptions::new(staging);
        options.copy = self.copy_options();
        options.names = NameRule::Domain;
        options.durability = Durability::None;
        options.access = access.clone();
        options.cancel = self.token.clone();
        options.observer = telling;
        let saver = ImageSaver::new(options)?;
        let mut saved = self.named(saver.save(self.images.clone()).await?);
        if saved.aborted.is_some() {
            give_up(&mut saved, 0..self.images.len());
            return Ok(Exported { report: saved, archive_bytes: None });
        }
        // Of the staging tree the engine has shown its work already.
        let mut exported = self.archive(saver.store(), &NameRule::Domain, output, Arc::new(Silent)).await?;
        merge(&mut exported.report, saved);
        if exported.report.is_success() || exported.report.images.iter().all(is_final) {
            // What can't be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(staging);
        }
        Ok(exported)
    }

    /// Writes what `store` has of the images.
    async fn archive(
        &self,
        store: &Store,
        names: &NameRule,
        output: Output,
        observer: Arc<dyn Observer>,
    ) -> Result<Exported> {
        let selection = Arc::new(Selection::new(store.clone()));
        let options = TransferOptions { sparse: true, retry: RetryPolicy::local(), ..self.copy_options() };
        let engine = Engine::new(selection.clone(), options, observer)?.doing(Verb::Export);
        let mut report = self.named(Arc::new(engine).run(self.in_tree(store, names), &self.token).await);
        let (numbers, images) = self.selected(&report, selection.take());
        if images.is_empty() || report.aborted.is_some() {
            give_up(&mut report, numbers.into_iter());
            return Ok(Exported { report, archive_bytes: None });
        }
        let began = Instant::now();
        let written = self.written(images, store, output).await;
        take_time(&mut report, &numbers, began.elapsed().as_secs_f64());
        let (outcomes, archive_bytes) = match written {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::Internal => return Err(error),
            Err(error) => {
                give_up(&mut report, numbers.into_iter());
                report.aborted = Some(ErrorReport::from(&error));
                return Ok(Exported { report, archive_bytes: None });
            }
        };
        for (number, outcome) in numbers.into_iter().zip(outcomes) {
            let row = &mut report.images[number];
            if let Err(error) = outcome {
                (row.status, row.error) = (Status::Failed, Some(ErrorReport::from(&error)));
            } else if row.reference.tag.is_none() && self.options.format == Format::DockerArchive {
                row.warnings
                    .push("a digest is no name in a docker-archive: the image is there without one".into());
            }
        }
        Ok(Exported { report, archive_bytes })
    }

    /// Verifies and writes on a thread of its own. One that a reader holds up is not waited for once the run is given up.
    async fn written(&self, images: Vec<ArchiveImage>, store: &Store, output: Output) -> Result<Written> {
        let (store, format, token) = (store.clone(), self.options.format, self.token.clone());
        let (waits, observer) = (output.is_stream(), self.options.observer.clone());
        let work = move || write(&images, &store, format, output, &token, &*observer);
        tokio::select! {
            done = tokio::task::spawn_blocking(work) => done.map_err(|_| Error::internal(""))?,
            () = self.token.cancelled(), if waits => Err(interrupted()),
        }
    }

    /// What was selected, in the order of the images, and the numbers of their rows.
    fn selected(
        &self,
        report: &Report,
        mut selected: BTreeMap<String, Publication>,
    ) -> (Vec<usize>, Vec<ArchiveImage>) {
        let rows = report.images.iter().zip(&self.places).enumerate();
        let of_row = |(number, (row, place)): (usize, (&ImageReport, &Place))| {
            let content = selected.remove(&place.to_string())?;
            Some((number, ArchiveImage { name: row.reference.clone(), content }))
        };
        rows.filter_map(of_row).unzip()
    }
}

/// An archive's images are there when all of it is: its making is part of each one's time.
fn take_time(report: &mut Report, rows: &[usize], seconds: f64) {
    report.seconds += seconds;
    rows.iter().for_each(|row| report.images[*row].seconds += seconds);
}

/// What an image is listed as in a layout; none where the place tells as well.
fn label(reference: &Reference) -> Option<String> {
    let Reference { registry, repository, tag, digest } = reference;
    match (tag, digest) {
        (Some(tag), _) => Some(format!("{registry}/{repository}:{tag}")),
        (None, Some(digest)) => Some(format!("{registry}/{repository}@{digest}")),
        (None, None) => None,
    }
}

/// What became of each image that was to be written, and the archive's length.
type Written = (Vec<Result<()>>, Option<u64>);

/// Verifies and writes.
fn write(
    images: &[ArchiveImage],
    store: &Store,
    format: Format,
    output: Output,
    token: &CancellationToken,
    observer: &dyn Observer,
) -> Result<Written> {
    let room = output.room()?;
    let step = Step::begin(observer, ArchiveStep::Checking, content_size(images, store)?);
    let content = |digest: &Digest| opened(store, digest, token, Some(step));
    let prepared: Prepared = match format {
        Format::DockerArchive => archive::prepare_docker(images, &content, room.unwrap_or(u64::MAX)),
        Format::OciLayout | Format::OciArchive => archive::prepare_oci(images, &content),
    };
    step.end(!token.is_cancelled());
    if token.is_cancelled() {
        return Err(interrupted());
    }
    if prepared.count() == 0 {
        return Ok((prepared.outcomes, None));
    }
    let needed = prepared.size();
    if let Some(room) = room.filter(|room| *room < needed) {
        let (needed, room) = (megabytes(needed), megabytes(room));
        let why = format!("the archive takes {needed}, and the disk has room for {room}");
        return Err(Error::new(ErrorKind::Storage, output.name(), why)
            .with_hint("free some space, or write to another disk"));
    }
    let name = output.name().to_owned();
    let step = Step::begin(observer, ArchiveStep::Writing, needed);
    let content = |digest: &Digest| opened(store, digest, token, None);
    let written = output
        .write(token, &|bytes| step.advance(bytes), |out| prepared.write(&content, out, &name).map(drop));
    step.end(written.is_ok());
    Ok((prepared.outcomes, Some(written?)))
}

fn opened<'c>(
    store: &Store,
    digest: &Digest,
    token: &'c CancellationToken,
    step: Option<Step<'c>>,
) -> Result<Option<archive::Opened<'c>>> {
    let found = store.open_blob(digest)?;
    Ok(found.map(|(content, size)| (Box::new(Watched { content, token, step }) as Box<_>, size)))
}

/// How many bytes the content of `images` has, that of several counted once.
fn content_size(images: &[ArchiveImage], store: &Store) -> Result<u64> {
    let blobs: BTreeSet<&Digest> = images.iter().flat_map(|image| &image.content.blobs).collect();
    blobs
        .into_iter()
        .try_fold(0_u64, |sum, digest| Ok(sum.saturating_add(store.blob_size(digest)?.unwrap_or_default())))
}

/// Makes of rows `numbers` that were done such that were given up: what they were to be in is not there.
fn give_up(report: &mut Report, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let row = &mut report.images[number];
        if row.error.is_none() {
            let why = "the run ended before the archive was whole";
            let error = Error::new(ErrorKind::Cancelled, &row.reference, why);
            (row.status, row.error) = (Status::Failed, Some(ErrorReport::from(&error)));
        }
    }
}

/// Whether another try at the same would end the same way: then nothing of it is worth keeping.
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

/// What saving came to, in the report of what was written.
fn merge(report: &mut Report, saved: Report) {
    report.bytes_fetched = saved.bytes_fetched;
    report.bytes_reused = saved.bytes_reused;
    report.seconds += saved.seconds;
    for (row, saved) in report.images.iter_mut().zip(saved.images) {
        if saved.status == Status::Failed || saved.status == Status::Skipped {
            *row = saved;
        } else if row.status != Status::Failed {
            let warnings = std::mem::take(&mut row.warnings);
            (row.bytes_fetched, row.bytes_reused) = (saved.bytes_fetched, saved.bytes_reused);
            (row.attempts, row.seconds) = (saved.attempts, row.seconds + saved.seconds);
            row.warnings = saved.warnings.into_iter().chain(warnings).collect();
        }
    }
}
