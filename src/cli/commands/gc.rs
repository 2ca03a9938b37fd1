//! `saver gc`: removes what nothing needs.

use super::prune;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::transfer::DryRunArgs;
use crate::cli::args::tree::DirectoryArgs;
use crate::cli::context::Context;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::error::Result;
use crate::prune::{PruneOptions, collect_garbage};

/// The arguments of `gc`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where the images are.
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// Whether to remove at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Removes what nothing needs.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage`, also while another saver is running.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let options = PruneOptions::default().with_dry_run(args.dry_run.dry_run);
    let report = collect_garbage(&tree::open(args.directory.path()?)?, &options)?;
    Ok(prune::print(&report, args.json.json, context))
}
