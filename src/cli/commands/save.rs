//! `saver save`, which is also `saver` without a command.

use crate::cli::args::{Color, DurabilityArg, GlobalArgs, IndexArg, RunArgs, SaveArgs};
use crate::cli::config::Environment;
use crate::cli::lists;
use crate::cli::registry_args;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failed_list::{Failed, not_saved};
use crate::cli::ui::output;
use crate::cli::ui::output_files::Files;
use crate::cli::ui::run::Showing;
use crate::cli::ui::terminal::{self, Screen};
use crate::cli::ui::wording::SAVING;
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, ImageList, ListEntry, SelectedRepository};
use crate::oci::{PlatformSet, Tag};
use crate::save::{ImageSaver, ResolvedSelection, SaveImage, SaveOptions, resolve_selections};
use crate::store::Durability;
use crate::transfer::TransferOptions;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Saves, and says how that ended.
pub(crate) async fn run(args: &SaveArgs, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = screen(global, environment);
    ended(listed(args, global, environment, &screen).await)
}

/// What a command with a run speaks through.
pub(crate) fn screen(global: &GlobalArgs, environment: &Environment) -> Arc<Screen> {
    let screen = Screen::new(colours(global.color, environment, std::io::stderr().is_terminal()));
    terminal::start_log(&screen, global.verbose, global.log_format);
    screen
}

/// Tells why a run could not go on, if it could not.
pub(crate) fn ended(outcome: Result<Exit>) -> Exit {
    outcome.unwrap_or_else(|error| {
        output::failure(&error);
        Exit::of_error(&error)
    })
}

async fn listed(
    args: &SaveArgs,
    global: &GlobalArgs,
    environment: &Environment,
    screen: &Arc<Screen>,
) -> Result<Exit> {
    lists::any(&args.list, &args.images)?;
    lists::no_command(&args.list, &args.images)?;
    let dir = needed(args.dir.as_ref(), "--dir", "DIR, the directory to save into")?;
    if args.run.registry.password_stdin && args.list.iter().any(|list| list.as_os_str() == "-") {
        let why = "both read stdin: put one of them in a file";
        return Err(Error::new(ErrorKind::InvalidInput, "--list - and --password-stdin", why));
    }
    let list = lists::read_list(&args.list, &args.images, screen, global.quiet)?;
    let mut job = Job::resolve(&args.run, dir, list, global, environment, screen)?;
    job.select_tags(args.max_images, screen, global.quiet).await?;
    job.run(&args.run, global, screen).await
}

/// Whether colours are wanted.
fn colours(when: Color, environment: &Environment, terminal: bool) -> bool {
    match when {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            terminal && environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb")
        }
    }
}

/// A run, resolved: all that can be wrong before anything is asked of a registry has been found.
pub(crate) struct Job {
    entries: Vec<ListEntry>,
    selections: Vec<SelectedRepository>,
    options: SaveOptions,
    files: Files,
}

impl Job {
    /// A run that saves the images of `list` into `dir`.
    ///
    /// # Errors
    /// `InvalidInput` naming the flag that is wrong, and what is wrong with it.
    pub(crate) fn resolve(
        args: &RunArgs,
        dir: &Path,
        list: ImageList,
        global: &GlobalArgs,
        environment: &Environment,
        screen: &Screen,
    ) -> Result<Self> {
        let mut options = SaveOptions::new(dir);
        options.transfer = copy_options(args);
        options.names = args.names.parse()?;
        options.durability = match args.durability {
            DurabilityArg::Batch => Durability::Batch,
            DurabilityArg::None => Durability::None,
        };
        let selected = list.selections.iter().map(|one| one.entry(Tag::latest()));
        let requested: Vec<ListEntry> = list.entries.iter().cloned().chain(selected).collect();
        options.transfer.platforms = platforms(args, &requested)?;
        let registries = requested.iter().map(|entry| entry.reference.registry.clone()).collect();
        options.access =
            registry_args::resolve(&args.registry, environment, &registries, screen, global.quiet)?;
        let files = Files::prepare(None, args.report.as_deref(), args.failed_list.as_deref())?;
        Ok(Self { entries: list.entries, selections: list.selections, options, files })
    }

    /// Replaces the selections of the lists by the images that they select.
    ///
    /// # Errors
    /// Those of listing tags, `NotFound` if a selection selects nothing, `InvalidInput` if all select more than `max` images.
    async fn select_tags(&mut self, max: usize, screen: &Screen, quiet: bool) -> Result<()> {
        let selections = std::mem::take(&mut self.selections);
        if selections.is_empty() {
            return Ok(());
        }
        let resolved =
            resolve_selections(selections, &self.options.access, &self.options.transfer.retry).await?;
        let mut selected = Vec::new();
        for ResolvedSelection { repository, tags } in resolved {
            if !quiet {
                let line = format!("{}: {}: {}", repository.origin, repository.name(), tags.summary());
                screen.line(&format!("{} {}", screen.paint().dim("note:"), output::clean(&line)));
            }
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

    /// Runs it, and tells what became of each image.
    ///
    /// # Errors
    /// What keeps the whole run from going on.
    pub(crate) async fn run(
        mut self,
        args: &RunArgs,
        global: &GlobalArgs,
        screen: &Arc<Screen>,
    ) -> Result<Exit> {
        let showing = Showing::start(SAVING, args.progress, self.files, global, screen)?;
        self.options.observer = showing.observer();
        self.options.cancel = showing.cancel();
        let images: Vec<SaveImage> = self.entries.iter().cloned().map(SaveImage::from).collect();
        if args.dry_run {
            let made = Made::before(&self.options.dir);
            let saver = ImageSaver::new(self.options)?;
            let plan = saver.plan(images).await?;
            let free = saver.store().free_space().ok().flatten();
            drop(made);
            let failed = not_saved(&Failed::of_plan(&plan), &self.entries);
            return showing.planned(&plan, free, Some(failed));
        }
        let report = ImageSaver::new(self.options)?.save(images).await?;
        let failed = not_saved(&Failed::of_report(&report), &self.entries);
        showing.finished(&report, Some(failed))
    }
}

pub(crate) fn needed<'a>(value: Option<&'a PathBuf>, flag: &str, what: &str) -> Result<&'a PathBuf> {
    value.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, flag, "is missing").with_hint(format!("add {flag} {what}"))
    })
}

fn copy_options(args: &RunArgs) -> TransferOptions {
    let mut options = TransferOptions {
        index: args.index.into(),
        missing_platform: args.missing_platform.into(),
        attestations: args.attestations,
        foreign_layers: args.foreign_layers,
        jobs: usize::from(args.jobs),
        fail_fast: args.fail_fast,
        ..TransferOptions::default()
    };
    options.retry.retries = args.registry.retries;
    options
}

/// What to save of the images that do not say so themselves.
fn platforms(args: &RunArgs, entries: &[ListEntry]) -> Result<PlatformSet> {
    let platforms = match crate::cli::args::arch(&args.arch) {
        Some(arch) if arch.contains(',') && arch.split(',').any(|part| part.trim() == "all") => {
            let why = "all stands alone: it is every platform there is";
            return Err(Error::new(ErrorKind::InvalidInput, format!("--arch {arch}"), why));
        }
        Some(arch) => PlatformSet::parse(&arch, &args.os)?,
        None if entries.iter().all(|entry| entry.platforms.is_some()) => PlatformSet::All,
        None => {
            return Err(Error::new(ErrorKind::InvalidInput, "--arch", "is missing")
                .with_hint("add --arch amd64, a comma list such as amd64,arm64, or all"));
        }
    };
    if args.index == IndexArg::Flatten {
        let asked = entries.iter().map(|entry| entry.platforms.as_ref().unwrap_or(&platforms));
        let several = |set: &&PlatformSet| matches!(set, PlatformSet::Only(some) if some.len() > 1);
        if let Some(set) = asked.into_iter().find(several) {
            let why = format!("one platform's manifest takes the index's place, and {set} are several");
            return Err(Error::new(ErrorKind::InvalidInput, "--index flatten", why)
                .with_hint("ask for one platform, or use --index prune"));
        }
    }
    Ok(platforms)
}

/// Directories that opening a tree makes. A dry run leaves none of them behind.
struct Made(Vec<PathBuf>);

impl Made {
    fn before(dir: &Path) -> Self {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        Self(dir.ancestors().take_while(missing).map(Path::to_owned).collect())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in &self.0 {
            // Only an empty directory goes.
            let _ = std::fs::remove_dir(dir);
        }
    }
}
