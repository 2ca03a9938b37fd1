//! `saver ls`: what a directory holds.

use crate::cli::args::GlobalArgs;
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean};
use crate::cli::ui::terminal::{self, Screen};
use crate::error::Result;
use crate::ls::{Listing, TagListing};
use crate::oci::Repository;
use std::path::{Path, PathBuf};

/// The arguments of listing.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The directory that images were saved to
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON, with the platforms that were not saved too
    #[arg(long)]
    pub json: bool,
    /// List only these repositories
    #[arg(value_name = "REPOSITORY")]
    pub repositories: Vec<String>,
}

/// Lists. Ends with 1 if a tag is damaged.
pub(crate) fn run(args: &Args, global: &GlobalArgs) -> Exit {
    terminal::start_log(&Screen::new(false), global.verbose, global.log_format);
    let listing = match listing(args) {
        Ok(listing) => listing,
        Err(error) => {
            output::failure(&error);
            return Exit::of_error(&error);
        }
    };
    let text = if args.json { json(&listing) } else { table(&listing) };
    match output::stdout(text.as_bytes()) {
        Exit::Done if listing.totals.damaged > 0 => Exit::SomeFailed,
        exit => exit,
    }
}

fn listing(args: &Args) -> Result<Listing> {
    let store = tree::open(dir(args)?)?;
    let only = args.repositories.iter().map(|name| name.parse()).collect::<Result<Vec<Repository>>>()?;
    crate::ls::list(&store, &only)
}

fn dir(args: &Args) -> Result<&Path> {
    tree::dir(args.dir.as_ref()).map_err(|error| {
        let given = args.repositories.first().filter(|name| Path::new(name).is_dir());
        match given {
            Some(name) => error.with_hint(format!("add --dir {name}")),
            None => error,
        }
    })
}

/// JSON escapes control characters by itself.
fn json(listing: &Listing) -> String {
    let mut text = serde_json::to_string_pretty(listing).unwrap_or_default();
    text.push('\n');
    text
}

fn table(listing: &Listing) -> String {
    let heads = ["REPOSITORY", "TAG", "DIGEST", "KIND", "PLATFORMS", "SIZE"];
    let right = [false, false, false, false, false, true];
    let tags = || {
        let repositories = listing.repositories.iter();
        repositories.flat_map(|listed| listed.tags.iter().map(move |tag| (&listed.repository, tag)))
    };
    let rows: Vec<Vec<String>> = tags().map(|(repository, tag)| row(repository, tag)).collect();
    let mut text = output::table(&heads, &right, &rows);
    let damaged: Vec<_> = tags().filter(|(_, tag)| !tag.problems.is_empty()).collect();
    if !damaged.is_empty() {
        text.push_str("\nDamaged:\n");
    }
    for (repository, tag) in damaged {
        for problem in &tag.problems {
            text.push_str(&format!("  {repository}:{}: {}\n", tag.tag, clean(problem)));
        }
    }
    let totals = &listing.totals;
    let repositories = match totals.repositories {
        1 => "1 repository".to_owned(),
        number => format!("{number} repositories"),
    };
    let tags = output::count(totals.tags, "tag");
    text.push_str(&format!(
        "\n{repositories}, {tags}, {} in all (what is shared is counted once)\n",
        output::size(totals.bytes)
    ));
    text.push_str(&output::internal_files(&listing.internal));
    text
}

fn row(repository: &Repository, tag: &TagListing) -> Vec<String> {
    let present: Vec<_> =
        tag.platforms.iter().filter(|listed| listed.present).map(|listed| listed.platform.as_str()).collect();
    let kind = if tag.problems.is_empty() { tag.kind.as_str() } else { "DAMAGED" };
    vec![
        repository.to_string(),
        tag.tag.to_string(),
        tag.digest.map_or_else(|| "-".to_owned(), |digest| digest.short()),
        kind.to_owned(),
        if present.is_empty() { "-".to_owned() } else { clean(&present.join(" ")).into_owned() },
        output::size(tag.bytes),
    ]
}
