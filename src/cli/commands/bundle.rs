//! `saver bundle`: what another directory lacks, in files for any medium.

use super::export::{is_stdout, stdout_file};
use crate::bundle::{
    self, BundleImages, BundleOptions, BundleReport, BundleSince, BundleTo, HaveList, MissingContent,
};
use crate::cli::args::bytes::bytes;
use crate::cli::args::images::ListArgs;
use crate::cli::args::missing_option;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::transfer::DryRunArgs;
use crate::cli::args::tree::{DirArgs, NamesArgs, local_path};
use crate::cli::context::Context;
use crate::cli::signing::CommandSigner;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::cli::ui::progress::HashingProgress;
use crate::cli::{lists, tree};
use crate::error::{Error, ErrorKind, Result};
use clap::ArgAction;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The arguments of `bundle`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Images to bundle, by the names that they were saved under [default: all of the directory]
    #[arg(value_name = "IMAGE", help_heading = "Images")]
    pub(crate) images: Vec<String>,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Content that an earlier bundle lacked, as saver unbundle --missing wrote it
    #[arg(long, value_name = "FILE", value_parser = local_path(), help_heading = "Images")]
    pub(crate) only: Option<PathBuf>,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// What the receiving directory has: a file of saver have, an earlier bundle, or a directory; may be repeated
    ///
    /// Content that it has is left out. - reads a list of saver have from stdin.
    #[arg(long, value_name = "PATH", action = ArgAction::Append, value_parser = local_path(), help_heading = "Images")]
    pub(crate) since: Vec<PathBuf>,
    /// Size that every part stays below, with K, M, G or T for powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = bytes, help_heading = "Output")]
    pub(crate) part_size: u64,
    /// Directory of the bundle, which must not exist; - writes one tar file to stdout
    #[arg(short, long, value_name = "PATH", value_parser = local_path(), help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Sign the bundle with this shell command
    ///
    /// The command reads bundle.json from stdin and writes the signature to stdout. It becomes bundle.json.sig.
    #[arg(long, value_name = "COMMAND", help_heading = "Output")]
    pub(crate) sign_with: Option<String>,
    /// Whether to write at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Writes a bundle. The exit code is 1 if an image was left out because the directory does not have all of it.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; whatever keeps the bundle from being written.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let to = destination(args)?;
    let is_stream = matches!(to, BundleTo::Stream(_));
    let options = options(args, context)?;
    let report = tokio::task::block_in_place(|| bundle::bundle(&options, to))?;
    drop(options);
    for omitted in &report.omitted {
        let why = format!("left out of the bundle: {}", omitted.problem);
        let error = Error::new(ErrorKind::Corrupt, &omitted.image, why);
        output::failure(&error.with_hint("saver verify --dir DIR shows what is damaged"), context.paint());
    }
    let exit = if args.json.json && !is_stream {
        output::stdout(&json(&report))
    } else if context.is_quiet() {
        Exit::Done
    } else if is_stream {
        output::stderr_text(&text(&report, "stdout"));
        Exit::Done
    } else {
        let name = args.output.as_deref().map(|path| path.display().to_string());
        output::stdout(text(&report, &name.unwrap_or_default()).as_bytes())
    };
    Ok(if report.omitted.is_empty() { exit } else { Exit::SomeFailed })
}

fn destination(args: &Args) -> Result<BundleTo> {
    if args.dry_run.dry_run {
        return Ok(BundleTo::Nowhere);
    }
    let hint = "add --output NAME, a directory that does not exist yet, or --output - for stdout";
    let path = args.output.as_deref().ok_or_else(|| missing_option("--output", hint))?;
    if !is_stdout(path) {
        return Ok(BundleTo::Directory(path.to_owned()));
    }
    if std::io::stdout().is_terminal() {
        let error = Error::new(ErrorKind::InvalidInput, "--output -", "stdout is a terminal");
        return Err(error.with_hint("pipe it to saver unbundle -, or redirect it to a file"));
    }
    Ok(BundleTo::Stream(Box::new(stdout_file()?)))
}

fn options(args: &Args, context: &Context<'_>) -> Result<BundleOptions> {
    let dir = args.dir.path()?;
    tree::open(dir)?;
    let mut options =
        BundleOptions::new(dir).with_part_bytes(args.part_size).with_images(images(args, context)?);
    options.names = args.names.rule()?;
    options.since = args.since.iter().map(|path| since(path)).collect::<Result<_>>()?;
    if let Some(command) = &args.sign_with {
        options = options.with_signer(Arc::new(CommandSigner(command.clone())));
    }
    Ok(options.with_observer(Arc::new(HashingProgress::start(context))))
}

fn images(args: &Args, context: &Context<'_>) -> Result<BundleImages> {
    let is_named = !args.lists.list.is_empty() || !args.images.is_empty();
    match &args.only {
        Some(_) if is_named => {
            let why = "it names the images itself: leave out --list and the names";
            Err(Error::new(ErrorKind::InvalidInput, "--only", why))
        }
        Some(path) => MissingContent::read(path).map(BundleImages::Missing),
        None if is_named => {
            let quietly = context.quietly();
            let context = if args.json.json { &quietly } else { context };
            let entries = lists::read(&args.lists.list, &args.images, context)?;
            Ok(BundleImages::Named(entries.into_iter().map(|entry| entry.reference).collect()))
        }
        None => Ok(BundleImages::All),
    }
}

fn since(path: &Path) -> Result<BundleSince> {
    if path.as_os_str() == "-" {
        let list = HaveList::read(std::io::stdin().lock());
        return list.map(BundleSince::Have).map_err(|error| error.with_subject("--since -"));
    }
    Ok(BundleSince::Path(path.to_owned()))
}

fn text(report: &BundleReport, name: &str) -> String {
    let mut text = String::new();
    if report.dry_run {
        for part in &report.parts {
            text.push_str(&format!("{}  {}\n", part.file, output::size(part.bytes)));
        }
    }
    text.push_str(&format!(
        "{} {} with {} in {}, {}{}\n",
        if report.dry_run { "would write" } else { "wrote" },
        output::count(report.images, "image"),
        output::count(report.blobs, "blob"),
        output::count(report.parts.len(), "part"),
        output::size(report.bytes),
        if report.dry_run { String::new() } else { format!(", to {}", clean(name)) },
    ));
    if report.assumed_blobs > 0 {
        let blobs = output::count(report.assumed_blobs, "blob");
        let size = output::size(report.assumed_bytes);
        text.push_str(&format!("assumed to be present: {blobs}, {size}\n"));
    }
    text
}
