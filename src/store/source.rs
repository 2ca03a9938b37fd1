//! The store as the place that images come from: what a registry over it would serve, and nothing else.

use super::Store;
use crate::content::file::FileBlob;
use crate::content::{BlobStream, Catalog, Resolved, Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, RawManifest, Repository, Tag};

/// Where to look for what there is.
const LS: &str = "saver ls --dir DIR shows what the tree holds";

impl Source for Store {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        match self.read_tag(repository, tag)? {
            Some(digest) => Ok(Resolved { digest, manifest: None }),
            None => Err(self.absent(repository, &Target::Tag(tag.clone()))?),
        }
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.resolve(repository, tag).await?.digest,
        };
        if !self.has_revision(repository, &digest)? {
            return Err(self.absent(repository, &Target::Digest(digest))?);
        }
        let subject = format!("{repository}@{digest}");
        let damaged = |why: &str| {
            Error::new(ErrorKind::Corrupt, &subject, format!("the tree is damaged: {why}"))
                .on(Side::Source)
                .with_hint("saver verify tells all that is wrong with the tree, and --repair mends what can be mended")
        };
        let Some(bytes) = self.read_content(&digest, MAX_MANIFEST_SIZE)? else {
            return Err(damaged("the manifest's content is missing, or too long for one"));
        };
        match RawManifest::verified(bytes, digest) {
            Ok(Some((raw, _))) => Ok(raw),
            Ok(None) => Err(damaged("the manifest has other bytes than its digest promises")),
            Err(error) => Err(error.on(Side::Source)),
        }
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let digest = &descriptor.digest;
        let subject = format!("{repository}@{digest}");
        if self.has_layer(repository, digest)?
            && let Some((file, length)) = self.open_blob(digest)?
        {
            return Ok(FileBlob { file, offset: 0, length, subject }.stream(from, to));
        }
        let message = "the tree does not hold this blob in this repository";
        Err(Error::new(ErrorKind::NotFound, subject, message).on(Side::Source))
    }
}

impl Catalog for Store {
    async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>> {
        if self.has_repository(repository)? {
            return self.tags(repository);
        }
        let error = Error::new(ErrorKind::NotFound, repository, "the tree has no such repository");
        Err(error.on(Side::Source).with_hint(LS))
    }
}

impl Store {
    /// What to say of something that the tree does not hold.
    fn absent(&self, repository: &Repository, target: &Target) -> Result<Error> {
        let (subject, message) = match (self.has_repository(repository)?, target) {
            (false, _) => (repository.to_string(), "the tree has no such repository"),
            (true, Target::Tag(tag)) => (format!("{repository}:{tag}"), "the tree has no such tag"),
            (true, Target::Digest(digest)) => {
                (format!("{repository}@{digest}"), "the tree does not hold this manifest")
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
    async fn a_store_is_a_source() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions::default()).unwrap();
        conformance::publish_sample(&store).await;
        conformance::source(&store).await;
    }

    #[tokio::test]
    async fn what_is_damaged_is_said_to_be() {
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
    async fn what_is_not_there_is_named() {
        let store = Store::with_driver(Arc::new(MemoryDriver::new()), StoreOptions::default());
        let error = store.resolve(&"a/b".parse().unwrap(), &"c".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string().split(':').next(), Some("a/b"), "{error}");
    }
}
