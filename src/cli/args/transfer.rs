//! How many things are transferred at once, and when to stop.

use super::registry::RegistryArgs;
use crate::content::retry::RetryPolicy;
use crate::transfer::TransferOptions;

/// Concurrency.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Transfer")]
pub(crate) struct JobsArgs {
    /// Maximum number of concurrent blob transfers per registry, 1 to 256
    ///
    /// Requests for manifests do not count: up to three times as many run beside them.
    #[arg(long, value_name = "N", default_value = "16", value_parser = jobs)]
    pub(crate) jobs: u16,
}

/// How a run transfers images.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Transfer")]
pub(crate) struct TransferArgs {
    /// Concurrency.
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    /// Stop at the first image that fails
    #[arg(long)]
    pub(crate) fail_fast: bool,
}

impl TransferArgs {
    /// Applies them to `options`.
    pub(crate) fn apply(&self, options: &mut TransferOptions) {
        options.jobs = usize::from(self.jobs.jobs);
        options.fail_fast = self.fail_fast;
    }
}

/// `--dry-run`.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct DryRunArgs {
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The retry policy for these registries. Streams that share a limited rate may be slow.
pub(crate) fn retry_policy(registry: &RegistryArgs) -> RetryPolicy {
    let policy = RetryPolicy { retries: registry.retries, ..RetryPolicy::default() };
    if registry.limit_rate.is_some() { RetryPolicy { slow_bytes: 0, ..policy } } else { policy }
}

/// The value of `--jobs`.
fn jobs(text: &str) -> Result<u16, String> {
    let number = text.parse::<u16>().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "a number from 1 to 256 is needed".to_owned())
}
