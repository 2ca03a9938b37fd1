//! What is fetched from registries, and how: shared by the commands that save images or resolve them.

use super::missing_option;
use super::platforms::{IndexArg, IndexArgs, MissingPlatformArgs, PlatformArgs};
use super::referrers::ReferrerArgs;
use super::registry::RegistryArgs;
use super::transfer::{TransferArgs, retry_policy};
use crate::error::{Error, ErrorKind, Result};
use crate::list::ListEntry;
use crate::oci::PlatformSet;
use crate::transfer::TransferOptions;

/// What is fetched, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FetchArgs {
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
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// How much at once.
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
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

impl FetchArgs {
    /// The options of a transfer of `entries`.
    ///
    /// # Errors
    /// `InvalidInput` naming the option that is wrong.
    pub(crate) fn options(&self, entries: &[ListEntry]) -> Result<TransferOptions> {
        let mut options = TransferOptions {
            index: self.index.index.into(),
            missing_platform: self.missing.missing_platform.into(),
            attestations: !self.content.no_attestations,
            foreign_layers: self.content.foreign_layers,
            retry: retry_policy(&self.registry),
            platforms: self.selected(entries)?,
            ..TransferOptions::default()
        };
        self.referrers.apply(&mut options.referrers);
        self.transfer.apply(&mut options);
        Ok(options)
    }

    /// The platforms of the images that do not name their own.
    fn selected(&self, entries: &[ListEntry]) -> Result<PlatformSet> {
        let platforms = match self.platforms.selected()? {
            Some(platforms) => platforms,
            None if entries.iter().all(|entry| entry.platforms.is_some()) => PlatformSet::All,
            None => {
                let hint = "add --arch amd64, several such as --arch amd64,arm64, or --arch all";
                return Err(missing_option("--arch", hint));
            }
        };
        if self.index.index == IndexArg::Flatten {
            let mut selected = entries.iter().map(|entry| entry.platforms.as_ref().unwrap_or(&platforms));
            let is_several = |set: &&PlatformSet| matches!(set, PlatformSet::Only(some) if some.len() > 1);
            if let Some(set) = selected.find(is_several) {
                let why =
                    format!("only one platform can take the place of the index, and {set} are selected");
                return Err(Error::new(ErrorKind::InvalidInput, "--index flatten", why)
                    .with_hint("select one platform, or use --index prune"));
            }
        }
        Ok(platforms)
    }
}
