//! Group commit: one sync for many images.
//!
//! A thread of the store runs cycles. Each cycle takes the queued work, waits for *one* barrier, and then advances every
//! image in progress by one step:
//!
//! 1. content (blobs, manifests) is moved to its final path, and the directories of new repositories are created;
//! 2. one barrier later, links to that content: `_layers` first, then revisions, children before parents;
//! 3. one barrier later, the tags of referrers (signatures, lists of them), if it has any;
//! 4. one barrier later, tags. A new tag appears with all of its files at once;
//! 5. one barrier later, the publication is reported as done.
//!
//! Where an image comes from is recorded before the barrier that precedes its first step ([`provenance`](super::provenance)).
//!
//! So no step depends on the order in which the file system writes out changes: between two barriers it may keep any
//! subset of them. The steps of successive images overlap, and work queues up while a barrier runs, so a long run pays for
//! about one sync per [`INTERVAL`].

use super::claims::{BlobClaims, CommittedBlob};
use super::provenance::log::SourceLog;
use super::{Durability, path, storage};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use parking_lot::{Condvar, Mutex};
use std::collections::hash_map;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Minimum time between two cycles while blobs are being written: a sync would slow these writes down.
const INTERVAL: Duration = Duration::from_millis(250);
/// Number of queued blobs that starts a cycle at once. Each of them keeps a file open.
const MAX_QUEUED_BLOBS: usize = 128;

/// One change that makes a part of an image visible.
pub(super) enum Change {
    /// Move a staged file to its final path.
    File { staged: String, path: String },
    /// Create a directory.
    Directory { path: String },
    /// Move a staged directory to the path of a new tag. `files` lists its files, relative to it: if another process has
    /// created the tag in the meantime, they are moved one by one in this order.
    Tag { staged: String, path: String, files: [String; 2] },
}

impl Change {
    fn apply(&self, driver: &dyn Driver) -> io::Result<()> {
        match self {
            Self::File { staged, path } => driver.publish(staged, path),
            Self::Directory { path } => driver.create_dir(path),
            Self::Tag { staged, path, files } => {
                match driver.publish_dir(staged, path) {
                    Err(error) if is_taken(&error) => {}
                    done => return done,
                }
                for file in files {
                    driver.publish(&format!("{staged}/{file}"), &format!("{path}/{file}"))?;
                }
                driver.remove_all(staged)
            }
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Directory { path } | Self::Tag { path, .. } => path,
        }
    }

    /// Removes the staged files of a change that was not applied. A failure is ignored: a later run removes them.
    pub(super) fn discard(&self, driver: &dyn Driver) {
        let _ = match self {
            Self::File { staged, .. } => driver.remove(staged),
            Self::Directory { .. } => Ok(()),
            Self::Tag { staged, .. } => driver.remove_all(staged),
        };
    }
}

/// Whether the error of a directory's move means that there is a directory with that name.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// An image whose files are staged.
pub(super) struct StagedImage {
    /// The steps left to do. Each takes one cycle and relies on those before it.
    pub(super) steps: VecDeque<Vec<Change>>,
    /// Paths of the `current` links that it changes.
    pub(super) tags: Vec<String>,
    /// The blobs that it needs. If one of them could not be published, the image cannot be either.
    pub(super) blobs: Vec<Digest>,
    /// The lines that record where it comes from.
    pub(super) sources: String,
    pub(super) done: oneshot::Sender<Result<()>>,
}

/// The queue of images to publish, and the thread that works on it once there is something to do.
pub(super) struct GroupCommit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    driver: Arc<dyn Driver>,
    durability: Durability,
    /// The rule by which the directory names images.
    names: Option<String>,
    queue: Mutex<CommitQueue>,
    wake: Condvar,
}

#[derive(Default)]
struct CommitQueue {
    blobs: Vec<CommittedBlob>,
    images: Vec<StagedImage>,
    /// Number of blobs that are being written.
    writers: usize,
    /// Number of images in progress that change a `current` link, by its path.
    changing: HashMap<String, usize>,
    closing: bool,
    /// The number of the file that sources were last recorded in.
    source_file: Option<u64>,
    /// The error of a failed barrier. The kernel may have dropped any data since, so nothing more can be published.
    broken: Option<Error>,
}

impl GroupCommit {
    pub(super) fn new(driver: Arc<dyn Driver>, durability: Durability, names: Option<String>) -> Self {
        let shared = Shared { driver, durability, names, queue: Mutex::default(), wake: Condvar::new() };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// What is guaranteed about published images.
    pub(super) fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// The number of the file that sources were last recorded in.
    pub(super) fn source_file(&self) -> Option<u64> {
        self.shared.queue.lock().source_file
    }

    /// Counts a blob writer as open until the returned guard is dropped or commits.
    pub(super) fn open_writer(&self) -> Result<WriterGuard> {
        self.start()?;
        self.shared.queue.lock().writers += 1;
        Ok(WriterGuard { shared: self.shared.clone() })
    }

    /// Whether an image in progress will change the `current` link at `path`.
    pub(super) fn is_changing(&self, path: &str) -> bool {
        self.shared.queue.lock().changing.contains_key(path)
    }

    /// Queues an image. If that fails, the image is returned with the error, for its staged files to be removed.
    pub(super) fn publish(&self, image: StagedImage) -> Result<(), (Error, Box<StagedImage>)> {
        if let Err(error) = self.start() {
            return Err((error, Box::new(image)));
        }
        let mut queue = self.shared.queue.lock();
        if let Some(error) = &queue.broken {
            return Err((error.clone(), Box::new(image)));
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
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new().name("store-publisher".into()).spawn(move || {
                CommitThread::new(shared).run();
            });
            *thread =
                Some(spawned.map_err(|error| {
                    storage(&*self.shared.driver, "", "start the publisher thread", error)
                })?);
        }
        Ok(())
    }
}

impl Drop for GroupCommit {
    /// Finishes the queue, then ends the thread.
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.get_mut().take()
            && thread.join().is_err()
        {
            tracing::error!("the publisher thread panicked");
        }
    }
}

/// Counts one open blob writer.
pub(super) struct WriterGuard {
    shared: Arc<Shared>,
}

impl WriterGuard {
    /// Queues the blob that was written.
    pub(super) fn commit(self, blob: CommittedBlob) -> Result<()> {
        let mut queue = self.shared.queue.lock();
        if let Some(error) = &queue.broken {
            return Err(error.clone());
        }
        queue.blobs.push(blob);
        // Dropping `self` wakes the thread.
        Ok(())
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        self.shared.queue.lock().writers -= 1;
        self.shared.wake.notify_one();
    }
}

/// The state of the publisher thread.
struct CommitThread {
    shared: Arc<Shared>,
    /// Images in progress, oldest first.
    images: VecDeque<StagedImage>,
    /// Blobs that were committed but could not be published.
    failed: HashMap<Digest, Error>,
    sources: SourceLog,
}

impl CommitThread {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, images: VecDeque::new(), failed: HashMap::new(), sources: SourceLog::default() }
    }

    fn run(mut self) {
        // Garbage collection of registries fails on a tree with content and without this directory. If it can't be created, so can't
        // the links, which have an error to report.
        let _ = self.shared.driver.create_dir(path::REPOSITORIES);
        let mut last: Option<Instant> = None;
        while let Some((blobs, images)) = self.next(last) {
            last = Some(Instant::now());
            self.record_sources(images);
            if let Err(error) = self.barrier() {
                self.fail_all(&error, blobs);
                continue;
            }
            self.sources.settle(&*self.shared.driver);
            for blob in blobs {
                self.publish_blob(blob);
            }
            self.advance();
        }
    }

    /// Waits until a cycle is due and takes the queued work. Returns `None` once the store is closed and everything is done.
    fn next(&self, last: Option<Instant>) -> Option<(Vec<CommittedBlob>, Vec<StagedImage>)> {
        let mut queue = self.shared.queue.lock();
        loop {
            let has_work = !queue.blobs.is_empty() || !queue.images.is_empty() || !self.images.is_empty();
            if !has_work {
                if queue.closing {
                    return None;
                }
                self.shared.wake.wait(&mut queue);
                continue;
            }
            let is_urgent = queue.writers == 0 || queue.closing || queue.blobs.len() >= MAX_QUEUED_BLOBS;
            let remaining = last.and_then(|last| INTERVAL.checked_sub(last.elapsed()));
            match remaining.filter(|_| !is_urgent) {
                Some(remaining) => {
                    self.shared.wake.wait_for(&mut queue, remaining);
                }
                None => {
                    let blobs = std::mem::take(&mut queue.blobs);
                    return Some((blobs, std::mem::take(&mut queue.images)));
                }
            }
        }
    }

    fn barrier(&self) -> Result<()> {
        if self.shared.durability == Durability::None {
            return Ok(());
        }
        let driver = &*self.shared.driver;
        driver.barrier().map_err(|error| storage(driver, "", "sync to stable storage", error))
    }

    /// Records where `images` come from, before the barrier that their first step waits for. Images that it can't be recorded for fail,
    /// the others are in progress then.
    fn record_sources(&mut self, images: Vec<StagedImage>) {
        let lines: String = images.iter().map(|image| image.sources.as_str()).collect();
        let shared = self.shared.clone();
        let recorded = match lines.as_str() {
            "" => Ok(()),
            lines => self.sources.append(&*shared.driver, lines, shared.names.as_deref()).map(|number| {
                shared.queue.lock().source_file = Some(number);
            }),
        };
        for image in images {
            match &recorded {
                Err(error) if !image.sources.is_empty() => self.finish(image, Err(error.clone())),
                _ => self.images.push_back(image),
            }
        }
    }

    fn publish_blob(&mut self, blob: CommittedBlob) {
        let CommittedBlob { digest, size, file, claim } = blob;
        let driver = &*self.shared.driver;
        let partial = path::partial(&digest, size);
        let data = path::data(&digest);
        let published = match driver.publish(&partial, &data) {
            // The partial file was removed, or another process was faster: what matters is the final path.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match driver.size(&data) {
                Ok(Some(length)) if length == size => Ok(()),
                _ => Err(error),
            },
            result => result,
        };
        match published {
            Ok(()) => {
                self.failed.remove(&digest);
            }
            Err(error) => {
                self.failed.insert(digest, storage(driver, &data, "publish the blob", error));
            }
        }
        // In this order: another process may lock the file only once this one has settled the blob.
        drop(file);
        drop(claim);
    }

    /// Advances every image by one step.
    fn advance(&mut self) {
        for mut image in std::mem::take(&mut self.images) {
            let failed_blob = image.blobs.iter().find_map(|digest| self.failed.get(digest));
            let outcome = match (failed_blob, image.steps.pop_front()) {
                (Some(error), step) => {
                    image.steps.extend(step);
                    Err(error.clone())
                }
                (None, None) => Ok(()),
                (None, Some(step)) => match self.apply(step, &mut image) {
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

    fn apply(&self, step: Vec<Change>, image: &mut StagedImage) -> Result<()> {
        let driver = &*self.shared.driver;
        let mut changes = step.into_iter();
        while let Some(change) = changes.next() {
            if let Err(error) = change.apply(driver) {
                let error = storage(driver, change.path(), "publish", error);
                image.steps.push_front([change].into_iter().chain(changes).collect());
                return Err(error);
            }
        }
        Ok(())
    }

    fn finish(&self, image: StagedImage, outcome: Result<()>) {
        for change in image.steps.iter().flatten() {
            change.discard(&*self.shared.driver);
        }
        let mut queue = self.shared.queue.lock();
        for tag in &image.tags {
            if let hash_map::Entry::Occupied(mut count) = queue.changing.entry(tag.clone()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        drop(queue);
        // The receiver is gone if the caller gave up; the image is published all the same.
        let _ = image.done.send(outcome);
    }

    /// Fails everything in progress after a failed barrier, since none of it is known to be on stable storage.
    fn fail_all(&mut self, error: &Error, blobs: Vec<CommittedBlob>) {
        tracing::error!(%error, "syncing to stable storage failed");
        let mut queue = self.shared.queue.lock();
        queue.broken = Some(error.clone());
        let queued_blobs = std::mem::take(&mut queue.blobs);
        let queued_images = std::mem::take(&mut queue.images);
        drop(queue);
        drop((blobs, queued_blobs));
        self.images.extend(queued_images);
        for image in std::mem::take(&mut self.images) {
            self.finish(image, Err(error.clone()));
        }
    }
}

impl Drop for CommitThread {
    /// However the thread ends, even by a panic, nobody waits for it afterwards: queued and later publications fail.
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.broken.get_or_insert_with(publisher_lost);
        let blobs = std::mem::take(&mut queue.blobs);
        let images = std::mem::take(&mut queue.images);
        drop(queue);
        drop((blobs, images));
    }
}

/// The error of a publication whose thread ended without an answer.
pub(super) fn publisher_lost() -> Error {
    Error::new(ErrorKind::Storage, "", "the publisher thread ended unexpectedly").on(Side::Sink)
}

/// Whether any of these blobs is committed but not at its final path yet.
pub(super) fn any_in_progress(claims: &BlobClaims, blobs: &[Digest]) -> bool {
    blobs.iter().any(|digest| claims.committed(digest).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{FsDriver, MemoryDriver};

    fn empty() -> (StagedImage, oneshot::Receiver<Result<()>>) {
        let (done, outcome) = oneshot::channel();
        (
            StagedImage {
                steps: VecDeque::new(),
                tags: Vec::new(),
                blobs: Vec::new(),
                sources: String::new(),
                done,
            },
            outcome,
        )
    }

    #[test]
    fn publication_fails_when_the_thread_is_gone() {
        let commit = GroupCommit::new(Arc::new(MemoryDriver::new()), Durability::None, None);
        let (queued, outcome) = empty();
        commit.shared.queue.lock().images.push(queued);
        let shared = commit.shared.clone();
        drop(CommitThread::new(shared));
        assert!(outcome.blocking_recv().is_err());
        let (error, _) = commit.publish(empty().0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
    }

    #[test]
    fn tag_created_by_another_process_is_updated_file_by_file() {
        let driver = MemoryDriver::new();
        let digest = Digest::of(b"new");
        let files = path::tag_files(&digest);
        for (file, content) in [(&files[0], "history"), (&files[1], "new")] {
            driver.stage(&format!("staged/{file}"), content.as_bytes()).unwrap();
            driver.stage(&format!("other/{file}"), b"old").unwrap();
        }
        driver.publish_dir("other", "tags/v1").unwrap();
        let change = Change::Tag { staged: "staged".into(), path: "tags/v1".into(), files: files.clone() };
        change.apply(&driver).unwrap();
        let current = driver.read(&format!("tags/v1/{}", files[1]), 99).unwrap();
        assert_eq!(current.as_deref(), Some(&b"new"[..]));
        assert!(driver.list("staged").unwrap().is_empty());
    }

    #[test]
    fn content_appears_only_beside_the_directory_of_repositories() {
        let dir = tempfile::tempdir().unwrap();
        let driver = Arc::new(FsDriver::create(dir.path()).unwrap());
        let commit = GroupCommit::new(driver, Durability::None, None);
        drop(commit.open_writer().unwrap());
        drop(commit);
        assert!(dir.path().join(path::REPOSITORIES).is_dir());
    }
}
