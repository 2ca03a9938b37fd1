//! `saver save`, which is also `saver` without a command.

use crate::chart::ChartRepositories;
use crate::cli::args::images::SelectionArgs;
use crate::cli::args::save::{DurabilityArg, RunArgs, SaveArgs};
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failed_list::not_saved;
use crate::cli::ui::failures::FailedImage;
use crate::cli::ui::output_files::{OutputFile, OutputFiles};
use crate::cli::ui::run::RunDisplay;
use crate::cli::ui::wording::SAVING;
use crate::cli::{grammar, lists, locks, registry_args, selections};
use crate::error::Result;
use crate::list::{ImageList, ListEntry, ListedChart, LockFormat, SelectedRepository};
use crate::oci::{Registry, Tag};
use crate::save::{ImageSaver, SaveImage, SaveOptions, pinned_content, resolve_charts};
use crate::store::Durability;
use crate::transfer::Report;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Saves the images of lists and of the command line.
///
/// # Errors
/// `InvalidInput` naming the option or list that is wrong; whatever keeps the run from continuing.
pub(crate) async fn run(args: &SaveArgs, context: &Context<'_>) -> Result<Exit> {
    lists::require_any(&args.lists, [&args.images, &args.rules.rules], "save")?;
    if let Some(error) = args.images.iter().find_map(|image| grammar::list_file(image)) {
        return Err(error);
    }
    let dir = args.dir.path()?;
    lists::require_one_reader_of_stdin(&args.lists, args.run.fetch.registry.password_stdin)?;
    let list = lists::read_with_rules(&args.lists.list, &args.images, &args.rules.rules, context)?;
    let lock = args.lock.lock.as_deref().filter(|_| !args.dry_run.dry_run);
    let lock_options = if args.lock.locked { Some(locks::require(&list)?) } else { None };
    let mut job = SaveJob::resolve_with(&args.run, dir, list, lock, context)?;
    if let Some(options) = lock_options {
        locks::apply(&options, &job.entries, &mut job.options.transfer)?;
        job.is_locked = true;
    }
    within(args.run.fetch.registry.timeout, job.select_tags(args.selection, context)).await?;
    job.run(&args.run, args.dry_run.dry_run, context).await
}

/// A resolved run: everything that can be wrong before a registry is used has been checked.
pub(crate) struct SaveJob {
    entries: Vec<ListEntry>,
    selections: Vec<SelectedRepository>,
    charts: Vec<ListedChart>,
    options: SaveOptions,
    files: OutputFiles,
    /// The lock file to write.
    lock: Option<OutputFile>,
    /// Whether the entries are those of a lock file, whose content they must have.
    is_locked: bool,
}

impl SaveJob {
    /// A run that saves the images of `list` into `dir`.
    ///
    /// # Errors
    /// `InvalidInput` naming the option that is wrong.
    pub(crate) fn resolve(
        args: &RunArgs,
        dir: &Path,
        list: ImageList,
        context: &Context<'_>,
    ) -> Result<Self> {
        Self::resolve_with(args, dir, list, None, context)
    }

    /// As [`resolve`](Self::resolve), and writes what was saved to the lock file `lock`.
    fn resolve_with(
        args: &RunArgs,
        dir: &Path,
        list: ImageList,
        lock: Option<&Path>,
        context: &Context<'_>,
    ) -> Result<Self> {
        if lock.is_some() {
            lists::refuse_charts(&list, "a lock file cannot pin charts of Helm repositories")?;
        }
        let mut options = SaveOptions::new(dir);
        let selected = list.selections.iter().map(|one| one.entry(Tag::latest()));
        let requested: Vec<ListEntry> = list.entries.iter().cloned().chain(selected).collect();
        options.transfer = args.fetch.options(&requested)?;
        options.transfer.policy = args.policy.read()?;
        options.names = args.names.rule()?;
        options.replace = args.replace.replace;
        options.durability = match args.durability.durability {
            DurabilityArg::Batch => Durability::Batch,
            DurabilityArg::None => Durability::None,
        };
        let mut registries: BTreeSet<Registry> =
            requested.iter().map(|entry| entry.reference.registry.clone()).collect();
        for one in &list.charts {
            registries.insert(one.chart.registry()?);
        }
        options.access = registry_args::resolve(&args.fetch.registry, context, &registries)?;
        let failed_list = args.failed.failed_list.as_deref();
        let files = OutputFiles::prepare(lock.map(|lock| ("--lock", lock)), &args.report, failed_list)?;
        let lock = lock.map(|path| OutputFile::prepare("--lock", path)).transpose()?;
        let ImageList { entries, selections, charts, .. } = list;
        Ok(Self { entries, selections, charts, options, files, lock, is_locked: false })
    }

    /// Replaces the selections of the lists by the images that they select.
    async fn select_tags(&mut self, args: SelectionArgs, context: &Context<'_>) -> Result<()> {
        let (access, retry) = (&self.options.access, &self.options.transfer.retry);
        let selections = std::mem::take(&mut self.selections);
        let entries = std::mem::take(&mut self.entries);
        self.entries = selections::resolve(entries, selections, args, (access, retry), context).await?;
        Ok(())
    }

    /// The images to save, with the charts of repositories.
    async fn images(&mut self) -> Result<Vec<SaveImage>> {
        let repositories =
            ChartRepositories::new(self.options.access.clone(), self.options.transfer.retry.clone());
        let mut images: Vec<SaveImage> = self.entries.iter().map(|entry| self.image(entry)).collect();
        for (entry, image) in resolve_charts(std::mem::take(&mut self.charts), repositories).await? {
            self.entries.push(entry);
            images.push(image);
        }
        Ok(images)
    }

    /// Runs it, and shows the result of each image.
    ///
    /// # Errors
    /// Whatever keeps the run from continuing.
    pub(crate) async fn run(mut self, args: &RunArgs, dry_run: bool, context: &Context<'_>) -> Result<Exit> {
        let images = self.images().await?;
        let display = RunDisplay::start(
            SAVING,
            args.report.progress,
            std::mem::take(&mut self.files),
            args.fetch.registry.timeout,
            context,
        )?;
        self.options.observer = display.observer();
        self.options.cancel = display.cancel();
        if dry_run {
            let created = CreatedDirectories::before(&self.options.dir);
            let saver = ImageSaver::new(self.options)?;
            let plan = saver.plan(images).await?;
            let free = saver.store().free_space().ok().flatten();
            drop(created);
            let failed = not_saved(&FailedImage::of_plan(&plan), &self.entries);
            return display.planned(&plan, free, Some(failed));
        }
        let saver = ImageSaver::new(self.options.clone())?;
        let report = saver.save(images).await?;
        let failed = not_saved(&FailedImage::of_report(&report), &self.entries);
        let exit = display.finished(&report, Some(failed))?;
        self.write_lock(&report, context)?;
        Ok(exit)
    }

    fn image(&self, entry: &ListEntry) -> SaveImage {
        let pinned = entry.lock.as_deref().filter(|_| self.is_locked).map(pinned_content);
        SaveImage { pinned: pinned.map(Arc::new), ..SaveImage::from(entry.clone()) }
    }

    /// Writes the lock file, unless an image failed: a lock file without it would be taken for the whole.
    fn write_lock(self, report: &Report, context: &Context<'_>) -> Result<()> {
        let Some(file) = self.lock else { return Ok(()) };
        if !report.is_success() {
            context.warn("the lock file was not written, because not all images were saved");
            return Ok(());
        }
        let lock = locks::of_report(&self.options.transfer, &self.entries, report);
        file.finish(lock.to_text(LockFormat::Plain).as_bytes())
    }
}

/// The directories that opening a tree creates. A dry run removes them again.
struct CreatedDirectories(Vec<PathBuf>);

impl CreatedDirectories {
    fn before(dir: &Path) -> Self {
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        Self(dir.ancestors().take_while(is_missing).map(Path::to_owned).collect())
    }
}

impl Drop for CreatedDirectories {
    fn drop(&mut self) {
        for dir in &self.0 {
            // A directory that is not empty stays.
            let _ = std::fs::remove_dir(dir);
        }
    }
}
