//! `saver scan`: the images that files name, as a list.

use crate::cli::args::GlobalArgs;
use crate::cli::commands::save;
use crate::cli::config::Environment;
use crate::cli::helm::Helm;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, Paint, clean, count};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{Diagnostic, SourceLocation};
use crate::scan::{self, Found, Ignore, Kind, MAX_FILE_BYTES, Render, Review, ScanOptions};
use clap::ArgAction;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The ignore list of a build context.
const CONTEXT_IGNORE: &str = "manifests/imageListIgnore";
/// The largest ignore list, in bytes.
const MAX_IGNORE_BYTES: u64 = 16 << 20;
/// Notes beyond these are counted only.
const NOTES: usize = 10;

/// The arguments of scanning.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The file or directory to scan; - is stdin
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// How to look for images.
    #[command(flatten)]
    pub look: LookArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How to look for images.
#[derive(clap::Args, Clone, Debug)]
pub struct LookArgs {
    /// Leave out the images that FILE names, one a line; * stands for any text; may be repeated
    ///
    /// nginx and quay.io/team/app leave out every tag, nginx:1.27 that one, quay.io/team/* all below it. In a build
    /// context manifests/imageListIgnore is read too.
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "What to save")]
    pub ignore: Vec<PathBuf>,
    /// Read the values and templates of charts even if helm is installed
    #[arg(long, help_heading = "What to save")]
    pub no_helm: bool,
}

/// Scans.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = save::screen(global, environment);
    save::ended(found(args, environment).map(|found| tell(&found, args, global.quiet, screen.paint())))
}

fn found(args: &Args, environment: &Environment) -> Result<Found> {
    if args.path.as_os_str() != "-" {
        return look(&args.path, &args.look, environment, &[], scan::path);
    }
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text);
    read.map_err(|cause| Error::new(ErrorKind::InvalidInput, "stdin", format!("cannot be read: {cause}")))?;
    let mut found = Found::default();
    let ignore = ignored(None, &args.look.ignore)?;
    scan::text(&mut found, "stdin", Kind::Yaml, &text);
    found.leave_out(&ignore);
    Ok(found)
}

/// What a way of scanning finds below `root`, as the flags say.
///
/// Must be called on a runtime.
///
/// # Errors
/// `InvalidInput` when an ignore list is wrong or there is nothing to scan.
pub(crate) fn look(
    root: &Path,
    args: &LookArgs,
    environment: &Environment,
    skip: &[PathBuf],
    way: fn(&Path, &ScanOptions<'_>) -> Result<Found>,
) -> Result<Found> {
    let helm = if args.no_helm { None } else { Helm::find(environment) };
    let _guard = helm.as_ref().map(Helm::guard).transpose()?;
    let options = ScanOptions {
        ignore: ignored(Some(root), &args.ignore)?,
        skip: skip.to_vec(),
        render: helm.as_ref().map(|helm| helm as &dyn Render),
    };
    let mut found = way(root, &options)?;
    let own = root.join(CONTEXT_IGNORE);
    if std::fs::symlink_metadata(&own).is_ok_and(|kind| !kind.is_file()) {
        let origin = SourceLocation { file: own.display().to_string().into(), line: 0, module: None };
        found.unread.push(Diagnostic { origin, message: scan::IRREGULAR.into(), hint: None });
    }
    Ok(found)
}

/// The ignore lists that are named, and the own one of the context at `root`.
fn ignored(root: Option<&Path>, files: &[PathBuf]) -> Result<Ignore> {
    let own = root.map(|root| root.join(CONTEXT_IGNORE));
    let own = own.filter(|own| std::fs::symlink_metadata(own).is_ok_and(|kind| kind.is_file()));
    let mut ignore = Ignore::default();
    let mut problems: Vec<Diagnostic> = Vec::new();
    for file in files.iter().chain(&own) {
        let mut text = Vec::new();
        let opened = std::fs::File::open(file);
        let read = opened.and_then(|file| file.take(MAX_IGNORE_BYTES + 1).read_to_end(&mut text));
        read.map_err(|cause| {
            Error::new(
                ErrorKind::InvalidInput,
                file.display(),
                format!("cannot read the ignore list: {cause}"),
            )
        })?;
        if text.len() as u64 > MAX_IGNORE_BYTES {
            let why = format!("an ignore list has at most {MAX_IGNORE_BYTES} bytes");
            return Err(Error::new(ErrorKind::InvalidInput, file.display(), why));
        }
        problems.extend(ignore.read(&file.display().to_string(), &text));
    }
    // All that is wrong is told at once; the last of it ends the command.
    let last = problems.pop();
    for problem in problems {
        output::stderr(&format!("error: {}", clean(&problem.to_string())));
    }
    last.map_or(Ok(ignore), |problem| Err(problem.into()))
}

fn tell(found: &Found, args: &Args, quiet: bool, paint: Paint) -> Exit {
    let review = Review::of(found);
    // Each line is cleaned by itself, so that lines stay lines.
    let text: String = if args.json {
        let text = serde_json::to_string_pretty(&review).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", output::clean_json(line))).collect()
    } else {
        review.to_list().lines().map(|line| format!("{}\n", clean(line))).collect()
    };
    let exit = output::stdout(text.as_bytes());
    remarks(found, quiet, paint);
    if !quiet {
        let (images, doubtful) = (review.images.len(), review.doubtful.len());
        let doubtful = if doubtful == 0 { String::new() } else { format!(", {doubtful} doubtful") };
        output::stderr(&format!("{}{doubtful}", count(images, "image")));
    }
    match exit {
        Exit::Done if !is_whole(found) => Exit::SomeFailed,
        exit => exit,
    }
}

/// Whether everything could be read.
pub(crate) fn is_whole(found: &Found) -> bool {
    found.unread.is_empty() && found.problems.is_empty()
}

/// Tells what could not be read, and what is worth knowing.
pub(crate) fn remarks(found: &Found, quiet: bool, paint: Paint) {
    for problem in found.problems.iter().chain(&found.unread) {
        output::stderr(&format!("{} {}", paint.yellow("warning:"), clean(&problem.to_string())));
    }
    if quiet {
        return;
    }
    for note in found.notes.iter().take(NOTES) {
        output::stderr(&format!("{} {}", paint.dim("note:"), clean(&note.to_string())));
    }
    if found.notes.len() > NOTES {
        output::stderr(&format!("{} and {} more like these", paint.dim("note:"), found.notes.len() - NOTES));
    }
}
