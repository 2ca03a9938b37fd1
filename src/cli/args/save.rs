//! How images are saved, whatever names them: shared by `save`, `build-context` and `verify --repair --list`.

use super::images::ListArgs;
use super::output::{FailedListArgs, ReportArgs};
use super::platforms::{IndexArgs, MissingPlatformArgs, PlatformArgs};
use super::referrers::ReferrerArgs;
use super::registry::RegistryArgs;
use super::transfer::{DryRunArgs, TransferArgs};
use super::tree::{DirArgs, NamesArgs, ReplaceArgs};
use clap::ValueEnum;

/// The arguments of `save`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// Images to save, in addition to those of the lists
    #[arg(value_name = "IMAGE", help_heading = "Images")]
    pub(crate) images: Vec<String>,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Maximum number of images that the tag selections of lists may select
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "Images")]
    pub(crate) max_images: usize,
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
    /// Which platforms.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// Images that lack one.
    #[command(flatten)]
    pub(crate) missing: MissingPlatformArgs,
    /// Indexes.
    #[command(flatten)]
    pub(crate) index: IndexArgs,
    /// Further content.
    #[command(flatten)]
    pub(crate) content: ContentArgs,
    /// Signatures.
    #[command(flatten)]
    pub(crate) referrers: ReferrerArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// Images from elsewhere.
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    /// When data is synced.
    #[command(flatten)]
    pub(crate) durability: DurabilityArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// How much at once.
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
    /// What is written beside the images.
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// The images that failed.
    #[command(flatten)]
    pub(crate) failed: FailedListArgs,
}

/// Content that an image can do without.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct ContentArgs {
    /// Leave out attestations (SBOMs, provenance); Docker 29.1 and later cannot pull an attested image without them
    #[arg(long)]
    pub(crate) no_attestations: bool,
    /// Save attestations with their images (the default)
    #[arg(long, hide = true, overrides_with = "no_attestations")]
    pub(crate) attestations: bool,
    /// Save foreign (non-distributable) layers as well
    #[arg(long)]
    pub(crate) foreign_layers: bool,
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
