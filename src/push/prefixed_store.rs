//! A store whose repositories are renamed for their destination.

use crate::content::{BlobStream, Referrer, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use crate::store::Store;

/// A store whose repositories all have a prefix.
pub(super) struct PrefixedStore {
    store: Store,
    /// With a trailing slash.
    prefix: Option<String>,
}

impl PrefixedStore {
    pub(super) fn new(store: Store, prefix: Option<Repository>) -> Self {
        Self { store, prefix: prefix.map(|prefix| format!("{prefix}/")) }
    }

    /// The name of `repository` in the store.
    fn unprefixed(&self, repository: &Repository) -> Result<Repository> {
        let Some(prefix) = &self.prefix else { return Ok(repository.clone()) };
        match repository.as_str().strip_prefix(prefix.as_str()) {
            Some(own) => own.parse(),
            None => {
                let message = format!("not below the prefix {prefix:?}");
                Err(Error::new(ErrorKind::NotFound, repository, message))
            }
        }
    }
}

impl Source for PrefixedStore {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        self.store.resolve(&self.unprefixed(repository)?, tag).await
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        self.store.manifest(&self.unprefixed(repository)?, target).await
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        self.store.blob(&self.unprefixed(repository)?, descriptor, from, to).await
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        self.store.referrers(&self.unprefixed(repository)?, subject).await
    }
}
