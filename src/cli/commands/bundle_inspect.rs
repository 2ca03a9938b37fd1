//! `saver bundle-inspect`: what is in a bundle.

use super::bundle_verify::document_path;
use crate::bundle::BundleDocument;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::tree::local_path;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, json};
use crate::error::Result;
use std::path::PathBuf;

/// The arguments of `bundle-inspect`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Directory of the bundle, or its bundle.json
    #[arg(value_name = "NAME", value_parser = local_path())]
    pub(crate) bundle: Option<PathBuf>,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// Prints the contents of a bundle.
///
/// # Errors
/// `InvalidInput` if it is not a bundle; `Storage` if it can't be read.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let document = BundleDocument::read(&document_path(args.bundle.as_deref())?)?;
    Ok(if args.json.json {
        output::stdout(&json(&document))
    } else {
        output::stdout(text(&document).as_bytes())
    })
}

fn text(document: &BundleDocument) -> String {
    let heads = ["IMAGE", "DIGEST", "PLATFORMS", "SOURCE"];
    let rows = document.images.iter().map(|image| {
        let name = match &image.tag {
            Some(tag) => format!("{}:{tag}", image.repository),
            None => image.repository.to_string(),
        };
        let source = image.source.as_ref().map(|source| source.reference.to_string());
        vec![name, image.digest.short(), image.platforms.join(","), source.unwrap_or_default()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let mut text = output::table(&heads, &[], &rows);
    let (sent, assumed): (Vec<_>, Vec<_>) =
        document.content.iter().partition(|content| !content.parts.is_empty());
    for (what, content) in [("contains", sent), ("assumes", assumed)] {
        let blobs = output::count(content.len(), "blob");
        let size = content.iter().map(|content| content.size).sum();
        text.push_str(&format!("{what} {blobs}, {}\n", output::size(size)));
    }
    for part in &document.parts {
        text.push_str(&format!("{}  {}  {}\n", part.digest.hex(), part.file, output::size(part.bytes)));
    }
    text
}
