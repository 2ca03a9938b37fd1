//! `saver build-context`: saves the images of a build context into it.

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
use crate::list::{self, ImageList};
use crate::scan::{Discovery, ScanReport};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many doubtful finds are printed; the others are counted.
const DOUBTS: usize = 20;

/// The arguments of `saver build-context`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Build context: the directory with the Kubefile, manifests and charts
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Directory to save into, below PATH
    #[arg(long, value_name = "DIR", default_value = "registry", help_heading = "Where it goes")]
    pub registry_dir: PathBuf,
    /// How to find images.
    #[command(flatten)]
    pub look: LookArgs,
    /// What and how to save.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Runs `saver build-context`.
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
    let found = scan::look(
        &args.path,
        &args.look,
        environment,
        std::slice::from_ref(&dir),
        crate::scan::build_context,
    )?;
    let report = ScanReport::of(&found);
    let is_complete = found.unread.is_empty() && report.open_doubts().next().is_none();
    let list = images(found, global, screen)?;
    if list.entries.is_empty() {
        print_doubtful(&report, &args.path, global, screen.paint());
        if !global.quiet {
            let path = args.path.display().to_string();
            output::stderr(&format!("{}: the build context names no images", clean(&path)));
        }
        return Ok(if is_complete { Exit::Done } else { Exit::SomeFailed });
    }
    let job = Job::resolve(&args.run, &dir, list, global, environment, screen)?;
    print_doubtful(&report, &args.path, global, screen.paint());
    Ok(match job.run(&args.run, global, screen).await? {
        Exit::Done if !is_complete => Exit::SomeFailed,
        exit => exit,
    })
}

/// Refuses a registry directory behind a symbolic link: a context from elsewhere must not decide where to save.
fn stays_inside(context: &Path, registry: &Path) -> Result<()> {
    if registry.is_absolute() {
        return Ok(());
    }
    let mut place = context.to_owned();
    for name in registry.components() {
        place.push(name);
        if std::fs::symlink_metadata(&place).is_ok_and(|kind| kind.is_symlink()) {
            let why = "a symbolic link in a build context is not followed";
            return Err(Error::new(ErrorKind::InvalidInput, place.display(), why)
                .with_hint("remove the link, or give --registry-dir an absolute path"));
        }
    }
    Ok(())
}

/// The images to save. An invalid list ends the run.
fn images(mut found: Discovery, global: &GlobalArgs, screen: &Screen) -> Result<ImageList> {
    let problems = std::mem::take(&mut found.problems);
    scan::print_diagnostics(&found, global.quiet, screen.paint());
    let mut all = list::merge([ImageList { entries: found.images, problems, ..ImageList::default() }]);
    // An image in several files is no mistake here.
    all.duplicates.clear();
    lists::settle(all, screen, global.quiet)
}

/// Prints the doubtful finds, which are not saved.
fn print_doubtful(report: &ScanReport, path: &Path, global: &GlobalArgs, paint: Paint) {
    if global.quiet {
        return;
    }
    let doubtful: Vec<_> = report.open_doubts().collect();
    let word = paint.yellow("warning:");
    for doubt in doubtful.iter().take(DOUBTS) {
        let name = if doubt.text.is_empty() { "an image" } else { &doubt.text };
        let place = doubt.sources.first().map(String::as_str).unwrap_or_default();
        let message = format!("{place}: not saved: {name} ({})", doubt.message);
        output::stderr(&format!("{word} {}", clean(&message)));
    }
    if doubtful.len() > DOUBTS {
        let more = doubtful.len() - DOUBTS;
        output::stderr(&format!(
            "{word} and {more} more doubtful finds; saver scan {} lists all",
            clean(&path.display().to_string())
        ));
    }
    if !doubtful.is_empty() {
        output::stderr(
            "  hint: list the images that are needed in manifests/imageList, and the others in manifests/imageListIgnore",
        );
    }
}
