//! How images are saved, whatever names them: shared by `save`, `build-context` and `verify --repair --list`.

use super::fetch::FetchArgs;
use super::images::{ListArgs, MatchArgs, SelectionArgs};
use super::output::{FailedListArgs, ReportArgs};
use super::policy::PolicyArgs;
use super::transfer::DryRunArgs;
use super::tree::{DirArgs, NamesArgs, ReplaceArgs};
use clap::ValueEnum;
use std::path::PathBuf;

/// The arguments of `save`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// Images to save, in addition to those of the lists
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
    /// Lock files.
    #[command(flatten)]
    pub(crate) lock: LockArgs,
    /// Where to save.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// What and how to save.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Whether to save at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
}

/// What and how to save.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// What is fetched, and how.
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    /// Accepted images.
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// Images from elsewhere.
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    /// When data is synced.
    #[command(flatten)]
    pub(crate) durability: DurabilityArgs,
    /// What is written beside the images.
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// The images that failed.
    #[command(flatten)]
    pub(crate) failed: FailedListArgs,
}

/// Lock files.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct LockArgs {
    /// Write a lock file that pins what was saved to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,
    /// Save exactly what the lock file of --list pins, and fail images whose tag, platforms or referrers have changed
    ///
    /// Platforms, attestations, referrers and the form of indexes are those of the lock file, whatever other options say.
    #[arg(long)]
    pub(crate) locked: bool,
}

/// When data is synced to disk.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Directory")]
pub(crate) struct DurabilityArgs {
    /// When to sync data to disk
    #[arg(long, value_name = "MODE", default_value = "batch")]
    pub(crate) durability: DurabilityArg,
}

/// `--durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// Publish a tag only after all of its content is synced; images share syncs
    Batch,
    /// Leave it to the operating system: a power failure may lose the latest images
    None,
}
