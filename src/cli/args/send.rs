//! How images are sent to a registry: shared by `push` and `copy`.

use super::output::ReportArgs;
use super::platforms::{IndexArgs, MissingPlatformArgs, PlatformArgs};
use super::referrers::ReferrerArgs;
use super::registry::RegistryArgs;
use super::transfer::{DryRunArgs, TransferArgs, retry_policy};
use crate::error::Result;
use crate::transfer::TransferOptions;

/// The smallest size of upload requests, in bytes: each costs a round trip.
const MIN_CHUNK_SIZE: u64 = 64 << 10;

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
    /// Signatures.
    #[command(flatten)]
    pub(crate) referrers: ReferrerArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Upload layers in requests of at most SIZE, 64KiB or more: 5MiB, 50MB [default: one request per layer]
    ///
    /// For registries behind a proxy that limits the size of requests. By default saver uses smaller requests once a request
    /// was refused as too large (413).
    #[arg(long, value_name = "SIZE", value_parser = chunk_size, help_heading = "Registries")]
    pub(crate) upload_chunk_size: Option<u64>,
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
        options.retry = retry_policy(&self.registry);
        self.referrers.apply(&mut options.referrers);
        self.transfer.apply(options);
        Ok(())
    }
}

/// Parses `5000000`, `512KiB`, `5MiB`, `1GiB`, `500kB`, `50MB` or `1GB`.
fn chunk_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
        return Err("write a number of bytes, or a size such as 512KiB, 5MiB or 50MB".to_owned());
    };
    let size = number.saturating_mul(factor);
    if size < MIN_CHUNK_SIZE { Err("at least 64KiB is needed".to_owned()) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_have_a_number_and_a_unit() {
        for (text, expected) in [
            ("65536", Some(65536)),
            ("64KiB", Some(65536)),
            ("5 MiB", Some(5 << 20)),
            ("50MB", Some(50_000_000)),
            ("100kB", Some(100_000)),
            ("1GiB", Some(1 << 30)),
            ("99999999999GB", Some(u64::MAX)),
            ("65535", None),
            ("0", None),
            ("-5MiB", None),
            ("5M", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(chunk_size(text).ok(), expected, "{text}");
        }
    }
}
