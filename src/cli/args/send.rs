//! How images are sent to a registry: shared by `push` and `copy`.

use super::output::ReportArgs;
use super::platforms::{IndexArgs, MissingPlatformArgs, PlatformArgs};
use super::registry::RegistryArgs;
use super::transfer::{DryRunArgs, TransferArgs, retry_policy};
use crate::error::Result;
use crate::transfer::TransferOptions;

/// How images are sent to a registry.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SendArgs {
    /// Which platforms.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// Images that lack one.
    #[command(flatten)]
    pub(crate) missing: MissingPlatformArgs,
    /// Indexes.
    #[command(flatten)]
    pub(crate) index: IndexArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// How much at once.
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
    /// Whether to send at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
    /// What is written beside.
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

impl SendArgs {
    /// Applies them to `options`.
    ///
    /// # Errors
    /// `InvalidInput` naming the platform that is not one.
    pub(crate) fn apply(&self, options: &mut TransferOptions) -> Result<()> {
        options.platforms = self.platforms.selected_or_all()?;
        options.index = self.index.index.into();
        options.missing_platform = self.missing.missing_platform.into();
        options.retry = retry_policy(self.registry.retries);
        self.transfer.apply(options);
        Ok(())
    }
}
