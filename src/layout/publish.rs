//! Publishes images: content first, `index.json` last, with a barrier before each. Images that arrive in the
//! meantime are published together.

use super::partial::{LayoutClaims, path};
use super::read::ReachableContent;
use super::{Inner, STAGE, storage};
use crate::content::{Place, Publication};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{self, EntryName, INDEX, LayoutIndex, MARKER, MARKER_CONTENT};
use crate::oci::referrer::ReferrerTag;
use crate::oci::{Digest, RawManifest, Tag};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// The images waiting to be published, and what has been published.
#[derive(Default)]
pub(super) struct LayoutPublisher {
    queue: Mutex<Vec<QueuedImage>>,
    /// Locked while images are published.
    state: Mutex<PublishState>,
    area: OnceLock<String>,
    staged: AtomicU64,
    reachable: OnceLock<Mutex<ReachableContent>>,
}

#[derive(Default)]
struct PublishState {
    /// Set once publishing has failed. After a failed sync the kernel may have dropped pages, so no later one can
    /// be trusted.
    failed: Option<Error>,
}

struct QueuedImage {
    image: Publication,
    done: oneshot::Sender<Result<()>>,
}

impl LayoutPublisher {
    /// The directory of staged files, if any file was staged.
    pub(super) fn area(&self) -> Option<String> {
        self.area.get().cloned()
    }

    fn enqueue(&self, image: Publication) -> oneshot::Receiver<Result<()>> {
        let (done, outcome) = oneshot::channel();
        self.queue.lock().push(QueuedImage { image, done });
        outcome
    }
}

impl Inner {
    /// Publishes `image`, together with other queued images.
    pub(super) async fn publish(self: &Arc<Self>, image: Publication) -> Result<()> {
        let outcome = self.publisher.enqueue(image);
        let inner = self.clone();
        let lost = || Error::new(ErrorKind::Storage, "", "publishing was interrupted").on(Side::Sink);
        tokio::task::spawn_blocking(move || inner.publish_queue()).await.map_err(|_| lost())?;
        outcome.await.unwrap_or_else(|_| Err(lost()))
    }

    /// The content that is reachable from `index.json`.
    ///
    /// # Errors
    /// `Storage`; `Corrupt` for an invalid `index.json`.
    pub(super) fn reachable(&self) -> Result<MutexGuard<'_, ReachableContent>> {
        if let Some(reachable) = self.publisher.reachable.get() {
            return Ok(reachable.lock());
        }
        let scanned = Mutex::new(self.scan()?);
        Ok(self.publisher.reachable.get_or_init(|| scanned).lock())
    }

    fn publish_queue(&self) {
        let mut state = self.publisher.state.lock();
        let queue = std::mem::take(&mut *self.publisher.queue.lock());
        if queue.is_empty() {
            return;
        }
        let images: Vec<&Publication> = queue.iter().map(|queued| &queued.image).collect();
        let outcome = match &state.failed {
            Some(error) => Err(error.clone()),
            None => self.publish_all(&images),
        };
        if let Err(error) = &outcome {
            state.failed.get_or_insert_with(|| error.clone());
        }
        drop(state);
        for queued in queue {
            // The receiver is gone if the caller was cancelled.
            let _ = queued.done.send(outcome.clone());
        }
    }

    fn publish_all(&self, images: &[&Publication]) -> Result<()> {
        let mut staged = Vec::new();
        for manifest in images.iter().flat_map(|image| &image.manifests) {
            if !self.holds(manifest)? {
                staged.push((self.stage(&manifest.bytes)?, layout::blob(&manifest.digest)));
            }
        }
        self.rename_committed()?;
        for (from, to) in staged {
            self.rename(&from, &to)?;
        }
        self.barrier()?;
        self.update_index(images)?;
        let mut reachable = self.reachable()?;
        for image in images {
            reachable.add(image, |place| self.name(place, image.root()).full);
        }
        Ok(())
    }

    /// Renames the committed blobs into place, if that is still `due` once no other thread is publishing.
    ///
    /// # Errors
    /// `Storage`, and the same error from then on.
    pub(super) fn rename_if(&self, due: fn(&LayoutClaims) -> bool) -> Result<()> {
        let mut state = self.publisher.state.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if !due(&self.claims) {
            return Ok(());
        }
        self.rename_committed().inspect_err(|error| state.failed = Some(error.clone()))
    }

    /// Renames the committed blobs into place. The caller has locked the publisher's state, so each file is renamed
    /// once.
    fn rename_committed(&self) -> Result<()> {
        // The marker comes first: a directory with blobs but no marker is refused as not being a layout.
        drop(self.lock_marker()?);
        let committed = self.claims.committed();
        self.barrier()?;
        for (digest, size) in committed {
            let renamed = self.rename(&path(&digest, size), &layout::blob(&digest));
            self.claims.release(&digest);
            renamed?;
        }
        Ok(())
    }

    /// Adds the images to `index.json`, under a lock that excludes other writers.
    fn update_index(&self, images: &[&Publication]) -> Result<()> {
        let _locked = self.lock_marker()?;
        let mut index = self.index()?.unwrap_or_default();
        let mut changed = false;
        for image in images {
            let Some(root) = image.manifests.last() else { continue };
            for referrer in image.referrers.lists.iter().flat_map(|list| &list.referrers) {
                changed |= index.add_referrer(referrer);
            }
            for place in &image.places {
                let name = self.name(place, Some(root.digest));
                changed |= index.set(&name, &root.descriptor())?;
                for (tag, digest) in &image.referrers.tags {
                    if let Some(raw) = image.manifests.iter().find(|raw| raw.digest == *digest) {
                        changed |= index.set(&name.sibling(&tag.tag()), &raw.descriptor())?;
                    }
                }
            }
        }
        if !changed {
            return Ok(());
        }
        let staged = self.stage(&index.to_bytes())?;
        self.barrier()?;
        self.rename(&staged, INDEX)?;
        self.barrier()
    }

    /// Locks the layout against other writers of `index.json`, and writes the marker if it is missing.
    fn lock_marker(&self) -> Result<Option<File>> {
        let driver = &*self.driver;
        let failed = |operation: &str, error| storage(driver, MARKER, operation, error);
        let Some(file) = driver.lock_file(MARKER).map_err(|error| failed("open", error))? else {
            return Ok(None);
        };
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", error.into()))?;
        let length = file.metadata().map_err(|error| failed("inspect", error))?.len();
        if length == 0 {
            file.write_all_at(MARKER_CONTENT, 0).map_err(|error| failed("write", error))?;
            file.sync_all().map_err(|error| failed("sync", error))?;
        }
        Ok(Some(file))
    }

    /// Reads `index.json`; `None` if it does not exist.
    pub(super) fn index(&self) -> Result<Option<LayoutIndex>> {
        let driver = &*self.driver;
        let failed = |error| storage(driver, INDEX, "read", error);
        match driver.read(INDEX, layout::MAX_INDEX_SIZE).map_err(failed)? {
            Some(content) => LayoutIndex::parse(&content)
                .map(Some)
                .map_err(|error| Error::new(error.kind(), driver.location(INDEX), error.message())),
            None if driver.kind(INDEX).map_err(failed)?.is_none() => Ok(None),
            None => {
                let message = format!("not a regular file of at most {} bytes", layout::MAX_INDEX_SIZE);
                Err(Error::new(ErrorKind::Corrupt, driver.location(INDEX), message))
            }
        }
    }

    /// The names of the entry for the image at `place`.
    pub(super) fn name(&self, place: &Place, root: Option<Digest>) -> EntryName {
        let sibling = |tag: &Tag| {
            let other = self.names.iter().find(|(other, _)| other.repository == place.repository);
            other.filter(|_| ReferrerTag::parse(tag).is_some()).map(|(_, name)| name.sibling(tag))
        };
        if let (None, Some(name)) = (self.names.get(place), place.tag.as_ref().and_then(sibling)) {
            return name;
        }
        match (self.names.get(place), &place.tag, root) {
            (Some(name), _, _) => name.clone(),
            (None, None, Some(root)) => EntryName::from(format!("{}@{root}", place.repository)),
            (None, _, _) => EntryName::from(place.to_string()),
        }
    }

    fn holds(&self, manifest: &RawManifest) -> Result<bool> {
        let path = layout::blob(&manifest.digest);
        let found = self.driver.read(&path, manifest.bytes.len() as u64);
        Ok(found.map_err(|error| storage(&*self.driver, &path, "read", error))?.as_deref()
            == Some(&*manifest.bytes))
    }

    fn stage(&self, content: &[u8]) -> Result<String> {
        let driver = &*self.driver;
        let area = match self.publisher.area.get() {
            Some(area) => area,
            None => {
                let created = driver.stage_area(STAGE);
                let created =
                    created.map_err(|error| storage(driver, STAGE, "create the directory", error))?;
                self.publisher.area.get_or_init(|| created)
            }
        };
        let path = format!("{area}/{}", self.publisher.staged.fetch_add(1, Ordering::Relaxed));
        driver.stage(&path, content).map_err(|error| storage(driver, &path, "write", error))?;
        Ok(path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.driver.publish(from, to).map_err(|error| storage(&*self.driver, to, "publish", error))
    }

    fn barrier(&self) -> Result<()> {
        self.driver.barrier().map_err(|error| storage(&*self.driver, "", "sync", error))
    }
}

#[cfg(test)]
mod tests {
    use crate::content::Sink;
    use crate::content::conformance::{put, sample};
    use crate::driver::MemoryDriver;
    use crate::layout::Layout;
    use crate::oci::{Descriptor, Digest};
    use std::collections::HashMap;
    use std::sync::Arc;

    const TASKS: usize = 16;
    const BLOBS: usize = 200;

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn committed_blobs_are_renamed_once_by_concurrent_tasks() {
        let layout = Layout::with_driver(Arc::new(MemoryDriver::new()), HashMap::new());
        let content = |number: usize| format!("blob {number}").into_bytes();
        let tasks = (0..TASKS).map(|task| {
            let layout = layout.clone();
            tokio::spawn(async move {
                for number in (task..BLOBS).step_by(TASKS) {
                    put(&layout, &content(number)).await;
                }
                let name = format!("image{task}");
                let image = sample(&name, 100);
                for blob in &image.blobs {
                    put(&layout, blob).await;
                }
                layout.publish(image.publication(&[(&name, Some("1.0"))])).await.unwrap();
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        for number in 0..BLOBS {
            let content = content(number);
            let wanted = Descriptor::new("", Digest::of(&content), content.len() as u64);
            assert!(layout.has_blob(&"any".parse().unwrap(), &wanted).await.unwrap(), "blob {number}");
        }
        assert_eq!(layout.images().unwrap().len(), TASKS);
    }
}
