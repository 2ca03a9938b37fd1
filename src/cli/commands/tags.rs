//! `saver tags`: the tags of a repository.

use super::lookup::{End, LookupArgs, at_end, named};
use crate::cli::args::output::JsonArgs;
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, json};
use crate::content::{Catalog, document};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Reference, Tag};

/// The arguments of `tags`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Repository
    #[arg(value_name = "REPOSITORY", default_value = "", hide_default_value = true)]
    pub(crate) repository: String,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
    /// Where to look.
    #[command(flatten)]
    pub(crate) lookup: LookupArgs,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct TagList {
    /// The version of this form: raised when a field changes its meaning or goes.
    schema: u32,
    /// The repository as given, with its registry.
    repository: String,
    tags: Vec<Tag>,
}

impl TagList {
    /// The current version of the JSON format.
    const SCHEMA: u32 = 1;
}

/// Prints the tags of a repository.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; those of the registry or the directory.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    let text = within(args.lookup.registry.timeout, listed(args, context)).await;
    let text = text.map_err(|error| args.lookup.named_as_written(error, &args.repository))?;
    Ok(output::stdout(&text))
}

async fn listed(args: &Args, context: &Context<'_>) -> Result<Vec<u8>> {
    let asked = named(&args.repository, "REPOSITORY")?;
    if asked.digest.is_some() || Reference::has_written_tag(&args.repository) {
        let why = "a repository is needed, without tag and digest";
        return Err(Error::new(ErrorKind::InvalidInput, &args.repository, why));
    }
    let (end, reference) = args.lookup.open(&asked, false, context)?;
    let retry = args.lookup.retry_policy();
    let tags: Vec<Tag> = at_end!(end, source => {
        document::retrying(&retry, || Catalog::tags(source, &reference.repository)).await
    })?;
    if args.json.json {
        let repository = format!("{}/{}", asked.registry, asked.repository);
        return Ok(json(&TagList { schema: TagList::SCHEMA, repository, tags }));
    }
    Ok(tags.iter().map(|tag| format!("{tag}\n")).collect::<String>().into_bytes())
}
