//! `saver prune`: everything but what a list names goes.

use crate::cli::args::GlobalArgs;
use crate::cli::lists;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::cli::ui::terminal::{self, Screen};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use crate::prune::{PruneOptions, PruneReport, prune};
use clap::ArgAction;
use std::path::PathBuf;

/// The arguments of pruning.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the images listed in FILE, a list as saver save takes it; - is stdin; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub keep: Vec<PathBuf>,
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

/// Prunes.
pub(crate) fn run(args: &Args, global: &GlobalArgs) -> Exit {
    let log = Screen::new(false);
    terminal::start_log(&log, global.verbose, global.log_format);
    answer(pruned(args, global, &log), args.json, global.quiet)
}

fn pruned(args: &Args, global: &GlobalArgs, log: &Screen) -> Result<PruneReport> {
    if args.keep.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "--keep", "is missing").with_hint(
            "add --keep FILE, the list of the images that stay; saver rm removes images by name",
        ));
    }
    let options = options(&args.names, args.dry_run)?;
    let keep: Vec<Reference> = lists::read(&args.keep, &[], log, global.quiet || args.json)?
        .into_iter()
        .map(|entry| entry.reference)
        .collect();
    prune(&tree::open(tree::dir(args.dir.as_ref())?)?, &keep, &options)
}

pub(crate) fn options(names: &str, dry_run: bool) -> Result<PruneOptions> {
    Ok(PruneOptions { names: names.parse()?, dry_run })
}

/// Tells what was removed.
pub(crate) fn answer(outcome: Result<PruneReport>, json: bool, quiet: bool) -> Exit {
    match outcome {
        Ok(report) if json => {
            let text = serde_json::to_string_pretty(&report).unwrap_or_default();
            output::stdout(format!("{text}\n").as_bytes())
        }
        Ok(_) if quiet => Exit::Done,
        Ok(report) => output::stdout(text(&report).as_bytes()),
        Err(error) => {
            output::failure(&error);
            Exit::of_error(&error)
        }
    }
}

fn text(report: &PruneReport) -> String {
    let mut text = String::new();
    let verb = if report.dry_run { "would remove" } else { "removed" };
    for tag in &report.tags {
        text.push_str(&format!("{verb} {}\n", clean(tag)));
    }
    for repository in &report.unclear {
        text.push_str(&format!(
            "note: {repository} has a manifest that can't be read: only its tags were looked at (saver verify)\n"
        ));
    }
    for reference in &report.absent {
        text.push_str(&format!("note: {reference} is to be kept and not there\n"));
    }
    text.push_str(&format!(
        "{verb} {}, {}, {}; {} freed, {} left\n",
        output::count(report.tags.len(), "tag"),
        output::count(report.manifests.len(), "manifest"),
        output::count(report.blobs.len(), "blob"),
        output::size(report.bytes_freed),
        output::count(report.tags_kept, "tag"),
    ));
    text.push_str(&output::internal_files(&report.internal));
    text
}
