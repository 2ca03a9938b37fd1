//! `saver verify`: checks the content of a directory, and repairs it.

use super::save;
use crate::cli::args::images::{ListArgs, MatchArgs, SelectionArgs};
use crate::cli::args::missing_option;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::save::{LockArgs, RunArgs, SaveArgs};
use crate::cli::args::transfer::DryRunArgs;
use crate::cli::args::tree::{DirArgs, DirectoryArgs};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::cli::ui::progress::HashingProgress;
use crate::cli::{lists, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Reference, Tag};
use crate::store::Store;
use crate::verify::{
    Completeness, ExpectedImage, MissingImage, MissingKind, Note, Problem, Repair, Taken, TrustReport,
    UntrustedImage, VerifyOptions, VerifyReport, repair, verify,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Paths of a note beyond these are only counted; the JSON form has all.
const MAX_PATHS: usize = 10;

/// The arguments of `verify`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where the images are.
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// Hash every blob; without it, only manifests are hashed, and blobs are checked by size
    #[arg(long, help_heading = "Check")]
    pub(crate) deep: bool,
    /// Repair the directory: restore links, remove incomplete tags, move damaged content to DIR/.saver/damaged
    ///
    /// With --list, the images of the lists are then saved again, as saver save does with the same options and settings. Without
    /// --repair, the directory is compared with the lists.
    #[arg(long, help_heading = "Check")]
    pub(crate) repair: bool,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
    /// Images that should be there, or to save again.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Tags that they select.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// How to save them.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Checks a directory, and repairs it with `--repair`. The exit code is 1 if there is a problem, or a tag was lost to a repair.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `Storage`.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let dir = args.directory.path()?;
    if args.repair {
        return repair_and_save(args, context).await;
    }
    let mut options = options(args, context);
    options.expected = expected(args, context)?;
    options.names = args.run.names.rule()?;
    options.policy = args.run.policy.read()?;
    let store = tree::open_unchecked(dir)?;
    let report = tokio::task::block_in_place(|| verify(&store, &options))?;
    drop(options);
    let text = if args.json.json { json(&report) } else { text(&report, args, dir, context).into_bytes() };
    Ok(match output::stdout(&text) {
        Exit::Done if !report.is_clean() || !report.is_complete() || !report.is_trusted() => Exit::SomeFailed,
        exit => exit,
    })
}

/// The images of the lists, which should be in the directory.
fn expected(args: &Args, context: &Context<'_>) -> Result<Option<Vec<ExpectedImage>>> {
    if args.lists.list.is_empty() {
        return Ok(None);
    }
    let context = if args.json.json { &context.quietly() } else { context };
    let selected = args.run.fetch.platforms.selected()?;
    let mut expected = Vec::new();
    for entry in lists::read(&args.lists.list, &[], context)? {
        let manifests = entry.lock.iter().flat_map(|lock| lock.manifests.iter().map(|one| one.digest));
        let platforms = entry.platforms.clone().or_else(|| selected.clone()).ok_or_else(|| {
            missing_option("--arch", "add the platforms that should be there: --arch amd64, for example")
        })?;
        expected.push(ExpectedImage {
            reference: entry.reference,
            platforms,
            manifests: manifests.collect(),
        });
    }
    Ok(Some(expected))
}

/// The options; their observer shows the progress until it is dropped.
fn options(args: &Args, context: &Context<'_>) -> VerifyOptions {
    let progress = Arc::new(HashingProgress::start(context));
    VerifyOptions::default().with_deep(args.deep).with_observer(progress)
}

async fn repair_and_save(args: &Args, context: &Context<'_>) -> Result<Exit> {
    if args.run.policy.policy.is_some() && args.lists.list.is_empty() {
        let why = "--repair checks no signatures";
        return Err(Error::new(ErrorKind::InvalidInput, "--policy", why)
            .with_hint("run saver verify --policy FILE without --repair"));
    }
    let again = if args.lists.list.is_empty() { None } else { Some(save_args(args, context)?) };
    let store = tree::open_unchecked(args.directory.path()?)?;
    let repair = tokio::task::block_in_place(|| repair(&store, &options(args, context)))?;
    let text = if args.json.json {
        json(&repair)
    } else {
        repair_text(&repair, again.is_some(), context.is_quiet()).into_bytes()
    };
    let exit = match output::stdout(&text) {
        Exit::Done if !repair.is_whole() => Exit::SomeFailed,
        exit => exit,
    };
    let Some(again) = again else { return Ok(exit) };
    let saved = if args.json.json {
        save::run(&again, &context.quietly()).await?
    } else {
        save::run(&again, context).await?
    };
    let is_mended = || -> Result<bool> {
        let is_clean = repair.after.is_clean() || verify(&store, &VerifyOptions::default())?.is_clean();
        Ok(is_clean && repair.lost.iter().all(|image| is_restored(&store, image)))
    };
    Ok(match saved {
        Exit::Done if tokio::task::block_in_place(is_mended)? => Exit::Done,
        Exit::Done => Exit::SomeFailed,
        exit => exit,
    })
}

/// Whether a tag, named `repository:tag`, exists again.
fn is_restored(store: &Store, image: &str) -> bool {
    let Some((repository, tag)) = image.rsplit_once(':') else { return false };
    let (Ok(repository), Ok(tag)) = (repository.parse(), tag.parse()) else { return false };
    matches!(store.read_tag(&repository, &tag), Ok(Some(_)))
}

/// The arguments of saving again. Lists are checked before anything is repaired.
fn save_args(args: &Args, context: &Context<'_>) -> Result<SaveArgs> {
    if args.lists.reads_stdin() {
        let why = "the list is read twice, which stdin cannot be: put it in a file";
        return Err(Error::new(ErrorKind::InvalidInput, "--list -", why));
    }
    let list = lists::read_list(&args.lists.list, &[], &context.quietly())?;
    let selected = list.selections.iter().map(|one| one.entry(Tag::latest()).platforms);
    let mut platforms = list.entries.iter().map(|entry| entry.platforms.clone()).chain(selected);
    let needs_arch = platforms.any(|platforms| platforms.is_none());
    if args.run.fetch.platforms.selected()?.is_none() && needs_arch {
        let hint = "the images of --list are saved again: add --arch amd64, for example";
        return Err(missing_option("--arch", hint));
    }
    Ok(SaveArgs {
        images: Vec::new(),
        lists: args.lists.clone(),
        rules: MatchArgs::default(),
        selection: args.selection,
        lock: LockArgs::default(),
        dir: DirArgs { dir: Some(args.directory.path()?.to_owned()) },
        run: args.run.clone(),
        dry_run: DryRunArgs { dry_run: false },
    })
}

fn text(report: &VerifyReport, args: &Args, dir: &Path, context: &Context<'_>) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        text.push_str(&problem_text(problem, &report.sources));
    }
    for missing in report.expected.iter().flat_map(|expected| &expected.missing) {
        text.push_str(&missing_text(missing));
    }
    for image in report.trust.iter().flat_map(|trust| &trust.untrusted) {
        text.push_str(&untrusted_text(image));
    }
    if context.is_quiet() {
        return text;
    }
    for note in &report.notes {
        text.push_str(&note_text(note));
    }
    text.push_str(&summary(report));
    text.push_str(&hint(report, args, dir));
    if !report.deep {
        text.push_str("not checked: the content of layers and configurations; --deep hashes it\n");
    }
    text
}

/// The command that repairs the directory, or that saves what it lacks; empty if nothing is wrong.
fn hint(report: &VerifyReport, args: &Args, dir: &Path) -> String {
    let dir = dir.display().to_string();
    let list = args.lists.list.first().map_or_else(|| "FILE".to_owned(), |list| list.display().to_string());
    let deep = if report.deep { "--deep " } else { "" };
    let command = if !report.is_clean() {
        format!(
            "verify {dir} {deep}--repair --list {list} --arch ARCH repairs it, and downloads the images of the list again"
        )
    } else if !report.is_complete() {
        let mut missing = report.expected.iter().flat_map(|expected| &expected.missing);
        if missing.any(|missing| missing.kind == MissingKind::OtherSource) {
            format!(
                "save --dir {dir} --list {list} --arch ARCH --replace saves the images of the list in their place"
            )
        } else {
            format!("save --dir {dir} --list {list} --arch ARCH downloads what is missing")
        }
    } else {
        return String::new();
    };
    format!("  hint: saver {}\n", clean(&command))
}

fn missing_text(missing: &MissingImage) -> String {
    let reference = &missing.reference;
    if missing.kind == MissingKind::OtherDigest {
        let found = missing.digest.map_or_else(|| "another image".to_owned(), |digest| digest.to_string());
        return format!("other digest: {reference}\n  the directory has {found}\n");
    }
    match (&missing.source, missing.platforms.as_slice()) {
        (Some(source), _) => {
            format!("missing image: {reference}\n  the image in its place comes from {source}\n")
        }
        (None, []) => format!("missing image: {reference}\n"),
        (None, platforms) => format!("missing platform: {reference}\n  {}\n", platforms.join("\n  ")),
    }
}

fn untrusted_text(image: &UntrustedImage) -> String {
    let source = image.source.as_ref().map(|source| format!(" (from {source})")).unwrap_or_default();
    let mut text = format!("untrusted: {}{source}\n  {}\n", clean(&image.image), clean(&image.error.message));
    if let Some(hint) = &image.error.hint {
        text.push_str(&format!("  {}\n", clean(hint)));
    }
    text
}

fn repair_text(repair: &Repair, has_list: bool, quiet: bool) -> String {
    let problems = |report: &VerifyReport| -> String {
        report.problems.iter().map(|problem| problem_text(problem, &report.sources)).collect()
    };
    let mut text = problems(&repair.before);
    for taken in &repair.taken {
        text.push_str(&match taken {
            Taken::Mended { path } => format!("repaired: {}\n", clean(path)),
            Taken::Removed { path } => format!("removed: {}\n", clean(path)),
            Taken::SetAside { path, to } => format!("moved: {}\n  to {}\n", clean(path), clean(to)),
        });
    }
    for image in &repair.lost {
        text.push_str(&format!("lost: {}\n", clean(image)));
    }
    if !repair.lost.is_empty() && !quiet && !has_list {
        text.push_str("  hint: saver save downloads these images again, and so does --repair with --list FILE --arch ARCH\n");
    }
    text.push_str(&problems(&repair.after));
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

fn problem_text(problem: &Problem, sources: &BTreeMap<String, Reference>) -> String {
    let mut text = format!("{}: {}\n", problem.kind.as_str(), clean(&problem.path));
    text.push_str(&format!("  {}\n", clean(&problem.message)));
    if let Some(digest) = &problem.digest {
        text.push_str(&format!("  digest {digest}\n"));
    }
    for image in &problem.images {
        let source = sources.get(image).map(|source| format!(" (from {source})"));
        text.push_str(&format!("  image  {}{}\n", clean(image), source.unwrap_or_default()));
    }
    text
}

fn note_text(note: &Note) -> String {
    let paths: Vec<&String> = note.paths.iter().filter(|path| !path.is_empty()).collect();
    let size = note.bytes.map(|bytes| format!(", {}", output::size(bytes))).unwrap_or_default();
    let counted = if paths.is_empty() { String::new() } else { format!(" ({}{size})", paths.len()) };
    let mut text = format!("note: {}{counted}\n", clean(&note.message));
    for path in paths.iter().take(MAX_PATHS) {
        text.push_str(&format!("  {}\n", clean(path)));
    }
    if paths.len() > MAX_PATHS {
        text.push_str(&format!("  and {} more; --json lists all\n", paths.len() - MAX_PATHS));
    }
    text
}

fn summary(report: &VerifyReport) -> String {
    let problems = match report.problems.len() {
        // What is missing or untrusted is closing statement enough.
        0 if !report.is_complete() || !report.is_trusted() => None,
        0 => Some("no problems".to_owned()),
        number => {
            let broken = output::count(report.broken.len(), "broken tag");
            Some(format!("{}, {broken}", output::count(number, "problem")))
        }
    };
    let complete = report.expected.as_ref().map(|Completeness { images, missing, .. }| {
        let images = output::count(*images, "image");
        match missing.len() {
            0 => format!("complete ({images} of the list)"),
            number => format!("incomplete ({number} of {images} of the list)"),
        }
    });
    let trusted = report.trust.as_ref().map(|TrustReport { images, untrusted, .. }| {
        let images = output::count(*images, "image");
        match untrusted.len() {
            0 => format!("trusted ({images})"),
            number => format!("untrusted ({number} of {images})"),
        }
    });
    let parts: Vec<String> = [problems, complete, trusted].into_iter().flatten().collect();
    let contents = format!(
        "{}, {} ({}{}) in {}",
        output::count(report.tags, "tag"),
        output::count(report.blobs, "blob"),
        output::size(report.blob_bytes),
        if report.deep { ", all hashed" } else { "" },
        output::time(Duration::from_secs_f64(report.seconds.max(0.0))),
    );
    format!("{}: {contents}\n", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{NoteKind, ProblemKind};

    #[test]
    fn problem_names_path_digest_and_images() {
        let digest = crate::oci::Digest::of(b"x");
        let problem = Problem {
            path: "docker/\x1b[31m/data".into(),
            kind: ProblemKind::Corrupt,
            digest: Some(digest),
            images: vec!["a:1".into(), "b:2".into()],
            message: "it is empty".into(),
        };
        let text = problem_text(&problem, &BTreeMap::new());
        assert_eq!(
            text,
            format!(
                "corrupt: docker/\\u{{1b}}[31m/data\n  it is empty\n  digest {digest}\n  image  a:1\n  image  b:2\n"
            )
        );
    }

    #[test]
    fn long_note_is_shortened() {
        let paths = (0..12).map(|number| format!("p{number}")).collect();
        let note =
            Note { kind: NoteKind::Unreferenced, message: "blobs".into(), paths, bytes: Some(2_000_000) };
        let text = note_text(&note);
        assert!(text.starts_with("note: blobs (12, 2.00 MB)\n  p0\n"), "{text}");
        assert!(text.ends_with("  p9\n  and 2 more; --json lists all\n"), "{text}");
    }
}
