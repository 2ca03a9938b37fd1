//! Making images visible: content first, `index.json` last, a barrier before each. Images that wait meanwhile go together.

use super::partial::{Claims, path};
use super::read::Known;
use super::{Inner, STAGE, storage};
use crate::content::{Place, Publication};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::layout::{self, INDEX, LayoutIndex, MARKER, MARKER_CONTENT};
use crate::oci::{Digest, RawManifest};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::oneshot;

/// What waits to be published, and what is known of what was.
#[derive(Default)]
pub(super) struct Publisher {
    queue: Mutex<Vec<Waiting>>,
    /// Held by whoever publishes.
    turn: Mutex<Turn>,
    area: OnceLock<String>,
    staged: AtomicU64,
    known: OnceLock<Mutex<Known>>,
}

#[derive(Default)]
struct Turn {
    /// A barrier failed: what the kernel has dropped nobody knows, so nothing more can be promised.
    broken: Option<Error>,
}

struct Waiting {
    image: Publication,
    done: oneshot::Sender<Result<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Where small files are staged, once any was.
    pub(super) fn area(&self) -> Option<String> {
        self.area.get().cloned()
    }

    fn wait(&self, image: Publication) -> oneshot::Receiver<Result<()>> {
        let (done, outcome) = oneshot::channel();
        lock(&self.queue).push(Waiting { image, done });
        outcome
    }
}

impl Inner {
    /// Publishes `image`, together with others that wait.
    pub(super) async fn publish(self: &Arc<Self>, image: Publication) -> Result<()> {
        let outcome = self.publisher.wait(image);
        let inner = self.clone();
        let lost = || Error::new(ErrorKind::Storage, "", "publishing ended early").on(Side::Sink);
        tokio::task::spawn_blocking(move || inner.publish_waiting()).await.map_err(|_| lost())?;
        outcome.await.unwrap_or_else(|_| Err(lost()))
    }

    /// What the layout is known to reach.
    ///
    /// # Errors
    /// `Storage`; `Corrupt` for an `index.json` that is none.
    pub(super) fn known(&self) -> Result<MutexGuard<'_, Known>> {
        if let Some(known) = self.publisher.known.get() {
            return Ok(lock(known));
        }
        let found = Mutex::new(self.survey()?);
        Ok(lock(self.publisher.known.get_or_init(|| found)))
    }

    fn publish_waiting(&self) {
        let mut turn = lock(&self.publisher.turn);
        let waiting = std::mem::take(&mut *lock(&self.publisher.queue));
        if waiting.is_empty() {
            return;
        }
        let images: Vec<&Publication> = waiting.iter().map(|waiting| &waiting.image).collect();
        let outcome = match &turn.broken {
            Some(error) => Err(error.clone()),
            None => self.publish_all(&images),
        };
        if let Err(error) = &outcome {
            turn.broken.get_or_insert_with(|| error.clone());
        }
        drop(turn);
        for waiting in waiting {
            // Nobody hears it when the caller has given up; the image is there all the same.
            let _ = waiting.done.send(outcome.clone());
        }
    }

    fn publish_all(&self, images: &[&Publication]) -> Result<()> {
        let mut staged = Vec::new();
        for manifest in images.iter().flat_map(|image| &image.manifests) {
            if !self.holds(manifest)? {
                staged.push((self.stage(&manifest.bytes)?, layout::blob(&manifest.digest)));
            }
        }
        self.settle_blobs()?;
        for (from, to) in staged {
            self.rename(&from, &to)?;
        }
        self.barrier()?;
        self.list(images)?;
        let mut known = self.known()?;
        for image in images {
            known.add(image, |place| self.name(place, image.root()));
        }
        Ok(())
    }

    /// Gives the blobs that wait their names, if that is `due` still when it is this caller's turn.
    ///
    /// # Errors
    /// `Storage`, and from then on always: what the kernel has dropped nobody knows.
    pub(super) fn settle_waiting(&self, due: fn(&Claims) -> bool) -> Result<()> {
        let mut turn = lock(&self.publisher.turn);
        if let Some(error) = &turn.broken {
            return Err(error.clone());
        }
        if !due(&self.claims) {
            return Ok(());
        }
        self.settle_blobs().inspect_err(|error| turn.broken = Some(error.clone()))
    }

    /// Gives every verified blob its final name. Only for who has the turn: a file is renamed once.
    fn settle_blobs(&self) -> Result<()> {
        // Marked first: blobs without the marker are somebody else's directory to whoever opens it now.
        drop(self.lock_marker()?);
        let committed = self.claims.committed();
        self.barrier()?;
        for (digest, size) in committed {
            let renamed = self.rename(&path(&digest, size), &layout::blob(&digest));
            self.claims.settle(&digest);
            renamed?;
        }
        Ok(())
    }

    /// Puts the images into `index.json`, which is another writer's too.
    fn list(&self, images: &[&Publication]) -> Result<()> {
        let _locked = self.lock_marker()?;
        let mut index = self.index()?.unwrap_or_default();
        let mut changed = false;
        for image in images {
            let Some(root) = image.manifests.last() else { continue };
            for place in &image.places {
                changed |= index.set(&self.name(place, Some(root.digest)), &root.descriptor());
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

    /// Locks the layout against other writers of `index.json`, and marks the directory as a layout.
    fn lock_marker(&self) -> Result<Option<File>> {
        let driver = &*self.driver;
        let failed = |doing: &str, error| storage(driver, MARKER, doing, error);
        let Some(file) = driver.lock_file(MARKER).map_err(|error| failed("open", error))? else {
            return Ok(None);
        };
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", error.into()))?;
        let length = file.metadata().map_err(|error| failed("look at", error))?.len();
        if length == 0 {
            file.write_all_at(MARKER_CONTENT, 0).map_err(|error| failed("write", error))?;
            file.sync_all().map_err(|error| failed("sync", error))?;
        }
        Ok(Some(file))
    }

    /// The layout's `index.json`, if there is one.
    pub(super) fn index(&self) -> Result<Option<LayoutIndex>> {
        let driver = &*self.driver;
        let failed = |error| storage(driver, INDEX, "read", error);
        match driver.read(INDEX, layout::MAX_INDEX_SIZE).map_err(failed)? {
            Some(content) => LayoutIndex::parse(&content)
                .map(Some)
                .map_err(|error| Error::new(error.kind(), driver.location(INDEX), error.message())),
            None if driver.kind(INDEX).map_err(failed)?.is_none() => Ok(None),
            None => {
                let why = format!("it is no regular file of at most {} bytes", layout::MAX_INDEX_SIZE);
                Err(Error::new(ErrorKind::Corrupt, driver.location(INDEX), why))
            }
        }
    }

    /// What the image of `place` is listed as.
    pub(super) fn name(&self, place: &Place, root: Option<Digest>) -> String {
        match (self.names.get(place), &place.tag, root) {
            (Some(name), _, _) => name.clone(),
            (None, None, Some(root)) => format!("{}@{root}", place.repository),
            (None, _, _) => place.to_string(),
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
                let made = driver.stage_area(STAGE);
                let made = made.map_err(|error| storage(driver, STAGE, "make the directory", error))?;
                self.publisher.area.get_or_init(|| made)
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

    /// The blobs that wait get their names from whoever comes first, and from nobody else.
    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn blobs_get_their_names_once_however_many_ask_for_it() {
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
        assert_eq!(layout.offers().unwrap().len(), TASKS);
    }
}
