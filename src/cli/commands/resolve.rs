//! `saver resolve`: pins the images of lists in a lock file.

use super::diff;
use crate::cli::args::fetch::FetchArgs;
use crate::cli::args::images::{ListArgs, MatchArgs, SelectionArgs};
use crate::cli::args::output::JsonArgs;
use crate::cli::args::tree::local_path;
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failures;
use crate::cli::ui::output::{self, count, json};
use crate::cli::ui::output_files::OutputFile;
use crate::cli::{lists, locks, registry_args, selections};
use crate::diff::{ImageSet, diff as compare};
use crate::error::Result;
use crate::list::{ListEntry, LockFile, LockFormat};
use crate::oci::Tag;
use crate::save::{ResolveOptions, SaveImage, resolve_images};
use crate::transfer::{Plan, Status};
use clap::ValueEnum;
use std::path::PathBuf;

/// The arguments of `resolve`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Images to resolve, in addition to those of the lists
    #[arg(value_name = "IMAGE", help_heading = "Images")]
    pub(crate) images: Vec<String>,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Tags to select, in addition to those of the lists.
    #[command(flatten)]
    pub(crate) rules: MatchArgs,
    /// How many tags may be selected.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// What is resolved, and how.
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    /// Lock file to write instead of stdout
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Format of the lock file
    #[arg(long, value_name = "FORMAT", default_value = "plain", help_heading = "Output")]
    pub(crate) lock_format: LockFormatArg,
    /// Print what has changed since FILE, a lock file, list, report or directory; exit with 1 if anything has
    #[arg(long, value_name = "FILE", value_parser = local_path(), help_heading = "Output")]
    pub(crate) diff: Option<PathBuf>,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// `--lock-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LockFormatArg {
    /// A plain list with digests, platforms, sizes and referrers in comments
    Plain,
    /// ImagesLock of Carvel (.imgpkg/images.yml), which pins indexes
    Imgpkg,
    /// Images.lock of Helm charts, which pins the manifests of platforms
    Helm,
}

impl From<LockFormatArg> for LockFormat {
    fn from(format: LockFormatArg) -> Self {
        match format {
            LockFormatArg::Plain => Self::Plain,
            LockFormatArg::Imgpkg => Self::Carvel,
            LockFormatArg::Helm => Self::Helm,
        }
    }
}

/// Resolves the images of lists and of the command line, and writes a lock file. The exit code is 1 if an image cannot be resolved, in
/// which case no lock file is written, or differs from `--diff`.
///
/// # Errors
/// `InvalidInput` naming the option or list that is wrong; those of listing tags; `Storage`.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    lists::require_any(&args.lists, [&args.images, &args.rules.rules], "resolve")?;
    lists::require_one_reader_of_stdin(&args.lists, args.fetch.registry.password_stdin)?;
    let context = if args.json.json { &context.quietly() } else { context };
    let old = args.diff.as_deref().map(|path| diff::read(path, context)).transpose()?;
    let file = args.output.as_deref().map(|path| OutputFile::prepare("--output", path)).transpose()?;
    let (lock, plan) = within(args.fetch.registry.timeout, resolve(args, context)).await?;
    output::stderr_text(&failures::of_plan(&plan, context.is_quiet(), context.paint()));
    if plan.images.iter().any(|image| image.status == Status::Failed) {
        return Ok(Exit::SomeFailed);
    }
    let is_printed = file.is_none() && old.is_none();
    if let Some(file) = file {
        file.finish(lock.to_text(args.lock_format.into()).as_bytes())?;
        context.note(&format!("pinned {}", count(lock.images.len(), "image")));
    }
    Ok(match old {
        Some(old) => diff::print(&compare(&old, &ImageSet::Lock(lock.images))?, args.json, context),
        None if args.json.json => output::stdout(&json(&lock)),
        None if is_printed => output::stdout(lock.to_text(args.lock_format.into()).as_bytes()),
        None => Exit::Done,
    })
}

async fn resolve(args: &Args, context: &Context<'_>) -> Result<(LockFile, Plan)> {
    let list = lists::read_with_rules(&args.lists.list, &args.images, &args.rules.rules, context)?;
    lists::refuse_charts(&list, "a lock file cannot pin charts of Helm repositories")?;
    let selected = list.selections.iter().map(|one| one.entry(Tag::latest()));
    let requested: Vec<ListEntry> = list.entries.iter().cloned().chain(selected).collect();
    let registries = requested.iter().map(|entry| entry.reference.registry.clone()).collect();
    let mut options = ResolveOptions::default();
    options.transfer = args.fetch.options(&requested)?;
    options.access = registry_args::resolve(&args.fetch.registry, context, &registries)?;
    let ends = (&options.access, &options.transfer.retry);
    let entries = selections::resolve(list.entries, list.selections, args.selection, ends, context).await?;
    let images: Vec<SaveImage> = entries.iter().cloned().map(SaveImage::from).collect();
    let plan = resolve_images(images, &options).await?;
    Ok((locks::of_plan(&options.transfer, &entries, &plan), plan))
}
