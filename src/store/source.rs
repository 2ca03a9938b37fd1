//! The store as a source of images. It provides what a registry on the same tree would serve.

use super::Store;
use crate::content::file::FileBlob;
use crate::content::{BlobStream, Catalog, Referrer, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};

/// Hint for a missing image.
const LS: &str = "saver ls --dir DIR lists what the directory contains";

impl Source for Store {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        let (repository, tag) = (repository.clone(), tag.clone());
        let resolve = move |store: &Self| match store.read_tag(&repository, &tag)? {
            Some(digest) => Ok(Resolved { digest, manifest: None }),
            None => Err(store.not_found(&repository, &Target::Tag(tag))?),
        };
        self.lookup(resolve).await
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.resolve(repository, tag).await?.digest,
        };
        let repository = repository.clone();
        self.blocking(move |store| store.verified_manifest(&repository, &digest)).await
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let digest = descriptor.digest;
        let repository = repository.clone();
        let open = move |store: &Self| {
            let subject = format!("{repository}@{digest}");
            if store.has_layer(&repository, &digest)?
                && let Some((file, length)) = store.open_blob(&digest)?
            {
                return Ok(FileBlob { file, offset: 0, length, subject });
            }
            let message = "this repository has no such blob in the directory";
            Err(Error::new(ErrorKind::NotFound, subject, message).on(Side::Source))
        };
        Ok(self.lookup(open).await?.stream(from, to))
    }

    async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let (repository, subject) = (repository.clone(), *subject);
        self.lookup(move |store| store.referrers_of(&repository, &subject)).await
    }
}

impl Catalog for Store {
    async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>> {
        let repository = repository.clone();
        let list = move |store: &Self| {
            if store.has_repository(&repository)? {
                return store.tags(&repository);
            }
            let error = Error::new(ErrorKind::NotFound, repository, "the directory has no such repository");
            Err(error.on(Side::Source).with_hint(LS))
        };
        self.blocking(list).await
    }
}

impl Store {
    /// The manifest `digest`, as the repository serves it.
    fn verified_manifest(&self, repository: &Repository, digest: &Digest) -> Result<RawManifest> {
        if !self.has_revision(repository, digest)? {
            return Err(self.not_found(repository, &Target::Digest(*digest))?);
        }
        let subject = format!("{repository}@{digest}");
        let damaged = |why: &str| {
            Error::new(ErrorKind::Corrupt, &subject, format!("the directory is damaged: {why}"))
                .on(Side::Source)
                .with_hint(
                    "run saver verify to find out what is damaged, and saver verify --repair to repair it",
                )
        };
        let Some(bytes) = self.read_content(digest, MAX_MANIFEST_SIZE)? else {
            return Err(damaged("the content of the manifest is missing or too long"));
        };
        match RawManifest::verified(bytes, *digest) {
            Ok(Some((raw, _))) => Ok(raw),
            Ok(None) => Err(damaged("the content of the manifest does not match its digest")),
            Err(error) => Err(error.on(Side::Source)),
        }
    }

    /// The error for something that is not in the tree.
    fn not_found(&self, repository: &Repository, target: &Target) -> Result<Error> {
        let (subject, message) = match (self.has_repository(repository)?, target) {
            (false, _) => (repository.to_string(), "the directory has no such repository"),
            (true, Target::Tag(tag)) => (format!("{repository}:{tag}"), "the directory has no such tag"),
            (true, Target::Digest(digest)) => {
                (format!("{repository}@{digest}"), "the directory has no such manifest")
            }
        };
        let error = Error::new(ErrorKind::NotFound, subject, message).on(Side::Source);
        Ok(error.with_hint(LS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::conformance;
    use crate::driver::MemoryDriver;
    use crate::store::StoreOptions;
    use std::sync::Arc;

    #[tokio::test]
    async fn store_conforms_as_a_source() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions::default()).unwrap();
        conformance::publish_sample(&store).await;
        conformance::source(&store).await;
    }

    #[tokio::test]
    async fn damaged_manifest_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions::default()).unwrap();
        conformance::publish_sample(&store).await;
        let (repository, tag): (Repository, Tag) = ("one".parse().unwrap(), "1.0".parse().unwrap());
        let digest = store.resolve(&repository, &tag).await.unwrap().digest;
        let path = root.path().join(crate::store::path::data(&digest));
        std::fs::write(&path, "{}").unwrap();
        let error = store.manifest(&repository, &Target::Tag(tag)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.hint().unwrap().contains("saver verify"), "{error}");
    }

    #[tokio::test]
    async fn missing_repository_is_named() {
        let store = Store::with_driver(Arc::new(MemoryDriver::new()), StoreOptions::default());
        let error = store.resolve(&"a/b".parse().unwrap(), &"c".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string().split(':').next(), Some("a/b"), "{error}");
    }
}
