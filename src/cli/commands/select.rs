//! `saver select`: which tags rules select, and why not the others.

use crate::cli::args::images::{ListArgs, SelectionArgs};
use crate::cli::args::output::JsonArgs;
use crate::cli::args::registry::RegistryArgs;
use crate::cli::args::transfer::retry_policy;
use crate::cli::context::{Context, within};
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, json};
use crate::cli::{lists, registry_args};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{NotSelected, SelectedRepository};
use crate::oci::Tag;
use crate::save::{ResolvedSelection, list_selections};
use std::collections::BTreeMap;

/// Tags beyond these are only counted, for each reason; the JSON form has all.
const MAX_SHOWN: usize = 20;

/// The arguments of `select`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Rules, each in the form of a line of a list: 'quay.io/team/app:* tags=semver:^3 newest=2'
    #[arg(value_name = "RULE", help_heading = "Images")]
    pub(crate) rules: Vec<String>,
    /// Lists with rules.
    #[command(flatten)]
    pub(crate) lists: ListArgs,
    /// How many tags may be selected.
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct SelectReport {
    /// The version of this form: raised when a field changes its meaning or goes.
    schema: u32,
    /// Each repository of each rule.
    selections: Vec<SelectionReport>,
}

/// A repository and its tags.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct SelectionReport {
    /// Where the rule is: a file and line, or its place on the command line.
    origin: String,
    /// The repository, with its registry.
    repository: String,
    /// The rule, in its normal form.
    rule: String,
    /// The selected tags, the oldest version first.
    selected: Vec<Tag>,
    /// The other tags, and why they were not selected.
    others: Vec<OtherTag>,
}

/// A tag that was not selected.
#[derive(serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct OtherTag {
    tag: Tag,
    reason: NotSelected,
}

/// Prints the images that rules select, as a list, with the other tags in comments. The exit code is 1 if a rule selects nothing.
///
/// # Errors
/// `InvalidInput` naming the option, list or rule that is wrong; those of the registries.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<Exit> {
    lists::require_any(&args.lists, [&args.rules], "select")?;
    let context = if args.json.json { &context.quietly() } else { context };
    let list = lists::read_with_rules(&args.lists.list, &[], &args.rules, context)?;
    lists::refuse_charts(&list, "only tags of registries are selected")?;
    if list.selections.is_empty() {
        let why = "the lists select no tags: they name all of their images";
        return Err(Error::new(ErrorKind::InvalidInput, "", why));
    }
    let registries = list.selections.iter().map(|one| one.reference.registry.clone()).collect();
    let access = registry_args::resolve(&args.registry, context, &registries)?;
    let retry = retry_policy(&args.registry);
    let work = list_selections(list.selections, &access, &retry);
    let resolved = within(args.registry.timeout, work).await?;
    let selected: usize = resolved.iter().map(|one| one.tags.tags.len()).sum();
    let max = args.selection.max_images;
    if selected > max {
        context.warn(&format!("{selected} images are more than the limit of {max}: --max-images raises it"));
    }
    let is_empty = resolved.iter().any(|one| !one.is_of_pattern && one.tags.tags.is_empty()) || selected == 0;
    let text = if args.json.json {
        json(&report(resolved))
    } else {
        resolved.iter().map(text).collect::<String>().into_bytes()
    };
    Ok(match output::stdout(&text) {
        Exit::Done if is_empty => Exit::SomeFailed,
        exit => exit,
    })
}

fn report(resolved: Vec<ResolvedSelection>) -> SelectReport {
    let selections = resolved.into_iter().map(|ResolvedSelection { repository, tags, .. }| SelectionReport {
        origin: repository.origin.to_string(),
        repository: repository.name(),
        rule: repository.selection.to_string(),
        selected: tags.tags,
        others: tags.others.into_iter().map(|(tag, reason)| OtherTag { tag, reason }).collect(),
    });
    SelectReport { schema: 1, selections: selections.collect() }
}

fn text(resolved: &ResolvedSelection) -> String {
    let ResolvedSelection { repository, tags, .. } = resolved;
    let SelectedRepository { selection, .. } = repository;
    let name = repository.name();
    let mut text = format!("# {name} {selection}: {}\n", tags.summary());
    text.extend(tags.tags.iter().map(|tag| format!("{name}:{tag}\n")));
    let mut others: BTreeMap<NotSelected, Vec<&str>> = BTreeMap::new();
    for (tag, reason) in &tags.others {
        others.entry(*reason).or_default().push(tag.as_str());
    }
    for (reason, tags) in others {
        let more = tags.len().saturating_sub(MAX_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = &tags[..tags.len().min(MAX_SHOWN)];
        text.push_str(&format!("# {reason}: {}{more}\n", shown.join(" ")));
    }
    text
}
