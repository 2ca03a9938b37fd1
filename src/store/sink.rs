//! The store as the place that images go to.

use super::partial::{Asked, Writer};
use super::publish::{Move, Staged, any_committed, lost};
use super::{Inner, Store, link, path, storage};
use crate::content::{Ingest, Publication, Room, Sink};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use bytes::Bytes;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often a blob that another process is writing is looked at: first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

/// After so long it is said what is waited for.
const SAY_AFTER: Duration = Duration::from_secs(1);

impl Store {
    /// Says once that another process has what this one waits for.
    fn tell_waiting(&self, waited: Duration, partial: &str) {
        if waited >= SAY_AFTER && !self.inner.told.swap(true, Ordering::Relaxed) {
            let driver = &*self.inner.driver;
            let (lock, tree) = (driver.location(partial), driver.location(""));
            tracing::warn!(
                "another saver works on {tree} and fetches what is wanted here too: waiting for it ({lock} is locked)"
            );
        }
    }
}

impl Sink for Store {
    type Writer = Writer;
    type Upload = Infallible;

    async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        self.read_tag(repository, tag)
    }

    async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
        self.has_named(repository, tag, digest)
    }

    async fn content(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        self.read_content(digest, limit)
    }

    async fn has_blob(&self, _: &Repository, descriptor: &Descriptor) -> Result<bool> {
        let committed = self.inner.claims.committed(&descriptor.digest);
        Ok(committed == Some(descriptor.size) || self.blob_size(&descriptor.digest)? == Some(descriptor.size))
    }

    async fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        self.has_layer(repository, digest)
    }

    async fn is_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        self.has_revision(repository, digest)
    }

    async fn room(&self) -> Result<Option<Room>> {
        let space = self.free_space()?;
        Ok(Some(Room { free: space.bytes, total: space.total }))
    }

    async fn ingest(&self, _: &Repository, descriptor: &Descriptor) -> Result<Ingest<Writer, Infallible>> {
        let Descriptor { digest, size, .. } = descriptor;
        let is_there = || Ok::<_, Error>(self.blob_size(digest)? == Some(*size));
        if is_there()? {
            return Ok(Ingest::Present);
        }
        let claim = loop {
            // Asked for first, so that no change between asking and waiting is missed.
            let mut changed = std::pin::pin!(self.inner.claims.changed.notified());
            changed.as_mut().enable();
            match self.inner.claims.ask(digest, *size) {
                Asked::Granted(claim) => break claim,
                Asked::Committed => return Ok(Ingest::Present),
                Asked::Busy => changed.await,
            }
        };
        let partial = path::partial(digest, *size);
        let driver = &*self.inner.driver;
        let (mut wait, asked) = (POLL.0, Instant::now());
        loop {
            let opened = driver.partial(&partial, *size);
            let file = opened.map_err(|error| storage(driver, &partial, "open the partial blob", error))?;
            // Whoever had it before, in this process or another, may have published it just now.
            if is_there()? {
                if file.is_some() {
                    driver
                        .remove(&partial)
                        .map_err(|error| storage(driver, &partial, "remove the partial blob", error))?;
                }
                return Ok(Ingest::Present);
            }
            if let Some(file) = file {
                let open = self.inner.publisher.open_writer()?;
                return Ok(Ingest::Write(Writer::new(self.inner.clone(), claim, file, open, *size)));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(POLL.1);
            self.tell_waiting(asked.elapsed(), &partial);
        }
    }

    async fn publish(&self, image: Publication) -> Result<()> {
        let mut staging = Staging { inner: &self.inner, staged: Vec::new() };
        let steps = match stage_image(self, &mut staging, &image) {
            Ok(steps) => steps,
            Err(error) => {
                staging.undo();
                return Err(error);
            }
        };
        let (done, outcome) = oneshot::channel();
        let tags = steps[2].iter().map(|step| step.path.clone()).collect();
        // A content step is kept, be it empty, while a blob is on its way: what follows relies on it.
        let wait_for_blobs = any_committed(&self.inner.claims, &image.blobs);
        let steps = steps.into_iter().enumerate();
        let steps = steps.filter(|(number, step)| !step.is_empty() || (*number == 0 && wait_for_blobs));
        let steps = steps.map(|(_, step)| step).collect();
        if let Err(error) = self.inner.publisher.publish(Staged { steps, tags, blobs: image.blobs, done }) {
            staging.undo();
            return Err(error);
        }
        outcome.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Writes everything of `image` that is not there yet into staged files; answers them step by step.
fn stage_image(store: &Store, staging: &mut Staging<'_>, image: &Publication) -> Result<[Vec<Move>; 3]> {
    let (mut content, mut links, mut tags) = (Vec::new(), Vec::new(), Vec::new());
    for manifest in &image.manifests {
        let length = manifest.bytes.len() as u64;
        if store.read_content(&manifest.digest, length)?.as_ref() != Some(&manifest.bytes) {
            content.push(staging.file(path::data(&manifest.digest), &manifest.bytes)?);
        }
    }
    for place in &image.places {
        let repository = &place.repository;
        if image.blobs.is_empty() {
            // Registry 2.8 does not see a repository without this directory, and garbage collection fails on it.
            let layers = path::layers(repository);
            let made = store.inner.driver.create_dir(&layers);
            made.map_err(|error| storage(&*store.inner.driver, &layers, "make the directory", error))?;
        }
        for blob in &image.blobs {
            staging.link(store, path::layer_link(repository, blob), blob, &mut links, false)?;
        }
        for manifest in &image.manifests {
            let digest = &manifest.digest;
            staging.link(store, path::revision_link(repository, digest), digest, &mut links, false)?;
        }
        if let (Some(tag), Some(root)) = (&place.tag, image.root()) {
            staging.link(store, path::tag_index(repository, tag, &root), &root, &mut tags, false)?;
            let current = path::tag_current(repository, tag);
            // What another image is about to change is written whatever it says now.
            let always = store.inner.publisher.is_changing(&current);
            staging.link(store, current, &root, &mut tags, always)?;
        }
    }
    Ok([content, links, tags])
}

/// Staged files of one image, to be removed again if it comes to nothing.
struct Staging<'a> {
    inner: &'a Inner,
    staged: Vec<String>,
}

impl Staging<'_> {
    fn file(&mut self, path: String, content: &[u8]) -> Result<Move> {
        let inner = self.inner;
        let area = inner.area()?;
        let number = inner.staged.fetch_add(1, Ordering::Relaxed);
        let staged = format!("{area}/{number}");
        self.staged.push(staged.clone());
        inner
            .driver
            .stage(&staged, content)
            .map_err(|error| storage(&*inner.driver, &staged, "write", error))?;
        Ok(Move { staged, path })
    }

    /// Stages a link unless the right one is there.
    fn link(
        &mut self,
        store: &Store,
        path: String,
        digest: &Digest,
        into: &mut Vec<Move>,
        always: bool,
    ) -> Result<()> {
        if always || !store.links_to(&path, digest)? {
            into.push(self.file(path, link::format(digest).as_bytes())?);
        }
        Ok(())
    }

    fn undo(&self) {
        for staged in &self.staged {
            // What can't be removed now is removed by a later run.
            let _ = self.inner.driver.remove(staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::conformance;
    use crate::driver::{FsDriver, MemoryDriver};
    use crate::store::{Durability, StoreOptions};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_store_in_a_directory_conforms() {
        let root = tempfile::tempdir().unwrap();
        let mut count = 0;
        let mut open = || {
            count += 1;
            root.path().join(count.to_string())
        };
        conformance::sink(|| Store::open(&open(), StoreOptions::default()).unwrap()).await;
        let options = StoreOptions { durability: Durability::None };
        conformance::sink(|| Store::open(&open(), options.clone()).unwrap()).await;
        conformance::sink(|| {
            let driver = FsDriver::create(&open()).unwrap().syncing_each_file();
            Store::with_driver(Arc::new(driver), StoreOptions::default())
        })
        .await;
    }

    #[tokio::test]
    async fn a_store_in_memory_conforms() {
        conformance::sink(|| Store::with_driver(Arc::new(MemoryDriver::new()), StoreOptions::default()))
            .await;
    }
}
