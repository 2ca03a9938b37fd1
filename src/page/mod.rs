//! The page for people: what a tree holds and how its content is shared, for `saver serve` and as a file.
//!
//! One static document. It requests nothing from elsewhere, and its content security policy allows no script or style but its own,
//! by their hashes. All names are inserted as text.

use crate::error::Result;
use crate::ls::{ContentKind, Reached, RepositoryWalk, TagListing};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::store::Store;
use crate::transfer::{Report, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::collections::BTreeMap;

const PAGE: &str = include_str!("page.html");
/// Where the policy of a file is inserted.
const POLICY_MARK: &str = "<!--POLICY-->\n";
/// Where the data of a file is inserted.
const DATA_MARK: &str = "<!--DATA-->\n";

/// A part of the images of a tree.
#[derive(Debug, Default, Serialize)]
pub struct ImagePage {
    images: Vec<ImageRow>,
    /// The name of the last image, if more follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A tag, or an image that was saved by digest.
#[derive(Debug, Serialize)]
struct ImageRow {
    repository: Repository,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Tag>,
    /// The name that it was saved from, if it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Reference>,
    digest: Option<Digest>,
    kind: ContentKind,
    /// The platforms that are stored.
    platforms: Vec<String>,
    bytes: u64,
    /// All content, by the start of its digest, with its size.
    blobs: Vec<(String, u64)>,
    damaged: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

/// At most `limit` images after the one named `last`: the tags of each repository in the order of their names, then what was saved
/// by digest. Referrers are part of their image.
///
/// # Errors
/// `Storage` if the tree cannot be read.
pub fn images(store: &Store, last: Option<&str>, limit: usize) -> Result<ImagePage> {
    let last = last.map(Position::parse).unwrap_or_default();
    let mut repositories = store.repositories()?;
    repositories.sort_unstable();
    let start = repositories.partition_point(|repository| repository.as_str() < last.repository);
    let mut page = ImagePage::default();
    for repository in &repositories[start..] {
        let last = if repository.as_str() == last.repository { last } else { Position::default() };
        // One more than is returned shows whether more follow.
        let room = limit.saturating_add(1) - page.images.len();
        page.images.extend(rows(store, repository, last, room)?);
        if page.images.len() > limit {
            page.images.truncate(limit);
            page.next = page.images.last().map(ImageRow::name);
            break;
        }
    }
    Ok(page)
}

/// Where a part of the images ended.
#[derive(Clone, Copy, Default)]
struct Position<'a> {
    repository: &'a str,
    tag: &'a str,
    /// The digest of an image without a tag, which follow those with one.
    digest: Option<&'a str>,
}

impl<'a> Position<'a> {
    fn parse(name: &'a str) -> Self {
        if let Some((repository, digest)) = name.split_once('@') {
            return Self { repository, digest: Some(digest), ..Self::default() };
        }
        let (repository, tag) = name.rsplit_once(':').unwrap_or_default();
        Self { repository, tag, digest: None }
    }
}

/// At most `limit` images of a repository after `last`.
fn rows(store: &Store, repository: &Repository, last: Position<'_>, limit: usize) -> Result<Vec<ImageRow>> {
    let provenance = store.current_provenance()?;
    let images = RepositoryWalk::read(store, repository)?;
    let mut tags: Vec<&Tag> = images.tags().iter().collect();
    tags.sort_unstable();
    tags.retain(|tag| last.digest.is_none() && tag.as_str() > last.tag);
    let mut rows = Vec::new();
    for tag in tags.into_iter().take(limit) {
        rows.push(ImageRow::new(repository, images.tag(tag, &provenance)?));
    }
    if rows.len() < limit {
        let mut untagged = images.saved_by_digest(&provenance)?;
        untagged.retain(|(image, _)| {
            image
                .digest
                .is_some_and(|digest| last.digest.is_none_or(|last| digest.to_string().as_str() > last))
        });
        untagged.sort_unstable_by_key(|(image, _)| image.digest);
        let room = limit - rows.len();
        rows.extend(untagged.into_iter().take(room).map(|image| ImageRow::new(repository, image)));
    }
    Ok(rows)
}

impl ImageRow {
    fn new(repository: &Repository, (listing, content): (TagListing, Reached)) -> Self {
        let stored = listing.platforms.into_iter().filter(|platform| platform.present);
        let mut blobs: Vec<(String, u64)> =
            content.0.into_iter().map(|(digest, bytes)| (digest.short(), bytes)).collect();
        blobs.sort_unstable();
        Self {
            repository: repository.clone(),
            tag: listing.tag,
            original: listing.source,
            digest: listing.digest,
            kind: listing.kind,
            platforms: stored.map(|platform| platform.platform).collect(),
            bytes: listing.bytes,
            blobs,
            damaged: !listing.problems.is_empty(),
            problems: listing.problems,
        }
    }

    /// Its name, by which the next part is requested.
    fn name(&self) -> String {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => format!("{}:{tag}", self.repository),
            (None, Some(digest)) => format!("{}@{digest}", self.repository),
            (None, None) => self.repository.to_string(),
        }
    }
}

/// The page that a server sends. It loads its data from `/_saver/images`.
#[must_use]
pub fn served() -> String {
    PAGE.replacen(POLICY_MARK, "", 1).replacen(DATA_MARK, "", 1)
}

/// The content security policy of the page that a server sends.
#[must_use]
pub fn served_policy() -> String {
    format!("{}; connect-src 'self'; frame-ancestors 'none'", policy())
}

fn policy() -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash_of("script"),
        hash_of("style")
    )
}

/// The hash of the content of an element of the page, as a policy names it.
fn hash_of(element: &str) -> String {
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let content = PAGE.split_once(&start).and_then(|(_, rest)| rest.split_once(&end)).unwrap_or_default().0;
    format!("sha256-{}", STANDARD.encode(Digest::of(content.as_bytes()).as_bytes()))
}

/// The page as a file that needs no server: all images, and what the last run did.
///
/// # Errors
/// `Storage` if the tree cannot be read.
pub fn file(store: &Store, title: &str, run: Option<&Report>) -> Result<String> {
    #[derive(Serialize)]
    struct Data<'a> {
        title: &'a str,
        images: Vec<ImageRow>,
        run: Option<RunSummary>,
    }
    let images = images(store, None, usize::MAX)?.images;
    let data = Data { title, images, run: run.map(RunSummary::of) };
    // A script element ends at the first `</`, wherever that is.
    let json = serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c");
    let policy = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n", policy());
    let data = format!("<script type=\"application/json\" id=\"data\">{json}</script>\n");
    Ok(PAGE.replacen(POLICY_MARK, &policy, 1).replacen(DATA_MARK, &data, 1))
}

/// What a run did.
#[derive(Serialize)]
struct RunSummary {
    counts: BTreeMap<String, usize>,
    bytes_fetched: u64,
    images: Vec<RunImage>,
}

#[derive(Serialize)]
struct RunImage {
    reference: String,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl RunSummary {
    fn of(report: &Report) -> Self {
        let mut counts = BTreeMap::new();
        let mut images = Vec::with_capacity(report.images.len());
        for image in &report.images {
            let status = status_name(image.status);
            *counts.entry(status.clone()).or_default() += 1;
            let reference = image.reference.to_string();
            let error = image.error.as_ref().map(|error| error.reason().to_owned());
            images.push(RunImage { reference, status, error });
        }
        Self { counts, bytes_fetched: report.bytes_fetched, images }
    }
}

/// The name of a status in reports.
fn status_name(status: Status) -> String {
    serde_json::to_value(status).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_one_script_one_style_and_no_address() {
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
        for mark in [POLICY_MARK, DATA_MARK] {
            assert_eq!(PAGE.matches(mark).count(), 1);
        }
        for word in ["http://", "https://", "style=", "onclick", "innerHTML", "src=", "@import", "url("] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }

    #[test]
    fn policy_allows_the_page_and_nothing_else() {
        let policy = served_policy();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let empty = format!("sha256-{}", STANDARD.encode(Digest::of(b"").as_bytes()));
        assert!(hash_of("script") != empty && hash_of("style") != empty);
    }
}
