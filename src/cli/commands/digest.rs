//! `saver digest`: the digest that the name of an image resolves to.

use super::lookup::{End, ImageArgs, LookupArgs, at_end};
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, json};
use crate::error::Result;
use crate::oci::{Digest, Reference};

/// The arguments of `digest`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Which image, and the platform whose manifest is meant instead of the index.
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Where to look.
    #[command(flatten)]
    pub(crate) lookup: LookupArgs,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct ResolvedDigest {
    /// The version of this form: raised when a field changes its meaning or goes.
    schema: u32,
    /// The image as given, in normal form.
    reference: Reference,
    digest: Digest,
}

impl ResolvedDigest {
    /// The current version of the JSON format.
    const SCHEMA: u32 = 1;
}

/// Prints the digest of an image.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; those of the registry or the directory.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let text = within(args.lookup.registry.timeout, resolved(args, context)).await;
    let text = text.map_err(|error| args.lookup.named_as_written(error, &args.image.image))?;
    Ok(output::stdout(&text))
}

async fn resolved(args: &Args, context: &Context<'_>) -> Result<Vec<u8>> {
    let (asked, options) = args.image.resolve(&args.lookup)?;
    let (end, reference) = args.lookup.open(&asked, true, context)?;
    let digest = at_end!(end, source => crate::inspect::digest(source, &reference, &options).await)?;
    Ok(if args.image.json.json {
        json(&ResolvedDigest { schema: ResolvedDigest::SCHEMA, reference: asked, digest })
    } else {
        format!("{digest}\n").into_bytes()
    })
}
