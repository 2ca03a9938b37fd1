//! A layout as the place that images go to.

use super::partial::{Claims, Writer, path};
use super::{Layout, storage};
use crate::content::{Ingest, Place, Publication, Room, Sink};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::blob;
use crate::oci::{Descriptor, Digest, Repository, Tag};
use bytes::Bytes;
use std::convert::Infallible;
use std::time::Duration;

/// How often a blob that another process is writing is looked at: first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

impl Layout {
    fn name(&self, repository: &Repository, tag: &Tag) -> String {
        self.inner.name(&Place { repository: repository.clone(), tag: Some(tag.clone()) }, None)
    }

    /// Gives the blobs that wait their names, if `due` still when it is this caller's turn.
    async fn settle(&self, due: fn(&Claims) -> bool) -> Result<()> {
        let inner = self.inner.clone();
        let settled = tokio::task::spawn_blocking(move || inner.settle_waiting(due)).await;
        let lost = |_| Error::new(ErrorKind::Storage, "", "publishing ended early").on(Side::Sink);
        settled.map_err(lost)?
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let (driver, path) = (&*self.inner.driver, blob(digest));
        driver.size(&path).map_err(|error| storage(driver, &path, "look at", error))
    }
}

impl Sink for Layout {
    type Writer = Writer;
    type Upload = Infallible;

    async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        Ok(self.inner.index()?.and_then(|index| index.find(&self.name(repository, tag))))
    }

    /// A layout has no history: this knows what its names have named since it was opened.
    async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        Ok(self.inner.known()?.named.contains(&(self.name(repository, tag), *digest)))
    }

    async fn content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let (driver, path) = (&*self.inner.driver, blob(digest));
        let content = driver.read(&path, limit).map_err(|error| storage(driver, &path, "read", error))?;
        Ok(content.map(Bytes::from))
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        let Descriptor { digest, size, .. } = descriptor;
        Ok(self.inner.claims.has(digest, *size) || self.size(digest)? == Some(*size))
    }

    /// A layout has no repositories: what one image reaches, all do.
    async fn is_linked(&self, _: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.inner.known()?.blobs.contains(digest))
    }

    async fn is_revision(&self, _: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.inner.known()?.manifests.contains(digest))
    }

    async fn room(&self) -> Result<Option<Room>> {
        let driver = &*self.inner.driver;
        let space = driver.free_space().map_err(|error| storage(driver, "", "read the free space", error))?;
        Ok(Some(Room { free: space.bytes, total: space.total }))
    }

    async fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<Writer, Infallible>> {
        let Descriptor { digest, size, .. } = descriptor;
        let inner = &self.inner;
        if inner.claims.are_many() {
            self.settle(Claims::are_many).await?;
        }
        let claim = loop {
            // Asked for first, so that no change between asking and waiting is missed.
            let mut changed = std::pin::pin!(inner.claims.changed.notified());
            changed.as_mut().enable();
            if self.has_blob(repository, descriptor).await? {
                return Ok(Ingest::Present);
            }
            match inner.claims.take(digest) {
                Some(claim) => break claim,
                None => changed.await,
            }
        };
        let (driver, partial) = (&*inner.driver, path(digest, *size));
        let mut wait = POLL.0;
        loop {
            let opened = driver.partial(&partial, *size);
            let file = opened.map_err(|error| storage(driver, &partial, "open the partial blob", error))?;
            // Whoever had it before, in this process or another, may have published it just now.
            if self.has_blob(repository, descriptor).await? {
                if file.is_some() && self.size(digest)? == Some(*size) {
                    let removed = driver.remove(&partial);
                    removed.map_err(|error| storage(driver, &partial, "remove the partial blob", error))?;
                }
                return Ok(Ingest::Present);
            }
            if let Some(file) = file {
                return Ok(Ingest::Write(Writer::new(inner.clone(), claim, file, *size)));
            }
            // That one may be waiting for a blob which is kept here until its image is published: for ever, then.
            if inner.claims.any() {
                self.settle(Claims::any).await?;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(POLL.1);
        }
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        self.inner.publish(image).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::conformance;
    use crate::layout::OWN;
    use crate::oci::layout::INDEX;
    use std::collections::HashMap;
    use std::path::Path;

    fn create(dir: &Path) -> Layout {
        Layout::create(dir, HashMap::new()).unwrap()
    }

    #[tokio::test]
    async fn a_layout_conforms() {
        let root = tempfile::tempdir().unwrap();
        let mut count = 0;
        conformance::sink(|| {
            count += 1;
            create(&root.path().join(count.to_string()))
        })
        .await;
    }

    #[tokio::test]
    async fn a_layout_is_a_source() {
        let root = tempfile::tempdir().unwrap();
        conformance::publish_sample(&create(root.path())).await;
        conformance::source(&Layout::open(root.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn what_was_written_is_a_layout_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let layout = create(root.path());
        conformance::publish_sample(&layout).await;
        layout.tidy();
        let mut names: Vec<_> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["blobs", INDEX, "oci-layout"]);
        // Another one finds all of it there, and changes nothing.
        let before = std::fs::read(root.path().join(INDEX)).unwrap();
        let again = create(root.path());
        let (repository, tag): (Repository, Tag) = ("one".parse().unwrap(), "1.0".parse().unwrap());
        let sample = conformance::sample("one", 100);
        assert_eq!(again.tag(&repository, &tag).await.unwrap(), Some(sample.root()));
        assert!(again.is_revision(&repository, &sample.root()).await.unwrap());
        conformance::publish_sample(&again).await;
        assert_eq!(std::fs::read(root.path().join(INDEX)).unwrap(), before);
    }

    #[tokio::test]
    async fn a_link_in_place_of_content_leads_nowhere() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        conformance::publish_sample(&create(root.path())).await;
        let sample = conformance::sample("one", 100);
        let descriptor = Descriptor::new("", Digest::of(&sample.blobs[3]), sample.blobs[3].len() as u64);
        let path = root.path().join(blob(&descriptor.digest));
        let target = outside.path().join("secret");
        std::fs::rename(&path, &target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let layout = Layout::open(root.path()).unwrap();
        use crate::content::Source;
        let refused = layout.blob(&"one".parse().unwrap(), &descriptor, 0, None).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert!(!root.path().join(OWN).join("secret").exists());
    }

    #[test]
    fn a_directory_of_something_else_is_not_written_to() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("precious"), "x").unwrap();
        let refused = Layout::create(root.path(), HashMap::new()).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("precious"), "{refused}");
        assert_eq!(Layout::open(root.path()).err().unwrap().kind(), ErrorKind::InvalidInput);
    }
}
