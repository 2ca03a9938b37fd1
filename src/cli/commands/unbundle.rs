//! `saver unbundle`: from the parts of a bundle into a directory.

use crate::bundle::{
    MissingContent, PartStatus, UnbundleFrom, UnbundleOptions, UnbundleReport, UnbundledStatus, unbundle,
};
use crate::cli::args::missing_argument;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::signing::VerifyWithArgs;
use crate::cli::args::tree::{DirArgs, ReplaceArgs, local_path};
use crate::cli::context::Context;
use crate::cli::signing::CommandVerifier;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::cli::ui::output_files::OutputFile;
use crate::cli::ui::progress::HashingProgress;
use crate::error::{Error, ErrorKind, ErrorReport, Result};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The arguments of `unbundle`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Directories of bundles, single parts, or - for a stream on stdin
    #[arg(value_name = "NAME", value_parser = local_path(), help_heading = "Bundles")]
    pub(crate) bundles: Vec<PathBuf>,
    /// File to write what is missing to, for saver bundle --only
    #[arg(long, value_name = "FILE", value_parser = local_path(), help_heading = "Output")]
    pub(crate) missing: Option<PathBuf>,
    /// Signatures.
    #[command(flatten)]
    pub(crate) signature: VerifyWithArgs,
    /// Where the images go.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Images from elsewhere.
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Unbundles. The exit code is 1 if content is missing, a part is damaged, or an image could not be published.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; whatever keeps the run from continuing.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    if args.bundles.is_empty() {
        return Err(missing_argument("NAME", "name the directory of a bundle, or - for a stream on stdin"));
    }
    let dir = args.dir.path()?;
    let missing = args.missing.as_deref().map(|path| OutputFile::prepare("--missing", path)).transpose()?;
    let from = args.bundles.iter().map(|path| source(path.clone())).collect::<Result<_>>()?;
    let progress = Arc::new(HashingProgress::start(context));
    let mut options =
        UnbundleOptions::new(dir).with_replace(args.replace.replace).with_observer(progress.clone());
    options.verifier =
        args.signature.verify_with.clone().map(|command| Arc::new(CommandVerifier(command)) as _);
    let report = unbundle(from, options).await?;
    drop(progress);
    if let Some(file) = missing {
        write_missing(file, &report)?;
    }
    failures(&report, args.missing.is_some(), context);
    let exit = if args.json.json {
        output::stdout(&json(&report))
    } else if context.is_quiet() {
        Exit::Done
    } else {
        output::stdout(text(&report).as_bytes())
    };
    Ok(if report.is_success() { exit } else { Exit::SomeFailed })
}

fn source(path: PathBuf) -> Result<UnbundleFrom> {
    if path.as_os_str() != "-" {
        return Ok(UnbundleFrom::Path(path));
    }
    if std::io::stdin().is_terminal() {
        let error = Error::new(ErrorKind::InvalidInput, "-", "stdin is a terminal, not a bundle");
        return Err(error.with_hint("redirect a bundle to stdin, or name its directory"));
    }
    Ok(UnbundleFrom::Stream(Box::new(std::io::stdin())))
}

/// Writes what is missing; nothing if nothing is.
fn write_missing(file: OutputFile, report: &UnbundleReport) -> Result<()> {
    match report.missing.as_slice() {
        [] => Ok(()),
        [missing] => file.finish(&json(missing)),
        _ => {
            let why = "more than one bundle is incomplete: unbundle them one by one to get a file for each";
            Err(Error::new(ErrorKind::InvalidInput, "--missing", why))
        }
    }
}

/// Prints what is damaged, missing or failed.
fn failures(report: &UnbundleReport, is_written: bool, context: &Context<'_>) {
    let print = |what: &str, error: &ErrorReport| {
        // What it concerns is often the part or image itself.
        let why = if what.ends_with(&error.subject) { error.reason() } else { &error.message };
        let failure = Error::new(error.kind, what, why);
        let failure = error.hint.iter().fold(failure, |failure, hint| failure.with_hint(hint));
        output::failure(&failure, context.paint());
    };
    for part in &report.parts {
        if let Some(error) = &part.error {
            print(&part.file, error);
        }
    }
    for image in &report.images {
        if let Some(error) = &image.error {
            print(&image.image, error);
        }
    }
    for missing in &report.missing {
        output::failure(&missing_error(missing, report, is_written), context.paint());
    }
}

fn missing_error(missing: &MissingContent, report: &UnbundleReport, is_written: bool) -> Error {
    let assumed = missing.content.iter().filter(|blob| blob.parts.is_empty()).count();
    let bytes = missing.content.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
    let blobs = output::count(missing.content.len(), "blob");
    let why = format!(
        "{blobs}, {}, missing, of which {assumed} assumed to be present; no image was published",
        output::size(bytes)
    );
    let has_absent = report.parts.iter().any(|part| part.status == PartStatus::Absent);
    let hint = if has_absent && assumed == 0 {
        "unbundle the other parts too: what was written is kept"
    } else if is_written {
        "make a bundle of it: saver bundle --only FILE, with the file of --missing"
    } else {
        "run the command again with --missing FILE, and make a bundle of it: saver bundle --only FILE"
    };
    Error::new(ErrorKind::Corrupt, format!("bundle {}", missing.bundle.short()), why).with_hint(hint)
}

fn text(report: &UnbundleReport) -> String {
    let mut text = String::new();
    for part in report.parts.iter().filter(|part| part.status == PartStatus::Absent) {
        text.push_str(&format!("not there: {}\n", clean(&part.file)));
    }
    text.push_str(&format!(
        "{} published, {} unchanged; {} written, {} present, in {}\n",
        output::count(report.count(UnbundledStatus::Published), "image"),
        report.count(UnbundledStatus::Unchanged),
        output::size(report.bytes_written),
        output::size(report.bytes_present),
        output::time(Duration::from_secs_f64(report.seconds.max(0.0))),
    ));
    if report.bundles.is_empty() {
        text.push_str("no bundle.json was read, so no image was published: unbundle its directory, too\n");
    }
    text
}
