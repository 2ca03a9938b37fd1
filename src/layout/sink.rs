//! A layout as a [`Sink`].

use super::partial::{LayoutBlobWriter, LayoutClaims, path};
use super::{Layout, storage};
use crate::content::{Ingest, Place, Publication, Room, Sink};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::blob;
use crate::oci::{Descriptor, Digest, Repository, Tag};
use bytes::Bytes;
use std::convert::Infallible;
use std::time::Duration;

/// The interval for polling a blob that another process is writing; it doubles up to the maximum.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(200);

impl Layout {
    fn name(&self, repository: &Repository, tag: &Tag) -> String {
        self.inner.name(&Place { repository: repository.clone(), tag: Some(tag.clone()) }, None).full
    }

    /// Renames the committed blobs into place, if that is still `due` once no other thread is publishing.
    async fn rename_if(&self, due: fn(&LayoutClaims) -> bool) -> Result<()> {
        let inner = self.inner.clone();
        let renamed = tokio::task::spawn_blocking(move || inner.rename_if(due)).await;
        let lost = |_| Error::new(ErrorKind::Storage, "", "publishing was interrupted").on(Side::Sink);
        renamed.map_err(lost)?
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let (driver, path) = (&*self.inner.driver, blob(digest));
        driver.size(&path).map_err(|error| storage(driver, &path, "inspect", error))
    }
}

impl Sink for Layout {
    type Writer = LayoutBlobWriter;
    type Upload = Infallible;

    async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        Ok(self.inner.index()?.and_then(|index| index.find(&self.name(repository, tag))))
    }

    /// A layout keeps no history of names; this covers the time since it was opened.
    async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        Ok(self.inner.reachable()?.named.contains(&(self.name(repository, tag), *digest)))
    }

    async fn content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let (driver, path) = (&*self.inner.driver, blob(digest));
        let content = driver.read(&path, limit).map_err(|error| storage(driver, &path, "read", error))?;
        Ok(content.map(Bytes::from))
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        let Descriptor { digest, size, .. } = descriptor;
        Ok(self.inner.claims.is_committed(digest, *size) || self.size(digest)? == Some(*size))
    }

    /// A layout has no repositories: reachable content belongs to all of them.
    async fn is_linked(&self, _: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.inner.reachable()?.blobs.contains(digest))
    }

    async fn is_revision(&self, _: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.inner.reachable()?.manifests.contains(digest))
    }

    async fn room(&self) -> Result<Option<Room>> {
        let driver = &*self.inner.driver;
        let space = driver.free_space().map_err(|error| storage(driver, "", "read the free space", error))?;
        Ok(space.map(|space| Room { directory: driver.location(""), free: space.bytes, total: space.total }))
    }

    async fn ingest(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Ingest<LayoutBlobWriter, Infallible>> {
        let Descriptor { digest, size, .. } = descriptor;
        let inner = &self.inner;
        if inner.claims.is_full() {
            self.rename_if(LayoutClaims::is_full).await?;
        }
        let claim = loop {
            // Registered before the check, so that no change between check and wait is missed.
            let mut changed = std::pin::pin!(inner.claims.changed.notified());
            changed.as_mut().enable();
            if self.has_blob(repository, descriptor).await? {
                return Ok(Ingest::Present);
            }
            match inner.claims.claim(digest) {
                Some(claim) => break claim,
                None => changed.await,
            }
        };
        let driver = &*inner.driver;
        let partial = path(digest, *size);
        let mut interval = POLL_INTERVAL;
        loop {
            let opened = driver.partial(&partial, *size);
            let file = opened.map_err(|error| storage(driver, &partial, "open the partial blob", error))?;
            // Another writer, of this process or another, may have published it in the meantime.
            if self.has_blob(repository, descriptor).await? {
                if file.is_some() && self.size(digest)? == Some(*size) {
                    let removed = driver.remove(&partial);
                    removed.map_err(|error| storage(driver, &partial, "remove the partial blob", error))?;
                }
                return Ok(Ingest::Present);
            }
            if let Some(file) = file {
                return Ok(Ingest::Write(LayoutBlobWriter::new(inner.clone(), claim, file, *size)));
            }
            // Avoids a deadlock: the other process may be waiting for a blob that is committed here.
            if inner.claims.any_committed() {
                self.rename_if(LayoutClaims::any_committed).await?;
            }
            tokio::time::sleep(interval).await;
            interval = (interval * 2).min(MAX_POLL_INTERVAL);
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
    async fn layout_conforms_as_sink() {
        let root = tempfile::tempdir().unwrap();
        let mut count = 0;
        conformance::sink(|| {
            count += 1;
            create(&root.path().join(count.to_string()))
        })
        .await;
    }

    #[tokio::test]
    async fn layout_conforms_as_source() {
        let root = tempfile::tempdir().unwrap();
        conformance::publish_sample(&create(root.path())).await;
        conformance::source(&Layout::open(root.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn written_directory_contains_only_the_layout() {
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
        // Writing the same image again changes nothing.
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
    async fn symbolic_link_in_place_of_blob_is_not_followed() {
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
    fn directory_of_other_files_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("precious"), "x").unwrap();
        let refused = Layout::create(root.path(), HashMap::new()).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("precious"), "{refused}");
        assert_eq!(Layout::open(root.path()).err().unwrap().kind(), ErrorKind::InvalidInput);
    }
}
