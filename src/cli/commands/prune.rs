//! `saver prune`: removes everything but the images of a list.

use crate::cli::args::missing_option;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::transfer::DryRunArgs;
use crate::cli::args::tree::{DirArgs, NamesArgs};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::cli::{lists, tree};
use crate::error::Result;
use crate::oci::Reference;
use crate::prune::{PruneOptions, PruneReport, prune};
use clap::ArgAction;
use std::path::PathBuf;

/// The arguments of `prune`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// List of images to keep, in the formats of saver save --list; - is stdin; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "Images")]
    pub(crate) keep: Vec<PathBuf>,
    /// Whether to remove at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Removes everything but the images of the lists.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage`.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    if args.keep.is_empty() {
        let hint = "add --keep FILE, a list of the images to keep; saver rm removes images by name";
        return Err(missing_option("--keep", hint));
    }
    let mut options = PruneOptions::default().with_dry_run(args.dry_run.dry_run);
    options.names = args.names.rule()?;
    let entries = if args.json.json {
        lists::read(&args.keep, &[], &context.quietly())?
    } else {
        lists::read(&args.keep, &[], context)?
    };
    let keep: Vec<Reference> = entries.into_iter().map(|entry| entry.reference).collect();
    let report = prune(&tree::open(args.dir.path()?)?, &keep, &options)?;
    Ok(print(&report, args.json.json, context))
}

/// Prints what was removed.
pub(crate) fn print(report: &PruneReport, is_json: bool, context: &Context<'_>) -> Exit {
    if is_json {
        output::stdout(&json(report))
    } else if context.is_quiet() {
        Exit::Done
    } else {
        output::stdout(text(report).as_bytes())
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
            "note: {repository} has a manifest that cannot be read, so only its tags were considered; saver verify shows why\n"
        ));
    }
    for reference in &report.absent {
        text.push_str(&format!("note: {reference} is listed and not in the directory\n"));
    }
    let mut removed = vec![
        output::count(report.image_tags, "tag"),
        output::count(report.manifests.len(), "manifest"),
        output::count(report.blobs.len(), "blob"),
    ];
    let referrer_tags = report.tags.len().saturating_sub(report.image_tags);
    if referrer_tags > 0 {
        removed.insert(1, output::count(referrer_tags, "referrer tag"));
    }
    let internal = &report.internal_removed;
    for (files, what) in [(internal.partial, "interrupted download"), (internal.damaged, "damaged file")] {
        if files.files > 0 {
            removed.push(output::count(usize::try_from(files.files).unwrap_or(usize::MAX), what));
        }
    }
    let freed = [report.bytes_freed, internal.partial.bytes, internal.damaged.bytes];
    let freed = freed.into_iter().fold(0_u64, u64::saturating_add);
    text.push_str(&format!(
        "{verb} {}; {} freed, {} left\n",
        removed.join(", "),
        output::size(freed),
        output::count(report.tags_kept, "tag"),
    ));
    text.push_str(&output::internal_files(&report.internal));
    text
}
