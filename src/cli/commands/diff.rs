//! `saver diff`: compares directories, reports, lock files and lists.

use crate::cli::args::missing_argument;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::tree::local_path;
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, json};
use crate::cli::{lists, tree};
use crate::diff::{Diff, ImageSet, diff};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::transfer::Report;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum length of a report that is read, in bytes.
const MAX_REPORT: u64 = 512 << 20;

/// The arguments of `diff`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Two directories, reports, lock files or lists: the old one, then the new one
    #[arg(value_name = "A B", value_parser = local_path())]
    pub(crate) sets: Vec<PathBuf>,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Compares two sets of images. The exit code is 1 if they differ.
///
/// # Errors
/// `InvalidInput` for what is neither a directory of images nor a report nor a list; `Storage`.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let [a, b] = args.sets.as_slice() else {
        return Err(missing_argument(
            "A B",
            "saver diff OLD NEW, each of them a directory, a report, a lock file or a list",
        ));
    };
    let context = if args.json.json { &context.quietly() } else { context };
    let found = diff(&read(a, context)?, &read(b, context)?)?;
    Ok(print(&found, args.json, context))
}

/// Prints differences.
pub(super) fn print(found: &Diff, args: JsonArgs, context: &Context<'_>) -> Exit {
    let text = if args.json { json(found) } else { text(found, context.is_quiet()).into_bytes() };
    match output::stdout(&text) {
        Exit::Done if !found.is_empty() => Exit::SomeFailed,
        exit => exit,
    }
}

/// The set of images that a path names.
pub(super) fn read(path: &Path, context: &Context<'_>) -> Result<ImageSet> {
    let unreadable = |cause: std::io::Error| {
        Error::new(ErrorKind::InvalidInput, path.display(), format!("cannot be read: {cause}"))
            .with_hint("name a directory of images, a report, a lock file or a list")
    };
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(ImageSet::Directory(tree::open(path)?));
    }
    if let Some(report) = read_report(path).map_err(unreadable)? {
        return Ok(ImageSet::Report(Box::new(report)));
    }
    let entries = lists::read(&[path.to_owned()], &[], context)?;
    if !entries.is_empty() && entries.iter().all(|entry| entry.lock.is_some()) {
        let locked = entries.iter().filter_map(|entry| entry.lock.as_deref().cloned());
        return Ok(ImageSet::Lock(locked.collect()));
    }
    Ok(ImageSet::List(entries.into_iter().map(|entry| entry.reference).collect()))
}

/// The report in a file; `None` if it is something else.
fn read_report(path: &Path) -> std::io::Result<Option<Report>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    let mut start = [0];
    // A list is read by its own reader, which bounds it. A report is one JSON object.
    if (&file).read(&mut start)? == 0 || start != *b"{" {
        return Ok(None);
    }
    text.extend(start);
    file.take(MAX_REPORT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

fn text(diff: &Diff, quiet: bool) -> String {
    let short = |digest: Option<&Digest>| digest.map_or_else(|| "-".to_owned(), |digest| digest.short());
    let row = |change: &str, image: &str, from: Option<&Digest>, to: Option<&Digest>, bytes: Option<u64>| {
        let size = bytes.map_or_else(|| "-".to_owned(), output::size);
        vec![change.to_owned(), image.to_owned(), short(from), short(to), size]
    };
    let added = diff.added.iter().map(|one| row("added", &one.image, None, one.digest.as_ref(), one.bytes));
    let removed = diff.removed.iter().map(|one| row("removed", &one.image, one.digest.as_ref(), None, None));
    let moved =
        diff.moved.iter().map(|one| row("moved", &one.image, Some(&one.from), Some(&one.to), one.bytes));
    let mut rows: Vec<Vec<String>> = added.chain(removed).chain(moved).collect();
    let mut heads = vec!["CHANGE", "IMAGE", "FROM", "TO", "SIZE"];
    if rows.iter().all(|row| row[4] == "-") {
        heads.pop();
        rows.iter_mut().for_each(|row| row.truncate(4));
    }
    let mut text = String::new();
    if !rows.is_empty() {
        text = output::table(&heads, &[false, false, false, false, true][..heads.len()], &rows);
        text.push('\n');
    }
    if quiet {
        return text;
    }
    let transfer = diff.bytes.map(|bytes| format!("; {} to transfer", output::size(bytes)));
    text.push_str(&format!(
        "{} added, {} removed, {} moved, {} unchanged{}\n",
        diff.added.len(),
        diff.removed.len(),
        diff.moved.len(),
        diff.unchanged,
        transfer.unwrap_or_default(),
    ));
    text
}
