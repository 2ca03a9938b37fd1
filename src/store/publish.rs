//! Group commit: one sync for many images.
//!
//! A thread of the store's own runs cycles. A cycle takes what has been queued, waits for *one* barrier, and then
//! takes everything that is under way one step further:
//!
//! 1. content (blobs, manifests) gets its final names: its bytes were on stable storage before;
//! 2. a barrier later, links to it do: `_layers` first, then revisions, children before parents;
//! 3. a barrier later, tags do;
//! 4. a barrier later, whoever published hears of it.
//!
//! So what a step relies on never rests on the order in which the file system writes its own steps: between two
//! barriers it may keep any part of what was done. The steps of successive images overlap, and while a barrier runs
//! new work queues up, so that a long run pays for about one sync in [`INTERVAL`].

use super::partial::{Claims, Committed};
use super::{Durability, path, storage};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// While blobs are coming in, cycles start this far apart at least: a sync in their midst costs them.
const INTERVAL: Duration = Duration::from_millis(250);
/// With so many blobs queued a cycle starts at once: each keeps a file open.
const ENOUGH_BLOBS: usize = 128;

/// A staged file and the name it is to get.
pub(super) struct Move {
    pub(super) staged: String,
    pub(super) path: String,
}

/// An image whose files are staged.
pub(super) struct Staged {
    /// What is left to be done: each entry takes a cycle, and relies on those before it.
    pub(super) steps: VecDeque<Vec<Move>>,
    /// The tags' links that it changes.
    pub(super) tags: Vec<String>,
    /// The blobs it needs: if one of them could not be published, neither can the image.
    pub(super) blobs: Vec<Digest>,
    pub(super) done: oneshot::Sender<Result<()>>,
}

/// The publisher's queue, and its thread once there is something to do.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    driver: Arc<dyn Driver>,
    durability: Durability,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    blobs: Vec<Committed>,
    images: Vec<Staged>,
    /// Blobs being written now.
    writers: usize,
    /// The tags' links that images queued or under way change, and how many of them do.
    changing: HashMap<String, usize>,
    closing: bool,
    /// A barrier failed: what the kernel has dropped nobody knows, so nothing more can be promised.
    broken: Option<Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    pub(super) fn new(driver: Arc<dyn Driver>, durability: Durability) -> Self {
        let shared = Shared { driver, durability, queue: Mutex::default(), wake: Condvar::new() };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// What is waited for.
    pub(super) fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// Counts a blob writer as open until what this answers is dropped or commits.
    pub(super) fn open_writer(&self) -> Result<OpenWriter> {
        self.start()?;
        self.shared.lock().writers += 1;
        Ok(OpenWriter { shared: self.shared.clone() })
    }

    /// Whether an image that is queued or under way will change the tag's link at `path`.
    pub(super) fn is_changing(&self, path: &str) -> bool {
        self.shared.lock().changing.contains_key(path)
    }

    /// Queues an image.
    pub(super) fn publish(&self, image: Staged) -> Result<()> {
        self.start()?;
        let mut queue = self.shared.lock();
        if let Some(error) = &queue.broken {
            return Err(error.clone());
        }
        for tag in &image.tags {
            *queue.changing.entry(tag.clone()).or_default() += 1;
        }
        queue.images.push(image);
        drop(queue);
        self.shared.wake.notify_one();
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new().name("store-publisher".into()).spawn(move || {
                Cycles { shared, images: VecDeque::new(), failed: HashMap::new() }.run();
            });
            *thread = Some(spawned.map_err(|error| {
                storage(&*self.shared.driver, "", "start the thread that publishes images", error)
            })?);
        }
        Ok(())
    }
}

impl Drop for Publisher {
    /// Finishes what is queued, then ends the thread.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that publishes images ended early");
        }
    }
}

/// One blob writer that is open.
pub(super) struct OpenWriter {
    shared: Arc<Shared>,
}

impl OpenWriter {
    /// Queues the blob that was written.
    pub(super) fn commit(self, blob: Committed) -> Result<()> {
        let mut queue = self.shared.lock();
        if let Some(error) = &queue.broken {
            return Err(error.clone());
        }
        queue.blobs.push(blob);
        // Dropping `self` wakes the thread.
        Ok(())
    }
}

impl Drop for OpenWriter {
    fn drop(&mut self) {
        self.shared.lock().writers -= 1;
        self.shared.wake.notify_one();
    }
}

/// The publisher thread's own state.
struct Cycles {
    shared: Arc<Shared>,
    /// Images under way, oldest first.
    images: VecDeque<Staged>,
    /// Blobs that were committed and could not be published.
    failed: HashMap<Digest, Error>,
}

impl Cycles {
    fn run(mut self) {
        let mut last: Option<Instant> = None;
        while let Some((blobs, images)) = self.next(last) {
            last = Some(Instant::now());
            self.images.extend(images);
            if let Err(error) = self.barrier() {
                self.fail_all(&error, blobs);
                continue;
            }
            for blob in blobs {
                self.publish_blob(blob);
            }
            self.advance();
        }
    }

    /// Waits until a cycle is due and takes what is queued; none when the store is closed and all is done.
    fn next(&self, last: Option<Instant>) -> Option<(Vec<Committed>, Vec<Staged>)> {
        let mut queue = self.shared.lock();
        loop {
            let work = !queue.blobs.is_empty() || !queue.images.is_empty() || !self.images.is_empty();
            if !work && queue.closing {
                return None;
            }
            let early = last.and_then(|last| INTERVAL.checked_sub(last.elapsed()));
            let at_once = queue.writers == 0 || queue.closing || queue.blobs.len() >= ENOUGH_BLOBS;
            queue = match early.filter(|_| work && !at_once) {
                Some(rest) => {
                    let waited = self.shared.wake.wait_timeout(queue, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None if work => {
                    let blobs = std::mem::take(&mut queue.blobs);
                    return Some((blobs, std::mem::take(&mut queue.images)));
                }
                None => self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn barrier(&self) -> Result<()> {
        if self.shared.durability == Durability::None {
            return Ok(());
        }
        let driver = &*self.shared.driver;
        driver
            .barrier()
            .map_err(|error| storage(driver, "", "bring what was written to stable storage", error))
    }

    fn publish_blob(&mut self, blob: Committed) {
        let Committed { digest, size, file, claim } = blob;
        let driver = &*self.shared.driver;
        let (partial, data) = (path::partial(&digest, size), path::data(&digest));
        let published = match driver.publish(&partial, &data) {
            // Somebody tidied up, or another process was faster: what counts is what stands there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match driver.size(&data) {
                Ok(Some(length)) if length == size => Ok(()),
                _ => Err(error),
            },
            answer => answer,
        };
        match published {
            Ok(()) => {
                self.failed.remove(&digest);
            }
            Err(error) => {
                self.failed.insert(digest, storage(driver, &data, "publish the blob", error));
            }
        }
        // In this order: others may have the file only when this process has no more to say of it.
        drop(file);
        drop(claim);
    }

    /// Takes every image one step further.
    fn advance(&mut self) {
        for mut image in std::mem::take(&mut self.images) {
            let missing = image.blobs.iter().find_map(|digest| self.failed.get(digest));
            let outcome = match (missing, image.steps.pop_front()) {
                (Some(error), step) => {
                    image.steps.extend(step);
                    Err(error.clone())
                }
                (None, None) => Ok(()),
                (None, Some(step)) => match self.take(step, &mut image) {
                    Ok(()) => {
                        self.images.push_back(image);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            self.finish(image, outcome);
        }
    }

    fn take(&self, step: Vec<Move>, image: &mut Staged) -> Result<()> {
        let driver = &*self.shared.driver;
        let mut moves = step.into_iter();
        while let Some(Move { staged, path }) = moves.next() {
            if let Err(error) = driver.publish(&staged, &path) {
                image
                    .steps
                    .push_front([Move { staged, path: path.clone() }].into_iter().chain(moves).collect());
                return Err(storage(driver, &path, "publish", error));
            }
        }
        Ok(())
    }

    fn finish(&self, image: Staged, outcome: Result<()>) {
        for unused in image.steps.iter().flatten() {
            // What can't be removed now is removed by a later run.
            let _ = self.shared.driver.remove(&unused.staged);
        }
        let mut queue = self.shared.lock();
        for tag in &image.tags {
            if let Entry::Occupied(mut count) = queue.changing.entry(tag.clone()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        drop(queue);
        // Nobody hears it when the caller has given up; the image is there all the same.
        let _ = image.done.send(outcome);
    }

    /// After a failed barrier nothing that was under way can be vouched for, now or later.
    fn fail_all(&mut self, error: &Error, blobs: Vec<Committed>) {
        tracing::error!(%error, "a barrier failed");
        let mut queue = self.shared.lock();
        queue.broken = Some(error.clone());
        let waiting = std::mem::take(&mut queue.blobs);
        let images = std::mem::take(&mut queue.images);
        drop(queue);
        drop((blobs, waiting));
        self.images.extend(images);
        for image in std::mem::take(&mut self.images) {
            self.finish(image, Err(error.clone()));
        }
    }
}

impl Drop for Cycles {
    /// However the thread ends, by a defect too, nobody waits for it after that: who is queued hears of it, and who comes later.
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.broken.get_or_insert_with(lost);
        let left = (std::mem::take(&mut queue.blobs), std::mem::take(&mut queue.images));
        drop(queue);
        drop(left);
    }
}

/// What is said when the publisher's thread is gone without an answer.
pub(super) fn lost() -> Error {
    Error::new(ErrorKind::Storage, "", "the thread that publishes images ended early").on(Side::Sink)
}

/// Whether a blob that `image` needs is still on its way to its final name.
pub(super) fn any_committed(claims: &Claims, blobs: &[Digest]) -> bool {
    blobs.iter().any(|digest| claims.committed(digest).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::MemoryDriver;

    fn empty() -> (Staged, oneshot::Receiver<Result<()>>) {
        let (done, outcome) = oneshot::channel();
        (Staged { steps: VecDeque::new(), tags: Vec::new(), blobs: Vec::new(), done }, outcome)
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_gone() {
        let publisher = Publisher::new(Arc::new(MemoryDriver::new()), Durability::None);
        let (queued, outcome) = empty();
        publisher.shared.lock().images.push(queued);
        let shared = publisher.shared.clone();
        drop(Cycles { shared, images: VecDeque::new(), failed: HashMap::new() });
        assert!(outcome.blocking_recv().is_err());
        assert_eq!(publisher.publish(empty().0).unwrap_err().kind(), ErrorKind::Storage);
    }
}
