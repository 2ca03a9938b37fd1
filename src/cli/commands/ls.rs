//! `saver ls`: the contents of a directory.

use crate::cli::args::output::JsonArgs;
use crate::cli::args::tree::{DirArgs, refuse_url};
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::error::{Error, ErrorKind, Result};
use crate::ls::{Listing, TagListing};
use crate::oci::Repository;
use std::path::Path;

/// The arguments of `ls`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Directory, unless --dir gives it, then the repositories to list [default: all]
    #[arg(value_name = "DIR|REPOSITORY")]
    pub(crate) names: Vec<String>,
    /// Where the images are.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

impl Args {
    /// The directory and the repositories. A name that can only be a path, and the first name where no directory is set, is the
    /// directory.
    fn split(&self) -> Result<(&Path, &[String])> {
        match self.names.split_first() {
            Some((first, rest)) if self.dir.dir.is_none() || first.starts_with(['.', '/']) => {
                let dir = Path::new(first);
                refuse_url(dir).map_err(|why| Error::new(ErrorKind::InvalidInput, first, why))?;
                Ok((dir, rest))
            }
            _ => Ok((self.dir.path()?, &self.names)),
        }
    }
}

/// Lists a directory. The exit code is 1 if a tag is damaged.
///
/// # Errors
/// `InvalidInput` naming what is wrong on the command line; `NotFound` for a repository that the directory lacks; `Storage`.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let (dir, names) = args.split()?;
    let store = tree::open(dir)?;
    let only = names.iter().map(|name| name.parse()).collect::<Result<Vec<Repository>>>()?;
    let listing = crate::ls::list(&store, &only)?;
    let text = if args.json.json { json(&listing) } else { table(&listing).into_bytes() };
    Ok(match output::stdout(&text) {
        Exit::Done if listing.totals.damaged > 0 => Exit::SomeFailed,
        exit => exit,
    })
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
        "\n{repositories}, {tags}, {} in total (shared content counted once)\n",
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
