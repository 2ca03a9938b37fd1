//! `saver inspect`, `saver tags` and `saver digest`: what there is, in a tree or at a registry.

use crate::cli::args::{GlobalArgs, RegistryArgs};
use crate::cli::config::Environment;
use crate::cli::registry_args;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::cli::ui::terminal::{self, Screen};
use crate::content::retry::RetryPolicy;
use crate::content::{Catalog, Source, document};
use crate::error::{Error, ErrorKind, Result};
use crate::inspect::{InspectOptions, Inspection, LayerInspection, ManifestInspection};
use crate::oci::{Digest, PlatformSet, Reference, Tag};
use crate::registry::{Session, Sessions};
use crate::save::NameRule;
use crate::store::Store;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Where to look.
#[derive(clap::Args, Clone, Debug)]
pub struct Place {
    /// Look in this directory, that images were saved to, and not at the registry
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Names in the directory, as they were saved with
    #[arg(long, value_name = "NAMES", default_value = "strip")]
    pub names: String,
    /// How to reach the registry, and as whom.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// The arguments of inspecting.
#[derive(clap::Args, Clone, Debug)]
pub struct InspectArgs {
    /// The image
    #[arg(value_name = "IMAGE", default_value = "", hide_default_value = true)]
    pub image: String,
    /// Tell only of these architectures: amd64, arm64, arm/v7, a comma list, or all
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = clap::ArgAction::Append, default_value = "all")]
    pub arch: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print the manifest or index itself, byte for byte
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// Where to look.
    #[command(flatten)]
    pub place: Place,
}

/// The arguments of listing tags.
#[derive(clap::Args, Clone, Debug)]
pub struct TagsArgs {
    /// The repository
    #[arg(value_name = "REPOSITORY", default_value = "", hide_default_value = true)]
    pub repository: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where to look.
    #[command(flatten)]
    pub place: Place,
}

/// The arguments of asking for a digest.
#[derive(clap::Args, Clone, Debug)]
pub struct DigestArgs {
    /// The image
    #[arg(value_name = "IMAGE", default_value = "", hide_default_value = true)]
    pub image: String,
    /// Print the digest of this architecture's manifest, and not of the index
    #[arg(long, visible_alias = "platform", value_name = "ARCH")]
    pub arch: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where to look.
    #[command(flatten)]
    pub place: Place,
}

/// Where the looking is done.
enum End {
    Tree(Store),
    Registry(Arc<Session>),
}

/// Calls a function of any source with the end's own.
macro_rules! at {
    ($end:expr, $source:ident => $work:expr) => {
        match &$end {
            End::Tree($source) => $work,
            End::Registry(session) => {
                let $source = &**session;
                $work
            }
        }
    };
}

pub(crate) async fn inspect(args: &InspectArgs, global: &GlobalArgs, environment: &Environment) -> Exit {
    tell(inspected(args, global, environment).await)
}

pub(crate) async fn tags(args: &TagsArgs, global: &GlobalArgs, environment: &Environment) -> Exit {
    tell(listed(args, global, environment).await)
}

pub(crate) async fn digest(args: &DigestArgs, global: &GlobalArgs, environment: &Environment) -> Exit {
    tell(digested(args, global, environment).await)
}

fn tell(result: Result<Vec<u8>>) -> Exit {
    match result {
        Ok(text) => output::stdout(&text),
        Err(error) => {
            output::failure(&error);
            Exit::of_error(&error)
        }
    }
}

async fn inspected(args: &InspectArgs, global: &GlobalArgs, environment: &Environment) -> Result<Vec<u8>> {
    let options = options(&args.arch.join(","), &args.place)?;
    let asked = named(&args.image, "IMAGE")?;
    let (end, reference) = look(&args.place, &asked, true, global, environment)?;
    if args.raw {
        return at!(end, source => raw(source, &reference, &options.retry).await);
    }
    let mut told = at!(end, source => crate::inspect::inspect(source, &reference, &options).await)?;
    told.reference = asked;
    Ok(if args.json { json(&told) } else { text(&told).into_bytes() })
}

async fn raw<S: Source>(source: &S, reference: &Reference, retry: &RetryPolicy) -> Result<Vec<u8>> {
    let digest = document::resolve(source, reference, retry).await?;
    Ok(document::manifest(source, &reference.repository, digest, retry).await?.bytes.to_vec())
}

async fn listed(args: &TagsArgs, global: &GlobalArgs, environment: &Environment) -> Result<Vec<u8>> {
    let asked = named(&args.repository, "REPOSITORY")?;
    if asked.digest.is_some() || Reference::has_written_tag(&args.repository) {
        let why = "a repository is asked for, without tag and digest";
        return Err(Error::new(ErrorKind::InvalidInput, &args.repository, why));
    }
    let (end, reference) = look(&args.place, &asked, false, global, environment)?;
    let retry = retry(&args.place);
    let tags: Vec<Tag> = at!(end, source => document::retrying(&retry, || Catalog::tags(source, &reference.repository)).await)?;
    if args.json {
        return Ok(json(&TagsTold { schema: SCHEMA, repository: asked_repository(&asked), tags }));
    }
    Ok(tags.iter().map(|tag| format!("{tag}\n")).collect::<String>().into_bytes())
}

async fn digested(args: &DigestArgs, global: &GlobalArgs, environment: &Environment) -> Result<Vec<u8>> {
    let options = options(args.arch.as_deref().unwrap_or("all"), &args.place)?;
    let asked = named(&args.image, "IMAGE")?;
    let (end, reference) = look(&args.place, &asked, true, global, environment)?;
    let digest = at!(end, source => crate::inspect::digest(source, &reference, &options).await)?;
    Ok(match args.json {
        true => json(&DigestTold { schema: SCHEMA, reference: asked, digest }),
        false => format!("{digest}\n").into_bytes(),
    })
}

/// The version of the JSON forms below: raised when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// What `tags --json` prints.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct TagsTold {
    schema: u32,
    /// The repository as asked for, with its registry.
    repository: String,
    tags: Vec<Tag>,
}

/// What `digest --json` prints.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct DigestTold {
    schema: u32,
    /// The image as asked for, in normal form.
    reference: Reference,
    digest: Digest,
}

fn asked_repository(asked: &Reference) -> String {
    format!("{}/{}", asked.registry, asked.repository)
}

fn options(arch: &str, place: &Place) -> Result<InspectOptions> {
    Ok(InspectOptions { platforms: PlatformSet::parse(arch, "linux")?, retry: retry(place) })
}

fn retry(place: &Place) -> RetryPolicy {
    RetryPolicy { retries: place.registry.retries, ..RetryPolicy::default() }
}

fn named(text: &str, what: &str) -> Result<Reference> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, what, "is missing")
            .with_hint("add a name, such as nginx:1.27"));
    }
    Reference::parse(text)
}

/// Opens the end to look at, and finds what the image is called there.
fn look(
    place: &Place,
    asked: &Reference,
    image: bool,
    global: &GlobalArgs,
    environment: &Environment,
) -> Result<(End, Reference)> {
    let screen = Screen::new(false);
    terminal::start_log(&screen, global.verbose, global.log_format);
    let Some(dir) = &place.dir else {
        let registries = BTreeSet::from([asked.registry.clone()]);
        let access =
            registry_args::resolve(&place.registry, environment, &registries, &screen, global.quiet)?;
        let session = Sessions::new(access, 8).with(&asked.registry)?;
        return Ok((End::Registry(session), asked.clone()));
    };
    let store = crate::cli::tree::open(dir)?;
    let names: NameRule = place.names.parse()?;
    let repository = match image {
        true => names.find(&store, asked)?.repository,
        false => names.find_repository(&store, asked)?,
    };
    Ok((End::Tree(store), Reference { repository, ..asked.clone() }))
}

/// JSON escapes control characters by itself.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn text(told: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<12}{}\n", clean(value)));
    line("Name", &told.reference.to_string());
    line("Digest", &told.digest.to_string());
    line("Kind", &format!("{}, {}", told.kind.as_str(), told.media_type));
    for manifest in &told.manifests {
        text.push('\n');
        text.push_str(&of_manifest(manifest, manifest.digest != told.digest));
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
        line("Held", "no: it was not saved");
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
