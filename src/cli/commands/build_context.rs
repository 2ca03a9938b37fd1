//! `saver build-context`: the images of a build context, saved into it.

use super::save::SaveJob;
use super::scan::{self, LookArgs};
use crate::cli::args::save::RunArgs;
use crate::cli::args::transfer::DryRunArgs;
use crate::cli::args::tree::local_path;
use crate::cli::context::Context;
use crate::cli::lists;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, ImageList};
use crate::scan::{Discovery, ScanReport};
use std::path::{Path, PathBuf};

/// Doubtful finds beyond these are only counted.
const MAX_DOUBTFUL: usize = 20;

/// The arguments of `build-context`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Build context: the directory with the Kubefile, manifests and charts
    #[arg(value_name = "PATH", value_parser = local_path())]
    pub(crate) path: PathBuf,
    /// Directory to save into, relative to PATH
    #[arg(long, value_name = "DIR", default_value = "registry", help_heading = "Directory", value_parser = local_path())]
    pub(crate) registry_dir: PathBuf,
    /// How images are found.
    #[command(flatten)]
    pub(crate) look: LookArgs,
    /// What and how to save.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Whether to save at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
}

/// Scans the context and saves the images that it names.
///
/// # Errors
/// `InvalidInput` when the context or an option is wrong; whatever keeps the run from continuing.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let dir = args.path.join(&args.registry_dir);
    refuse_links(&args.path, &args.registry_dir)?;
    let skip = std::slice::from_ref(&dir);
    let found = scan::look(&args.path, &args.look, context.environment, skip, crate::scan::build_context)?;
    let report = ScanReport::of(&found);
    let is_complete = found.unread.is_empty() && report.open_doubts().next().is_none();
    let list = images(found, context)?;
    if list.entries.is_empty() {
        print_doubtful(&report, &args.path, context);
        if !context.is_quiet() {
            output::stderr(&format!(
                "{}: the build context names no images",
                clean(&args.path.display().to_string())
            ));
        }
        return Ok(if is_complete { Exit::Done } else { Exit::SomeFailed });
    }
    let job = SaveJob::resolve(&args.run, &dir, list, context)?;
    print_doubtful(&report, &args.path, context);
    Ok(match job.run(&args.run, args.dry_run.dry_run, context).await? {
        Exit::Done if !is_complete => Exit::SomeFailed,
        exit => exit,
    })
}

/// Refuses a directory that a symbolic link of the context, which may be a stranger's, redirects elsewhere.
fn refuse_links(context: &Path, registry: &Path) -> Result<()> {
    if registry.is_absolute() {
        return Ok(());
    }
    let mut path = context.to_owned();
    for name in registry.components() {
        path.push(name);
        if std::fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_symlink()) {
            let why = "this is a symbolic link; a build context must not redirect where images are saved";
            return Err(Error::new(ErrorKind::InvalidInput, path.display(), why)
                .with_hint("remove the link, or give --registry-dir an absolute path"));
        }
    }
    Ok(())
}

/// The images to save. A problem in a list ends the run.
fn images(mut found: Discovery, context: &Context<'_>) -> Result<ImageList> {
    let problems = std::mem::take(&mut found.problems);
    scan::print_diagnostics(&found, context);
    // The same image in several files is normal here and needs no note.
    let mut all = list::merge([ImageList { entries: found.images, problems, ..ImageList::default() }]);
    all.duplicates.clear();
    lists::checked(all, "list of images", context)
}

/// Prints the finds that are not saved, because they may not be images.
fn print_doubtful(report: &ScanReport, path: &Path, context: &Context<'_>) {
    let doubtful: Vec<_> = report.open_doubts().collect();
    for doubt in doubtful.iter().take(MAX_DOUBTFUL) {
        let name = if doubt.text.is_empty() { "an image" } else { &doubt.text };
        let source = doubt.sources.first().map(String::as_str).unwrap_or_default();
        context.warn(&format!("{source}: not saved: {name} ({})", doubt.message));
    }
    if doubtful.len() > MAX_DOUBTFUL {
        let more = doubtful.len() - MAX_DOUBTFUL;
        context.warn(&format!("and {more} more doubtful finds; saver scan {} lists all", path.display()));
    }
    if !doubtful.is_empty() && !context.is_quiet() {
        let hint = "list the images that are needed in manifests/imageList, and the others in manifests/imageListIgnore";
        output::stderr(&format!("  hint: {hint}"));
    }
}
