//! `saver verify`: whether a directory holds what it promises.

use crate::cli::args::{GlobalArgs, RegistryArgs, SaveArgs};
use crate::cli::config::Environment;
use crate::cli::lists;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::cli::ui::terminal::{self, Screen};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use crate::verify::{
    Note, Problem, Repair, Taken, VerifyObserver, VerifyOptions, VerifyReport, repair, verify,
};
use clap::{ArgAction, Args as _, FromArgMatches};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How many paths of a note are printed for people; the JSON form has all.
const PATHS_SHOWN: usize = 10;

/// The arguments of verifying.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Hash every blob; else only manifests, and blobs of a wrong size
    #[arg(long)]
    pub deep: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Take what is damaged out of the way
    #[arg(long)]
    pub repair: bool,
    /// After a repair, save the images listed in FILE again: what is there is not fetched; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append, requires = "repair", help_heading = "What to save again")]
    pub list: Vec<PathBuf>,
    /// Architectures to save, as in saver save
    #[arg(long, value_name = "ARCH[,ARCH]", action = ArgAction::Append, help_heading = "What to save again")]
    pub arch: Vec<String>,
    /// Names in the tree, as in saver save
    #[arg(long, value_name = "NAMES", default_value = "strip", help_heading = "What to save again")]
    pub names: String,
    /// How to reach the registries, and as whom.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Verifies. Ends with 1 if anything is wrong, or was lost to a repair.
pub(crate) fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let log = Screen::new(false);
    let ended = if args.repair {
        mend(args, global, environment, &log)
    } else {
        terminal::start_log(&log, global.verbose, global.log_format);
        check(args, global)
    };
    ended.unwrap_or_else(|error| {
        output::failure(&error);
        Exit::of_error(&error)
    })
}

fn check(args: &Args, global: &GlobalArgs) -> Result<Exit> {
    let bar = Bar::new(global);
    let store = tree::there(tree::dir(args.dir.as_ref())?)?;
    let report = verify(&store, &options(args), &bar)?;
    bar.0.finish_and_clear();
    let text = if args.json { json(&report) } else { text(&report, global.quiet) };
    Ok(match output::stdout(text.as_bytes()) {
        Exit::Done if !report.is_clean() => Exit::SomeFailed,
        exit => exit,
    })
}

fn options(args: &Args) -> VerifyOptions {
    VerifyOptions { deep: args.deep, ..VerifyOptions::default() }
}

fn mend(args: &Args, global: &GlobalArgs, environment: &Environment, log: &Arc<Screen>) -> Result<Exit> {
    let again = if args.list.is_empty() {
        terminal::start_log(log, global.verbose, global.log_format);
        None
    } else {
        let again = save_args(args)?;
        if args.list.iter().any(|list| list.as_os_str() == "-") {
            let why = "the list is read twice, which stdin can't be: put it in a file";
            return Err(Error::new(ErrorKind::InvalidInput, "--list -", why));
        }
        // A list that is wrong is told before anything is taken away.
        lists::read(&args.list, &[], log, true)?;
        Some(again)
    };
    let bar = Bar::new(global);
    let store = tree::there(tree::dir(args.dir.as_ref())?)?;
    let repair = repair(&store, &options(args), &bar)?;
    bar.0.finish_and_clear();
    let told = if args.json { json(&repair) } else { of_repair(&repair, global.quiet) };
    let exit = match output::stdout(told.as_bytes()) {
        Exit::Done if !repair.is_whole() => Exit::SomeFailed,
        exit => exit,
    };
    let Some(again) = again.filter(|_| repair.after.is_clean()) else { return Ok(exit) };
    let mut global = global.clone();
    global.quiet |= args.json;
    let saved =
        crate::cli::block_on(async { crate::cli::commands::save::run(&again, &global, environment).await });
    Ok(match saved {
        Exit::Done if repair.lost.iter().all(|image| is_back(&store, image)) => Exit::Done,
        Exit::Done => Exit::SomeFailed,
        exit => exit,
    })
}

/// Whether a tag, named `repository:tag`, is there.
fn is_back(store: &Store, image: &str) -> bool {
    let Some((repository, tag)) = image.rsplit_once(':') else { return false };
    let (Ok(repository), Ok(tag)) = (repository.parse(), tag.parse()) else { return false };
    matches!(store.read_tag(&repository, &tag), Ok(Some(_)))
}

/// The arguments of saving that are said here, the others as they are by default.
fn save_args(args: &Args) -> Result<SaveArgs> {
    let command = SaveArgs::augment_args(clap::Command::new("save"));
    let matches = command.try_get_matches_from(["save"]);
    let default = matches.and_then(|matches| SaveArgs::from_arg_matches(&matches));
    let mut save = default.map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "saver save", format!("cannot be prepared: {error}"))
    })?;
    save.dir.clone_from(&args.dir);
    save.list = args.list.clone();
    save.run.arch = args.arch.clone();
    save.run.names = args.names.clone();
    save.run.registry = args.registry.clone();
    if save.run.arch.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "--arch", "is missing")
            .with_hint("the images of --list are saved again: add --arch amd64, say"));
    }
    Ok(save)
}

/// How far the hashing is.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    fn new(global: &GlobalArgs) -> Self {
        let shown = !global.quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let form =
            "  hashing [{bar:30}] {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }
}

impl VerifyObserver for Bar {
    fn hashing(&self, _: usize, bytes: u64) {
        self.0.reset();
        self.0.set_length(bytes);
    }

    fn hashed(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// JSON escapes control characters by itself.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.lines().map(|line| format!("{}\n", output::clean_json(line))).collect()
}

fn text(report: &VerifyReport, quiet: bool) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        text.push_str(&of_problem(problem));
    }
    if quiet {
        return text;
    }
    for note in &report.notes {
        text.push_str(&of_note(note));
    }
    text.push_str(&summary(report));
    text
}

fn of_repair(repair: &Repair, quiet: bool) -> String {
    let mut text: String = repair.before.problems.iter().map(of_problem).collect();
    for taken in &repair.taken {
        text.push_str(&match taken {
            Taken::Mended { path } => format!("mended: {}\n", clean(path)),
            Taken::Removed { path } => format!("removed: {}\n", clean(path)),
            Taken::SetAside { path, to } => format!("set aside: {}\n  now {}\n", clean(path), clean(to)),
        });
    }
    for image in &repair.lost {
        text.push_str(&format!("lost: {}\n", clean(image)));
    }
    text.push_str(&repair.after.problems.iter().map(of_problem).collect::<String>());
    if !quiet {
        if !repair.before.is_clean() {
            let problems = output::count(repair.before.problems.len(), "problem");
            text.push_str(&format!(
                "{problems} before, {} lost; now ",
                output::count(repair.lost.len(), "tag")
            ));
        }
        text.push_str(&summary(&repair.after));
    }
    text
}

fn of_problem(problem: &Problem) -> String {
    let mut text = format!("{}: {}\n", problem.kind.as_str(), clean(&problem.path));
    text.push_str(&format!("  {}\n", clean(&problem.message)));
    if let Some(digest) = &problem.digest {
        text.push_str(&format!("  digest {digest}\n"));
    }
    for image in &problem.images {
        text.push_str(&format!("  image  {}\n", clean(image)));
    }
    text
}

fn of_note(note: &Note) -> String {
    let paths: Vec<&String> = note.paths.iter().filter(|path| !path.is_empty()).collect();
    let size = note.bytes.map(|bytes| format!(", {}", output::size(bytes))).unwrap_or_default();
    let counted = if paths.is_empty() { String::new() } else { format!(" ({}{size})", paths.len()) };
    let mut text = format!("note: {}{counted}\n", clean(&note.message));
    for path in paths.iter().take(PATHS_SHOWN) {
        text.push_str(&format!("  {}\n", clean(path)));
    }
    if paths.len() > PATHS_SHOWN {
        text.push_str(&format!("  and {} more; --json has all\n", paths.len() - PATHS_SHOWN));
    }
    text
}

fn summary(report: &VerifyReport) -> String {
    let held = format!(
        "{}, {} ({}{}) in {}",
        output::count(report.tags, "tag"),
        output::count(report.blobs, "blob"),
        output::size(report.blob_bytes),
        if report.deep { ", all hashed" } else { "" },
        output::time(Duration::from_secs_f64(report.seconds.max(0.0))),
    );
    if report.is_clean() {
        return format!("nothing is wrong: {held}\n");
    }
    let problems = output::count(report.problems.len(), "problem");
    let broken = output::count(report.broken.len(), "broken tag");
    format!("{problems}, {broken}: {held}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{NoteKind, ProblemKind};

    #[test]
    fn what_is_wrong_is_named() {
        let digest = crate::oci::Digest::of(b"x");
        let problem = Problem {
            path: "docker/\x1b[31m/data".into(),
            kind: ProblemKind::Corrupt,
            digest: Some(digest),
            images: vec!["a:1".into(), "b:2".into()],
            message: "it is empty".into(),
        };
        let text = of_problem(&problem);
        assert_eq!(
            text,
            format!(
                "corrupt: docker/\\u{{1b}}[31m/data\n  it is empty\n  digest {digest}\n  image  a:1\n  image  b:2\n"
            )
        );
    }

    #[test]
    fn long_notes_are_cut() {
        let paths = (0..12).map(|number| format!("p{number}")).collect();
        let note =
            Note { kind: NoteKind::Unreferenced, message: "blobs".into(), paths, bytes: Some(2_000_000) };
        let text = of_note(&note);
        assert!(text.starts_with("note: blobs (12, 2.00 MB)\n  p0\n"), "{text}");
        assert!(text.ends_with("  p9\n  and 2 more; --json has all\n"), "{text}");
    }
}
