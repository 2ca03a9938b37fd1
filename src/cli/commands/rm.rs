//! `saver rm`: images go by name.

use crate::cli::args::GlobalArgs;
use crate::cli::commands::prune::{answer, options};
use crate::cli::lists;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::terminal::{self, Screen};
use crate::error::Result;
use crate::oci::Reference;
use crate::prune::{PruneReport, remove};
use std::path::PathBuf;

/// The arguments of removing.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Images to remove: names as they were saved, or as they are in the directory; name@digest for a manifest
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Names in the tree, as they were saved with
    #[arg(long, value_name = "NAMES", default_value = "strip")]
    pub names: String,
    /// Tell what would be removed; remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Removes.
pub(crate) fn run(args: &Args, global: &GlobalArgs) -> Exit {
    let log = Screen::new(false);
    terminal::start_log(&log, global.verbose, global.log_format);
    if args.images.is_empty() {
        output::stderr("error: no image is named");
        output::stderr("  hint: saver rm --dir DIR IMAGE...; saver ls tells what is there");
        return Exit::Usage;
    }
    answer(removed(args, &log), args.json, global.quiet)
}

fn removed(args: &Args, log: &Screen) -> Result<PruneReport> {
    let options = options(&args.names, args.dry_run)?;
    let entries = lists::read(&[], &args.images, log, true)?;
    let images: Vec<Reference> = entries.into_iter().map(|entry| entry.reference).collect();
    remove(&tree::open(tree::dir(args.dir.as_ref())?)?, &images, &options)
}
