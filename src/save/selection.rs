//! Selections of tags, resolved at the registries.

use super::{SaveImage, sessions};
use crate::content::retry::RetryPolicy;
use crate::content::{Catalog, Source, Target, document};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{RepositoryPattern, SelectedRepository, SelectedTags};
use crate::oci::rfc3339::parse_rfc3339;
use crate::oci::{Manifest, RawManifest, Repository, Tag};
use crate::registry::{Access, Session};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// How many repositories are listed, and how many images of one are dated, at a time.
const CONCURRENCY: usize = 8;
/// Maximum number of repositories that a pattern may match.
const MAX_REPOSITORIES: usize = 10_000;
/// Maximum number of images of a repository whose dates are read, which takes up to three requests each.
const MAX_DATED: usize = 5_000;
/// Maximum depth of indexes in which the image that has a date is searched.
const MAX_DEPTH: usize = 4;

/// A repository with the tags that its selection selects.
#[derive(Debug)]
pub struct ResolvedSelection {
    /// The repository and its selection.
    pub repository: SelectedRepository,
    /// The tags.
    pub tags: SelectedTags,
    /// Whether the repository is one of those that a pattern matches.
    pub is_of_pattern: bool,
}

/// Lists the repositories that patterns match and the tags of repositories, and selects among them.
///
/// # Errors
/// Those of the registries.
pub async fn list_selections(
    selections: Vec<SelectedRepository>,
    access: &Access,
    retry: &RetryPolicy,
) -> Result<Vec<ResolvedSelection>> {
    let mut repositories = Vec::new();
    for selection in selections {
        match &selection.repositories {
            Some(pattern) => {
                let matching = matching(&selection, pattern, access, retry).await?;
                repositories.extend(matching.into_iter().map(|repository| (repository, true)));
            }
            None => repositories.push((selection, false)),
        }
    }
    let images: Vec<SaveImage> =
        repositories.iter().map(|(repository, _)| repository.entry(Tag::latest()).into()).collect();
    let sessions = &sessions(&images, access, CONCURRENCY);
    let resolve = |(repository, is_of_pattern): (SelectedRepository, bool)| async move {
        let session = sessions.with(&repository.reference.registry)?;
        let tags = match selected_tags(&session, &repository, retry).await {
            // Registries list repositories of which all tags were deleted.
            Err(error) if is_of_pattern && error.kind() == ErrorKind::NotFound => SelectedTags::default(),
            tags => tags?,
        };
        Ok(ResolvedSelection { repository, tags, is_of_pattern })
    };
    stream::iter(repositories).map(resolve).buffered(CONCURRENCY).try_collect().await
}

/// As [`list_selections`], for callers that need each selection to select something.
///
/// # Errors
/// Those of the registries, and `NotFound` if a selection selects nothing.
pub async fn resolve_selections(
    selections: Vec<SelectedRepository>,
    access: &Access,
    retry: &RetryPolicy,
) -> Result<Vec<ResolvedSelection>> {
    let patterns: Vec<SelectedRepository> =
        selections.iter().filter(|one| one.repositories.is_some()).cloned().collect();
    let resolved = list_selections(selections, access, retry).await?;
    if let Some(one) = resolved.iter().find(|one| !one.is_of_pattern && one.tags.tags.is_empty()) {
        let tags = one.tags.others.len();
        return Err(nothing_selected(&one.repository, &format!("none of the {tags} tags matches")));
    }
    for pattern in patterns {
        let is_own = |one: &&ResolvedSelection| {
            one.is_of_pattern
                && one.repository.origin == pattern.origin
                && one.repository.reference.registry == pattern.reference.registry
        };
        let own: Vec<_> = resolved.iter().filter(is_own).collect();
        if own.iter().all(|one| one.tags.tags.is_empty()) {
            let number = own.len();
            return Err(nothing_selected(&pattern, &format!("no tag in {number} repositories matches")));
        }
    }
    Ok(resolved)
}

fn nothing_selected(repository: &SelectedRepository, why: &str) -> Error {
    let (name, rule) = (repository.name(), &repository.selection);
    let subject = format!("{}: {name}", repository.origin);
    Error::new(ErrorKind::NotFound, subject, format!("{why} {rule}"))
        .with_hint(format!("saver select '{name}:* {rule}' shows the tags"))
}

/// The repositories of a registry that a pattern matches.
async fn matching(
    selection: &SelectedRepository,
    pattern: &RepositoryPattern,
    access: &Access,
    retry: &RetryPolicy,
) -> Result<Vec<SelectedRepository>> {
    let image = SaveImage::from(selection.entry(Tag::latest()));
    let session = sessions(&[image], access, CONCURRENCY).with(&selection.reference.registry)?;
    let scope = &selection.reference.repository;
    let names = document::retrying(retry, || session.repositories(scope)).await?;
    let names: Vec<Repository> = names.into_iter().filter(|name| pattern.matches(name)).collect();
    if names.len() > MAX_REPOSITORIES {
        let why = format!("the pattern matches {} repositories, more than {MAX_REPOSITORIES}", names.len());
        return Err(Error::new(ErrorKind::InvalidInput, selection.name(), why));
    }
    Ok(names.into_iter().map(|name| selection.of(name)).collect())
}

/// Selects among the tags of one repository.
async fn selected_tags(
    session: &Session,
    repository: &SelectedRepository,
    retry: &RetryPolicy,
) -> Result<SelectedTags> {
    let name = &repository.reference.repository;
    let selection = &repository.selection;
    let mut selected = selection.select(&document::retrying(retry, || Catalog::tags(session, name)).await?);
    if selection.needs_dates() {
        if selected.tags.len() > MAX_DATED {
            let number = selected.tags.len();
            let why = format!("the dates of {number} images would be read, more than {MAX_DATED}");
            return Err(Error::new(ErrorKind::InvalidInput, repository.name(), why)
                .with_hint("narrow the selection with tags= or newest="));
        }
        let dates = dates(session, name, &selected.tags, retry).await?;
        selection.drop_older(&mut selected, |tag| dates.get(tag).copied());
    }
    Ok(selected)
}

/// When the images of tags were created, as far as they say so.
async fn dates(
    session: &Session,
    repository: &Repository,
    tags: &[Tag],
    retry: &RetryPolicy,
) -> Result<HashMap<Tag, SystemTime>> {
    let dated = stream::iter(tags).map(|tag| async move {
        Ok::<_, Error>((tag.clone(), created(session, repository, tag, retry).await?))
    });
    let dated: Vec<_> = dated.buffered(CONCURRENCY).try_collect().await?;
    Ok(dated.into_iter().filter_map(|(tag, time)| Some((tag, time?))).collect())
}

/// When the image of a tag was created: by its configuration, or by an annotation where there is none, as for Helm charts. Of an
/// index, the first image is asked.
async fn created(
    session: &Session,
    repository: &Repository,
    tag: &Tag,
    retry: &RetryPolicy,
) -> Result<Option<SystemTime>> {
    let target = Target::Tag(tag.clone());
    let mut raw = match document::retrying(retry, || session.manifest(repository, &target)).await {
        // The tag was deleted since tags were listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        raw => raw?,
    };
    for _ in 0..MAX_DEPTH {
        match raw.parse()? {
            Manifest::Index(index) => {
                let Some(first) = index.manifests.iter().find(|entry| !entry.is_attestation()) else {
                    return Ok(None);
                };
                raw = document::manifest(session, repository, first.digest, retry).await?;
            }
            Manifest::Image(image) if image.is_image() => {
                let config = document::config(session, repository, &image.config, retry).await?;
                return Ok(config.created.as_deref().and_then(parse_rfc3339));
            }
            Manifest::Image(_) => return Ok(annotated(&raw)),
        }
    }
    Ok(None)
}

/// The date in a manifest's annotations.
fn annotated(raw: &RawManifest) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: BTreeMap<String, String>,
    }
    let read: Annotated = serde_json::from_slice(&raw.bytes).ok()?;
    parse_rfc3339(read.annotations.get("org.opencontainers.image.created")?)
}
