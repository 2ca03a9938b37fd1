//! Selections of tags, resolved at the registries.

use super::{SaveImage, sessions};
use crate::content::retry::RetryPolicy;
use crate::content::{Catalog, document};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{SelectedRepository, SelectedTags};
use crate::oci::Tag;
use crate::registry::Access;
use futures::stream::{self, StreamExt, TryStreamExt};

/// How many repositories are listed at a time.
const CONCURRENCY: usize = 8;

/// A repository with the tags that its selection selects.
#[derive(Debug)]
pub struct ResolvedSelection {
    /// The repository and its selection.
    pub repository: SelectedRepository,
    /// The tags.
    pub tags: SelectedTags,
}

/// Lists the tags of repositories and selects among them.
///
/// # Errors
/// Those of the registries, and `NotFound` if a selection selects nothing.
pub async fn resolve_selections(
    repositories: Vec<SelectedRepository>,
    access: &Access,
    retry: &RetryPolicy,
) -> Result<Vec<ResolvedSelection>> {
    let images: Vec<SaveImage> = repositories.iter().map(|one| one.entry(Tag::latest()).into()).collect();
    let sessions = &sessions(&images, access, CONCURRENCY);
    let resolve = |repository: SelectedRepository| async move {
        let session = sessions.with(&repository.reference.registry)?;
        let name = &repository.reference.repository;
        let tags = document::retrying(retry, || Catalog::tags(&*session, name)).await?;
        let selected = repository.selection.select(&tags);
        if selected.tags.is_empty() {
            let subject = format!("{}: {}", repository.origin, repository.name());
            let why = format!("none of the {} tags matches {}", tags.len(), repository.selection);
            return Err(Error::new(ErrorKind::NotFound, subject, why)
                .with_hint("saver tags REPOSITORY lists the tags"));
        }
        Ok(ResolvedSelection { repository, tags: selected })
    };
    stream::iter(repositories).map(resolve).buffered(CONCURRENCY).try_collect().await
}
