//! `saver rm`: removes images by name.

use super::prune;
use crate::cli::args::missing_argument;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::transfer::DryRunArgs;
use crate::cli::args::tree::{DirArgs, NamesArgs};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::{lists, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use crate::prune::{PruneOptions, remove};

/// The arguments of `rm`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Images to remove, by the names that they were saved under or have in the directory; name@digest removes a manifest
    #[arg(value_name = "IMAGE", help_heading = "Images")]
    pub(crate) images: Vec<String>,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// Whether to remove at all.
    #[command(flatten)]
    pub(crate) dry_run: DryRunArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Removes images.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `NotFound` for an image that the directory lacks; `Storage`.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    if args.images.is_empty() {
        return Err(missing_argument("IMAGE", "saver rm --dir DIR IMAGE...; saver ls DIR lists the images"));
    }
    if let Some(image) = args.images.iter().find(|image| is_without_tag(image)) {
        let error = Error::new(ErrorKind::InvalidInput, image, "this names neither a tag nor a digest");
        return Err(
            error.with_hint(format!("write {image}:latest to remove that tag; saver ls DIR lists the tags"))
        );
    }
    let mut options = PruneOptions::default().with_dry_run(args.dry_run.dry_run);
    options.names = args.names.rule()?;
    let entries = lists::read(&[], &args.images, &context.quietly())?;
    let images: Vec<Reference> = entries.into_iter().map(|entry| entry.reference).collect();
    let store = tree::open(args.dir.path()?)?;
    let report =
        remove(&store, &images, &options).map_err(|error| tree::named_as_written(error, &args.images))?;
    Ok(prune::print(&report, args.json.json, context))
}

/// Whether a name leaves open which tags of the repository are meant.
fn is_without_tag(image: &str) -> bool {
    !Reference::has_written_tag(image)
        && Reference::parse(image).is_ok_and(|reference| reference.digest.is_none())
}
