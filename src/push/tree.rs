//! A tree under the names that its images have where they go.

use crate::content::{BlobStream, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, RawManifest, Repository, Tag};
use crate::store::Store;

/// A store whose repositories all have a prefix before their names.
pub(super) struct Tree {
    store: Store,
    prefix: Option<String>,
}

impl Tree {
    pub(super) fn new(store: Store, prefix: Option<Repository>) -> Self {
        Self { store, prefix: prefix.map(|prefix| format!("{prefix}/")) }
    }

    /// What the store calls `repository`.
    fn own(&self, repository: &Repository) -> Result<Repository> {
        let Some(prefix) = &self.prefix else { return Ok(repository.clone()) };
        match repository.as_str().strip_prefix(prefix.as_str()) {
            Some(own) => own.parse(),
            None => Err(Error::new(ErrorKind::NotFound, repository, "no name of the tree's")),
        }
    }
}

impl Source for Tree {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        self.store.resolve(&self.own(repository)?, tag).await
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        self.store.manifest(&self.own(repository)?, target).await
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        self.store.blob(&self.own(repository)?, descriptor, from, to).await
    }
}
