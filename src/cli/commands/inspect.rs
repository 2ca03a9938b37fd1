//! `saver inspect`: what an image consists of.

use super::lookup::{End, ImageArgs, LookupArgs, at_end};
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::content::retry::RetryPolicy;
use crate::content::{Place, Source, document};
use crate::error::Result;
use crate::inspect::{Inspection, LayerInspection, ManifestInspection};
use crate::oci::{Digest, Reference};

/// The arguments of `inspect`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Which image and platforms.
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Print the manifest or index itself, byte for byte
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    pub(crate) raw: bool,
    /// Where to look.
    #[command(flatten)]
    pub(crate) lookup: LookupArgs,
}

/// Prints what an image consists of.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; those of the registry or the directory.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let text = within(args.lookup.registry.timeout, inspected(args, context)).await;
    let text = text.map_err(|error| args.lookup.named_as_written(error, &args.image.image))?;
    Ok(output::stdout(&text))
}

async fn inspected(args: &Args, context: &Context<'_>) -> Result<Vec<u8>> {
    let (asked, options) = args.image.resolve(&args.lookup)?;
    let (end, reference) = args.lookup.open(&asked, true, context)?;
    if args.raw {
        return at_end!(end, source => raw(source, &reference, &options.retry).await);
    }
    let mut inspection = at_end!(end, source => crate::inspect::inspect(source, &reference, &options).await)?;
    inspection.reference = original_name(&end, &reference, &inspection.digest)?.unwrap_or(asked);
    Ok(if args.image.json.json { json(&inspection) } else { text(&inspection).into_bytes() })
}

/// The name that the image `digest` of a directory was saved from, if it is recorded.
fn original_name(end: &End, found: &Reference, digest: &Digest) -> Result<Option<Reference>> {
    let End::Tree(store) = end else { return Ok(None) };
    let place = Place { repository: found.repository.clone(), tag: found.tag.clone() };
    Ok(store.source_of(&place, digest)?.map(|record| record.source))
}

async fn raw<S: Source>(source: &S, reference: &Reference, retry: &RetryPolicy) -> Result<Vec<u8>> {
    let digest = document::resolve(source, reference, retry).await?;
    Ok(document::manifest(source, &reference.repository, digest, retry).await?.bytes.to_vec())
}

fn text(inspection: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<12}{}\n", clean(value)));
    line("Name", &inspection.reference.to_string());
    line("Digest", &inspection.digest.to_string());
    line("Kind", &format!("{}, {}", inspection.kind.as_str(), inspection.media_type));
    for manifest in &inspection.manifests {
        text.push('\n');
        text.push_str(&of_manifest(manifest, manifest.digest != inspection.digest));
    }
    text
}

fn of_manifest(manifest: &ManifestInspection, below: bool) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<12}{}\n", clean(value)));
        }
    };
    line("Platform", &manifest.platform.as_ref().map(ToString::to_string).unwrap_or_default());
    line("Artifact", manifest.artifact_type.as_deref().unwrap_or_default());
    line("Attests", &manifest.attestation_of.map(|digest| digest.to_string()).unwrap_or_default());
    if below {
        line("Manifest", &manifest.digest.to_string());
    }
    if !manifest.present {
        line("Present", "no (not saved)");
        return text;
    }
    line("Config", &manifest.config.as_ref().map(|config| config.digest.to_string()).unwrap_or_default());
    line("Created", manifest.created.as_deref().unwrap_or_default());
    if let Some(run) = &manifest.execution {
        line("User", &run.user);
        line("Entrypoint", &run.entrypoint.join(" "));
        line("Command", &run.cmd.join(" "));
        line("Directory", &run.working_dir);
        line("Ports", &run.exposed_ports.join(" "));
        run.env.iter().for_each(|pair| line("Env", pair));
        run.labels.iter().for_each(|(name, value)| line("Label", &format!("{name}={value}")));
    }
    line(
        "Size",
        &format!("{} in {}", output::size(manifest.bytes), output::count(manifest.layers.len(), "layer")),
    );
    if !manifest.layers.is_empty() {
        let rows: Vec<Vec<String>> = manifest.layers.iter().map(of_layer).collect();
        let is_made = manifest.layers.iter().any(|layer| layer.created_by.is_some());
        let heads = ["LAYER", "SIZE", if is_made { "MADE BY" } else { "CONTENT" }];
        text.push_str(&output::table(&heads, &[false, true, false], &rows));
    }
    text
}

fn of_layer(layer: &LayerInspection) -> Vec<String> {
    let made_by = layer.created_by.as_deref().or(layer.title.as_deref()).unwrap_or(&layer.media_type);
    vec![layer.digest.short(), output::size(layer.size), output::shortened(&clean(made_by), 90)]
}
