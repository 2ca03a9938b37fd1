//! `saver verify`: whether a directory holds what it promises.

use super::args::GlobalArgs;
use super::exit::Exit;
use super::output::{self, clean};
use super::screen::{self, Screen};
use crate::error::Result;
use crate::store::Store;
use crate::verify::{Note, Problem, VerifyObserver, VerifyOptions, VerifyReport, verify};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// How many paths of a note are printed for people; the JSON form has all.
const PATHS_SHOWN: usize = 10;

/// The arguments of verifying.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Hash every blob; else only manifests, and blobs of a wrong size
    #[arg(long)]
    pub deep: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Verifies. Ends with 1 if anything is wrong.
pub(super) fn run(args: &Args, global: &GlobalArgs) -> Exit {
    screen::start_log(&Screen::new(false), global.verbose, global.log_format);
    match check(args, global) {
        Ok(exit) => exit,
        Err(error) => {
            output::failure(&error);
            Exit::of_error(&error)
        }
    }
}

fn check(args: &Args, global: &GlobalArgs) -> Result<Exit> {
    let mut options = VerifyOptions::default();
    options.deep = args.deep;
    let bar = Bar::new(!global.quiet && std::io::stderr().is_terminal());
    let store = Store::open_read_only(&args.dir)?;
    let report = verify(&store, &options, &bar)?;
    bar.0.finish_and_clear();
    let text = if args.json { json(&report) } else { text(&report, global.quiet) };
    Ok(match output::stdout(text.as_bytes()) {
        Exit::Done if !report.is_clean() => Exit::SomeFailed,
        exit => exit,
    })
}

/// How far the hashing is.
pub(super) struct Bar(ProgressBar);

impl Bar {
    fn new(shown: bool) -> Self {
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
