//! `saver ls`: the contents of a directory.

use crate::cli::args::output::JsonArgs;
use crate::cli::args::tree::{DirArgs, refuse_url};
use crate::cli::tree;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, clean, json};
use crate::error::{Error, ErrorKind, Result};
use crate::ls::{ListOptions, Listing, ReferrerListing, SortOrder, TagListing, Totals};
use crate::oci::Repository;
use clap::{ArgAction, ValueEnum};
use std::cmp::Reverse;
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
    /// List only images whose name matches PATTERN, with * and ?; may be repeated
    ///
    /// The names are those in the directory and those that the images were saved from: demo/app, demo/app:1.0,
    /// quay.io/demo/app:1.0.
    #[arg(long = "match", value_name = "PATTERN", action = ArgAction::Append, help_heading = "Images")]
    pub(crate) patterns: Vec<String>,
    /// Order of the images
    #[arg(long, value_name = "KEY", default_value = "name", help_heading = "Output")]
    pub(crate) sort: SortArg,
    /// Show the signatures, attestations and SBOMs of each image below it
    #[arg(long, help_heading = "Output")]
    pub(crate) referrers: bool,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

/// `--sort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortArg {
    /// By name
    Name,
    /// Largest first
    Size,
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
    let sort = match args.sort {
        SortArg::Name => SortOrder::Name,
        SortArg::Size => SortOrder::Size,
    };
    let only = names.iter().map(|name| name.parse()).collect::<Result<Vec<Repository>>>()?;
    let options =
        ListOptions::default().with_repositories(only).with_patterns(args.patterns.clone()).with_sort(sort);
    let listing = crate::ls::list(&store, &options)?;
    let text = if args.json.json { json(&listing) } else { table(&listing, args, sort).into_bytes() };
    Ok(match output::stdout(&text) {
        Exit::Done if listing.totals.damaged > 0 => Exit::SomeFailed,
        exit => exit,
    })
}

fn table(listing: &Listing, args: &Args, sort: SortOrder) -> String {
    let heads = ["REPOSITORY", "TAG", "DIGEST", "KIND", "PLATFORMS", "SIZE", "UNIQUE", "SOURCE"];
    let right = [false, false, false, false, false, true, true, false];
    let repositories = listing.repositories.iter();
    let images =
        repositories.flat_map(|listed| listed.images().map(move |image| (&listed.repository, image)));
    let mut images: Vec<(&Repository, &TagListing)> = images.collect();
    if sort == SortOrder::Size {
        // The listing orders the images of each repository; a row of the table is an image.
        images.sort_by_key(|(_, image)| Reverse(image.bytes));
    }
    let mut rows = Vec::new();
    for (repository, image) in &images {
        rows.push(row(repository, image));
        if args.referrers {
            add_referrers(&image.referrers, 0, &mut rows);
        }
    }
    let mut text = output::table(&heads, &right, &rows);
    let damaged: Vec<_> = images.iter().filter(|(_, image)| !image.problems.is_empty()).collect();
    if !damaged.is_empty() {
        text.push_str("\nDamaged:\n");
    }
    for (repository, image) in damaged {
        let name = match (&image.tag, &image.digest) {
            (Some(tag), _) => format!("{repository}:{tag}"),
            (None, Some(digest)) => format!("{repository}@{}", digest.short()),
            (None, None) => repository.to_string(),
        };
        for problem in &image.problems {
            text.push_str(&format!("  {name}: {}\n", clean(problem)));
        }
    }
    text.push_str(&totals(&listing.totals));
    text.push_str(&output::internal_files(&listing.internal));
    text
}

fn totals(totals: &Totals) -> String {
    let repositories = match totals.repositories {
        1 => "1 repository".to_owned(),
        number => format!("{number} repositories"),
    };
    let untagged = match totals.untagged {
        0 => String::new(),
        number => format!(", {} without a tag", output::count(number, "image")),
    };
    let mut text = format!(
        "\n{repositories}, {}{untagged}, {} in total (shared content counted once)\n",
        output::count(totals.tags, "tag"),
        output::size(totals.bytes)
    );
    let unreferenced = &totals.unreferenced;
    if unreferenced.files > 0 {
        let blobs = output::count(usize::try_from(unreferenced.files).unwrap_or(usize::MAX), "blob");
        text.push_str(&format!(
            "in no image: {blobs}, {}; saver gc removes them\n",
            output::size(unreferenced.bytes)
        ));
    }
    text
}

/// Adds a row for each referrer, below its subject.
fn add_referrers(referrers: &[ReferrerListing], depth: usize, rows: &mut Vec<Vec<String>>) {
    for referrer in referrers {
        let kind = referrer.artifact_type.as_deref().unwrap_or("unknown type");
        rows.push(vec![
            String::new(),
            format!("{}└ {}", "  ".repeat(depth), clean(kind)),
            referrer.digest.short(),
            "referrer".to_owned(),
            "-".to_owned(),
            output::size(referrer.bytes),
            "-".to_owned(),
            "-".to_owned(),
        ]);
        add_referrers(&referrer.referrers, depth + 1, rows);
    }
}

fn row(repository: &Repository, image: &TagListing) -> Vec<String> {
    let present: Vec<_> = image
        .platforms
        .iter()
        .filter(|listed| listed.present)
        .map(|listed| listed.platform.as_str())
        .collect();
    let kind = if image.problems.is_empty() { image.kind.as_str() } else { "DAMAGED" };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        repository.to_string(),
        or_dash(image.tag.as_ref().map(ToString::to_string)),
        or_dash(image.digest.map(|digest| digest.short())),
        kind.to_owned(),
        if present.is_empty() { "-".to_owned() } else { clean(&present.join(" ")).into_owned() },
        output::size(image.bytes),
        output::size(image.unique_bytes),
        or_dash(image.source.as_ref().map(ToString::to_string)),
    ]
}
