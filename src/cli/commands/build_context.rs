//! `saver build-context`: the images of a build context, saved into it.

use crate::cli::args::{GlobalArgs, RunArgs};
use crate::cli::commands::save::{self, Job};
use crate::cli::commands::scan::{self, LookArgs};
use crate::cli::config::Environment;
use crate::cli::lists;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::cli::ui::output::{Paint, clean};
use crate::cli::ui::terminal::Screen;
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, ImageList, ListEntry};
use crate::scan::{Found, Review};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Doubtful finds beyond these are counted only.
const DOUBTS: usize = 20;

/// The arguments of saving what a build context names.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The build context: the directory that manifests and charts are in
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Where to save, below PATH
    #[arg(long, value_name = "DIR", default_value = "registry", help_heading = "Where it goes")]
    pub registry_dir: PathBuf,
    /// How to look for images.
    #[command(flatten)]
    pub look: LookArgs,
    /// What and how to save.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Scans and saves.
pub(crate) async fn run(args: &Args, global: &GlobalArgs, environment: &Environment) -> Exit {
    let screen = save::screen(global, environment);
    save::ended(built(args, global, environment, &screen).await)
}

async fn built(
    args: &Args,
    global: &GlobalArgs,
    environment: &Environment,
    screen: &Arc<Screen>,
) -> Result<Exit> {
    let dir = args.path.join(&args.registry_dir);
    stays_inside(&args.path, &args.registry_dir)?;
    let found =
        scan::look(&args.path, &args.look, environment, std::slice::from_ref(&dir), crate::scan::context)?;
    let whole = found.unread.is_empty();
    let review = Review::of(&found);
    let entries = entries(found, global, screen)?;
    if entries.is_empty() {
        tell_doubtful(&review, &args.path, global, screen.paint());
        if !global.quiet {
            let path = args.path.display().to_string();
            output::stderr(&format!("{}: no images are named in it", clean(&path)));
        }
        return Ok(if whole { Exit::Done } else { Exit::SomeFailed });
    }
    let job = Job::resolve(&args.run, &dir, entries, global, environment, screen)?;
    tell_doubtful(&review, &args.path, global, screen.paint());
    Ok(match job.run(&args.run, global, screen).await? {
        Exit::Done if !whole => Exit::SomeFailed,
        exit => exit,
    })
}

/// Makes sure that nothing in a context, which may be a stranger's, leads what is saved to elsewhere.
fn stays_inside(context: &Path, registry: &Path) -> Result<()> {
    if registry.is_absolute() {
        return Ok(());
    }
    let mut place = context.to_owned();
    for name in registry.components() {
        place.push(name);
        if std::fs::symlink_metadata(&place).is_ok_and(|kind| kind.is_symlink()) {
            let why = "this is a symbolic link: what a context holds does not decide where to save";
            return Err(Error::new(ErrorKind::InvalidInput, place.display(), why).with_hint(
                "take the link away, or name the directory yourself: --registry-dir with its absolute path",
            ));
        }
    }
    Ok(())
}

/// The images to save. What is wrong in a list ends the run.
fn entries(mut found: Found, global: &GlobalArgs, screen: &Screen) -> Result<Vec<ListEntry>> {
    let problems = std::mem::take(&mut found.problems);
    scan::remarks(&found, global.quiet, screen.paint());
    // One image in many files is no mistake here: it needs no note.
    let mut all = list::merge([ImageList { entries: found.entries, problems, ..ImageList::default() }]);
    all.notes.clear();
    lists::settle(all, screen, global.quiet)
}

/// What is not saved, because nobody knows whether it is meant.
fn tell_doubtful(review: &Review, path: &Path, global: &GlobalArgs, paint: Paint) {
    if global.quiet {
        return;
    }
    let (doubtful, word) = (&review.doubtful, paint.yellow("warning:"));
    for doubt in doubtful.iter().take(DOUBTS) {
        let name = if doubt.text.is_empty() { "an image" } else { &doubt.text };
        let places = doubt.sources.first().map(String::as_str).unwrap_or_default();
        let told = format!("{places}: not saved: {name} ({})", doubt.why);
        output::stderr(&format!("{word} {}", clean(&told)));
    }
    if doubtful.len() > DOUBTS {
        let more = doubtful.len() - DOUBTS;
        output::stderr(&format!(
            "{word} and {more} more doubtful finds; saver scan {} lists all",
            clean(&path.display().to_string())
        ));
    }
}
