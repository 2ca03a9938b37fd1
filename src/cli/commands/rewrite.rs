//! `saver rewrite`: the names that images have at another registry.

use crate::cli::args::images::ListArgs;
use crate::cli::args::missing_argument;
use crate::cli::args::tree::{DirArgs, NamesArgs};
use crate::cli::context::Context;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::cli::{lists, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use crate::rewrite::{Rename, RewriteOptions, kustomize_images, rewrite_text};
use crate::save::NameRule;
use crate::scan::MAX_FILE_BYTES;
use clap::ValueEnum;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The arguments of `rewrite`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Registry that serves the directory, and the prefix of repository names there
    #[arg(value_name = "REGISTRY[/PREFIX]")]
    pub(crate) registry: Option<String>,
    /// Manifests to print with the new names; - is stdin [default: print the names]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Format to write
    #[arg(long, value_name = "FORMAT", default_value = "names", help_heading = "Output")]
    pub(crate) format: RewriteFormat,
    /// Lists of images.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
}

/// How names are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RewriteFormat {
    /// The original and the new name on a line, with a tab between them
    Names,
    /// The images of a kustomization
    Kustomize,
}

/// Prints new names, or manifests with them.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `NotFound` for an image of a list that the directory lacks; `Storage`.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let Some(registry) = &args.registry else {
        return Err(missing_argument("REGISTRY", "saver rewrite --dir DIR REGISTRY[/PREFIX] [FILE]"));
    };
    if Path::new(registry).is_file() {
        let why = "this is a file, and the registry comes first";
        let error = Error::new(ErrorKind::InvalidInput, registry, why);
        return Err(error.with_hint(format!("saver rewrite --dir DIR REGISTRY[/PREFIX] {registry}")));
    }
    let store = tree::open(args.dir.path()?)?;
    let names = NameRule::of(&store, args.names.rule()?.as_ref())?;
    let options = RewriteOptions::new(store, registry.parse()?)?.with_names(names);
    if let Some(file) = &args.file {
        return rewrite_file(file, &options, context);
    }
    let renames = renames(args, &options, context)?;
    let text = match args.format {
        RewriteFormat::Kustomize => kustomize_images(&renames),
        RewriteFormat::Names => {
            renames.iter().map(|rename| format!("{}\t{}\n", rename.from, rename.to)).collect()
        }
    };
    Ok(output::stdout(text.as_bytes()))
}

/// The images of the lists, or those whose original names the directory tells.
fn renames(args: &Args, options: &RewriteOptions, context: &Context<'_>) -> Result<Vec<Rename>> {
    let originals: Vec<Reference> = if args.lists.list.is_empty() {
        tree::original_names(&options.store, &options.names)?
    } else {
        let entries = lists::read(&args.lists.list, &[], context)?;
        entries.into_iter().map(|entry| entry.reference).collect()
    };
    let rename = |from: Reference| match options.rename(&from)? {
        Some(to) => Ok(Rename { from, to }),
        None => Err(Error::new(ErrorKind::NotFound, &from, "no such image in the directory")
            .with_hint("saver ls --dir DIR lists the images; --names must be as when they were saved")),
    };
    originals.into_iter().map(rename).collect()
}

/// Prints a file with new names. Nothing else goes to stdout: Helm applies what a post-renderer prints.
fn rewrite_file(file: &Path, options: &RewriteOptions, context: &Context<'_>) -> Result<Exit> {
    let is_stdin = file.as_os_str() == "-";
    let name = if is_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, &name, why);
    let limit = MAX_FILE_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = if is_stdin {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|cause| refuse(format!("cannot read the manifests: {cause}")))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(refuse(format!("the manifests are larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    if std::str::from_utf8(&bytes).is_err() {
        return Err(refuse("the manifests are not UTF-8".to_owned()));
    }
    let rewritten = rewrite_text(&name, &bytes, options)?;
    let exit = output::stdout(&rewritten.bytes);
    for kept in &rewritten.kept {
        let text = format!("{}: {} is unchanged: {}", kept.origin, clean(&kept.name), kept.reason.as_str());
        context.warn(&text);
    }
    if !context.is_quiet() {
        output::stderr(&format!("replaced {}", output::count(rewritten.replaced, "image name")));
    }
    Ok(exit)
}
