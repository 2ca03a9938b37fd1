//! `saver save`, which is also `saver` without a command.

use crate::cli::args::missing_option;
use crate::cli::args::platforms::IndexArg;
use crate::cli::args::save::{DurabilityArg, RunArgs, SaveArgs};
use crate::cli::args::transfer::retry_policy;
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failed_list::not_saved;
use crate::cli::ui::failures::FailedImage;
use crate::cli::ui::output_files::OutputFiles;
use crate::cli::ui::run::RunDisplay;
use crate::cli::ui::wording::SAVING;
use crate::cli::{grammar, lists, registry_args};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, ImageList, ListEntry, SelectedRepository};
use crate::oci::{PlatformSet, Tag};
use crate::save::{ImageSaver, ResolvedSelection, SaveImage, SaveOptions, resolve_selections};
use crate::store::Durability;
use crate::transfer::TransferOptions;
use std::path::{Path, PathBuf};

/// Saves the images of lists and of the command line.
///
/// # Errors
/// `InvalidInput` naming the option or list that is wrong; whatever keeps the run from continuing.
pub(crate) async fn run(args: &SaveArgs, context: &Context<'_>) -> Result<Exit> {
    lists::require_any(&args.lists, &args.images, "save")?;
    if let Some(error) = args.images.iter().find_map(|image| grammar::list_file(image)) {
        return Err(error);
    }
    let dir = args.dir.path()?;
    lists::require_one_reader_of_stdin(&args.lists, args.run.registry.password_stdin)?;
    let list = lists::read_list(&args.lists.list, &args.images, context)?;
    let mut job = SaveJob::resolve(&args.run, dir, list, context)?;
    within(args.run.registry.timeout, job.select_tags(args.max_images, context)).await?;
    job.run(&args.run, args.dry_run.dry_run, context).await
}

/// A resolved run: everything that can be wrong before a registry is used has been checked.
pub(crate) struct SaveJob {
    entries: Vec<ListEntry>,
    selections: Vec<SelectedRepository>,
    options: SaveOptions,
    files: OutputFiles,
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
        let mut options = SaveOptions::new(dir);
        options.transfer = transfer_options(args);
        let selected = list.selections.iter().map(|one| one.entry(Tag::latest()));
        let requested: Vec<ListEntry> = list.entries.iter().cloned().chain(selected).collect();
        options.transfer.platforms = platforms(args, &requested)?;
        options.names = args.names.rule()?;
        options.replace = args.replace.replace;
        options.durability = match args.durability.durability {
            DurabilityArg::Batch => Durability::Batch,
            DurabilityArg::None => Durability::None,
        };
        let registries = requested.iter().map(|entry| entry.reference.registry.clone()).collect();
        options.access = registry_args::resolve(&args.registry, context, &registries)?;
        let failed_list = args.failed.failed_list.as_deref();
        let files = OutputFiles::prepare(None, args.report.report.as_deref(), failed_list)?;
        Ok(Self { entries: list.entries, selections: list.selections, options, files })
    }

    /// Replaces the selections of the lists by the images that they select.
    ///
    /// # Errors
    /// Those of listing tags, `NotFound` if a selection selects nothing, `InvalidInput` if all select more than `max` images.
    async fn select_tags(&mut self, max: usize, context: &Context<'_>) -> Result<()> {
        let selections = std::mem::take(&mut self.selections);
        if selections.is_empty() {
            return Ok(());
        }
        let resolved =
            resolve_selections(selections, &self.options.access, &self.options.transfer.retry).await?;
        let mut selected = Vec::new();
        for ResolvedSelection { repository, tags } in resolved {
            context.note(&format!("{}: {}: {}", repository.origin, repository.name(), tags.summary()));
            selected.extend(tags.tags.into_iter().map(|tag| repository.entry(tag)));
        }
        if selected.len() > max {
            let why = format!("the lists select {} images, more than {max}", selected.len());
            return Err(Error::new(ErrorKind::InvalidInput, "--max-images", why)
                .with_hint("narrow the selections with tags=, newest= or except=, or raise --max-images"));
        }
        let entries = std::mem::take(&mut self.entries).into_iter().chain(selected).collect();
        self.entries = list::merge([ImageList { entries, ..ImageList::default() }]).entries;
        Ok(())
    }

    /// Runs it, and shows the result of each image.
    ///
    /// # Errors
    /// Whatever keeps the run from continuing.
    pub(crate) async fn run(mut self, args: &RunArgs, dry_run: bool, context: &Context<'_>) -> Result<Exit> {
        let display =
            RunDisplay::start(SAVING, args.report.progress, self.files, args.registry.timeout, context)?;
        self.options.observer = display.observer();
        self.options.cancel = display.cancel();
        let images: Vec<SaveImage> = self.entries.iter().cloned().map(SaveImage::from).collect();
        if dry_run {
            let created = CreatedDirectories::before(&self.options.dir);
            let saver = ImageSaver::new(self.options)?;
            let plan = saver.plan(images).await?;
            let free = saver.store().free_space().ok().flatten();
            drop(created);
            let failed = not_saved(&FailedImage::of_plan(&plan), &self.entries);
            return display.planned(&plan, free, Some(failed));
        }
        let saver = ImageSaver::new(self.options)?;
        let report = saver.save(images).await?;
        let failed = not_saved(&FailedImage::of_report(&report), &self.entries);
        display.finished(&report, Some(failed))
    }
}

fn transfer_options(args: &RunArgs) -> TransferOptions {
    let mut options = TransferOptions {
        index: args.index.index.into(),
        missing_platform: args.missing.missing_platform.into(),
        attestations: !args.content.no_attestations,
        foreign_layers: args.content.foreign_layers,
        retry: retry_policy(args.registry.retries),
        ..TransferOptions::default()
    };
    args.referrers.apply(&mut options.referrers);
    args.transfer.apply(&mut options);
    options
}

/// The platforms of the images that do not name their own.
fn platforms(args: &RunArgs, entries: &[ListEntry]) -> Result<PlatformSet> {
    let platforms = match args.platforms.selected()? {
        Some(platforms) => platforms,
        None if entries.iter().all(|entry| entry.platforms.is_some()) => PlatformSet::All,
        None => {
            let hint = "add --arch amd64, several such as --arch amd64,arm64, or --arch all";
            return Err(missing_option("--arch", hint));
        }
    };
    if args.index.index == IndexArg::Flatten {
        let mut selected = entries.iter().map(|entry| entry.platforms.as_ref().unwrap_or(&platforms));
        let is_several = |set: &&PlatformSet| matches!(set, PlatformSet::Only(some) if some.len() > 1);
        if let Some(set) = selected.find(is_several) {
            let why = format!("only one platform can take the place of the index, and {set} are selected");
            return Err(Error::new(ErrorKind::InvalidInput, "--index flatten", why)
                .with_hint("select one platform, or use --index prune"));
        }
    }
    Ok(platforms)
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
