//! Hashes blobs in background threads, by reading them back from the page cache.
//!
//! Tasks that receive bytes only write them. A few threads read each blob's contiguous front back in large pieces and hash
//! several blobs at once in interleaved lanes, because a single SHA-256 stream is bound by latency. What is hashed is what the
//! file system holds, so that a resumed blob takes the same path as a new one.

use crate::content::BlobWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::oci::sha256::{self, Sha256State};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};

/// The number of bytes that are read back and hashed at a time.
const PIECE: usize = 256 << 10;
/// The number of unhashed bytes that wakes a thread; with fewer, waking would cost more than hashing.
const WAKE: u64 = 1 << 20;
/// The maximum distance between a blob's front and its hash, so that what is read back is still in the page cache.
const MAX_LEAD: u64 = 64 << 20;
/// How far hashing must catch up before a waiting receiver continues, so that it is not woken for each piece.
const REST: u64 = 8 << 20;

/// The hashing threads of one engine. They exit when it is dropped.
pub(crate) struct Hasher<W> {
    queue: Arc<Queue<W>>,
}

struct Queue<W> {
    ready: Mutex<Ready<W>>,
    work: Condvar,
}

struct Ready<W> {
    jobs: VecDeque<Arc<Job<W>>>,
    closed: bool,
}

/// One blob.
struct Job<W> {
    size: u64,
    /// The number of bytes present, contiguous from the start.
    front: AtomicU64,
    /// The number of bytes hashed.
    hashed: AtomicU64,
    /// The number of hashed bytes that the receiver waits for.
    awaited: AtomicU64,
    /// Whether it is in the queue or being hashed.
    queued: AtomicBool,
    /// Nothing more is to be hashed: the receiver is gone, or reading failed.
    over: AtomicBool,
    moved: Notify,
    work: Mutex<Work<W>>,
}

struct Work<W> {
    state: Sha256State,
    /// The blob, and who waits for its digest; `None` once the result is sent, so that nothing here holds the writer then.
    open: Option<(Arc<W>, oneshot::Sender<Result<Digest>>)>,
}

impl<W> Work<W> {
    fn close(&mut self, result: Result<Digest>) {
        if let Some((writer, done)) = self.open.take() {
            drop(writer);
            // The receiver may be gone.
            let _ = done.send(result);
        }
    }
}

/// The receiver's handle of a blob that is being hashed. Dropping it abandons the work.
pub(crate) struct HashJob<W: BlobWriter> {
    job: Arc<Job<W>>,
    queue: Arc<Queue<W>>,
    done: oneshot::Receiver<Result<Digest>>,
}

impl<W: BlobWriter> Hasher<W> {
    /// Starts `threads` hashing threads.
    ///
    /// # Errors
    /// `Storage` if the system refuses a thread.
    pub(crate) fn start(threads: usize) -> Result<Self> {
        let ready = Mutex::new(Ready { jobs: VecDeque::new(), closed: false });
        let queue = Arc::new(Queue { ready, work: Condvar::new() });
        // Dropped on failure, which ends the threads that were started.
        let hasher = Self { queue };
        for number in 0..threads.max(1) {
            let queue = hasher.queue.clone();
            std::thread::Builder::new()
                .name(format!("hash-{number}"))
                .spawn(move || queue.run())
                .map_err(|error| Error::storage("hashing thread", "start it", error))?;
        }
        Ok(hasher)
    }

    /// Starts to hash a blob of `size` bytes that `writer` receives.
    pub(crate) fn job(&self, writer: Arc<W>, size: u64) -> HashJob<W> {
        let (sender, done) = oneshot::channel();
        let job = Arc::new(Job {
            size,
            front: AtomicU64::new(0),
            hashed: AtomicU64::new(0),
            awaited: AtomicU64::new(u64::MAX),
            queued: AtomicBool::new(false),
            over: AtomicBool::new(false),
            moved: Notify::new(),
            work: Mutex::new(Work { state: Sha256State::new(), open: Some((writer, sender)) }),
        });
        HashJob { job, queue: self.queue.clone(), done }
    }
}

impl<W> Drop for Hasher<W> {
    fn drop(&mut self) {
        self.queue.ready.lock().closed = true;
        self.queue.work.notify_all();
    }
}

impl<W: BlobWriter> HashJob<W> {
    /// Reports that all bytes up to `front` are written, and waits while hashing is too far behind. Returns at once if hashing
    /// has failed: [`finish`](Self::finish) returns the error.
    pub(crate) async fn advance(&self, front: u64) {
        self.reached(front);
        if front.saturating_sub(self.job.hashed.load(Ordering::Acquire)) <= MAX_LEAD {
            return;
        }
        let enough = front - (MAX_LEAD - REST);
        self.job.awaited.store(enough, Ordering::SeqCst);
        loop {
            let moved = self.job.moved.notified();
            // After the store above, as the hasher reads `awaited` after it has advanced: one of the two sees the other.
            if self.job.hashed.load(Ordering::SeqCst) >= enough || self.job.over.load(Ordering::Acquire) {
                return;
            }
            moved.await;
        }
    }

    /// Reports that all bytes up to `front` are written, without waiting.
    pub(crate) fn reached(&self, front: u64) {
        self.job.front.fetch_max(front, Ordering::Release);
        self.queue.offer(&self.job);
    }

    /// Whether hashing is the bottleneck.
    pub(crate) fn is_far_behind(&self) -> bool {
        self.job.lead() > MAX_LEAD / 2
    }

    /// Waits for the digest of the whole blob. All of it must have been written.
    ///
    /// # Errors
    /// `Storage` if the blob cannot be read back.
    pub(crate) async fn finish(mut self) -> Result<Digest> {
        self.job.front.store(self.job.size, Ordering::Release);
        self.queue.offer(&self.job);
        match (&mut self.done).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Cancelled, "hashing", "the run is ending")),
        }
    }
}

impl<W: BlobWriter> Drop for HashJob<W> {
    fn drop(&mut self) {
        self.job.over.store(true, Ordering::Release);
    }
}

impl<W> Job<W> {
    fn lead(&self) -> u64 {
        // In this order: neither decreases, and the hash never passes the front.
        let hashed = self.hashed.load(Ordering::Acquire);
        self.front.load(Ordering::Acquire) - hashed
    }

    /// Whether there is enough to hash: a whole piece, or the rest.
    fn is_ready(&self) -> bool {
        self.lead() >= WAKE || self.front.load(Ordering::Acquire) == self.size
    }
}

impl<W: BlobWriter> Queue<W> {
    fn offer(&self, job: &Arc<Job<W>>) {
        if job.is_ready() && !job.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().jobs.push_back(job.clone());
            self.work.notify_one();
        }
    }

    fn run(&self) {
        let lanes = sha256::lanes();
        let mut buffers = vec![vec![0; PIECE]; lanes];
        while let Some(jobs) = self.take(lanes) {
            // A panic, most likely in the writer, fails these blobs; the thread must survive for the others.
            if catch_unwind(AssertUnwindSafe(|| self.hash(&jobs, &mut buffers))).is_err() {
                jobs.iter().for_each(|job| job.fail());
            }
        }
    }

    /// Waits for work and takes up to `lanes` blobs; `None` when the engine is gone.
    fn take(&self, lanes: usize) -> Option<Vec<Arc<Job<W>>>> {
        let mut ready = self.ready.lock();
        loop {
            if ready.closed {
                return None;
            }
            if !ready.jobs.is_empty() {
                let count = lanes.min(ready.jobs.len());
                return Some(ready.jobs.drain(..count).collect());
            }
            self.work.wait(&mut ready);
        }
    }

    /// Hashes one piece of each job, in lanes, and queues those again that have more.
    fn hash(&self, jobs: &[Arc<Job<W>>], buffers: &mut [Vec<u8>]) {
        let mut guards: Vec<_> = jobs.iter().map(|job| job.work.lock()).collect();
        let mut lengths = vec![0; jobs.len()];
        for ((job, buffer), (length, work)) in
            jobs.iter().zip(buffers.iter_mut()).zip(lengths.iter_mut().zip(&mut guards))
        {
            *length = job.read(buffer, work);
        }
        let mut streams: Vec<(&mut Sha256State, &[u8])> = guards
            .iter_mut()
            .zip(buffers.iter().zip(&lengths))
            .map(|(work, (buffer, length))| (&mut work.state, &buffer[..*length]))
            .collect();
        sha256::update_lanes(&mut streams);
        drop(streams);
        for ((job, work), length) in jobs.iter().zip(guards).zip(lengths) {
            let hashed = job.hashed.fetch_add(length as u64, Ordering::SeqCst) + length as u64;
            if hashed >= job.awaited.load(Ordering::SeqCst) || job.over.load(Ordering::Acquire) {
                job.moved.notify_waiters();
            }
            self.settle(job, work, hashed);
        }
    }

    /// Sends the digest of a blob that is complete; queues another piece of one that is not.
    fn settle(&self, job: &Arc<Job<W>>, mut work: MutexGuard<'_, Work<W>>, hashed: u64) {
        if job.over.load(Ordering::Acquire) {
            work.open = None;
        } else if hashed == job.size {
            let digest = Digest::from_bytes(std::mem::take(&mut work.state).finish());
            work.close(Ok(digest));
        }
        let open = work.open.is_some();
        drop(work);
        // A swap, not a store: it observes a front that was moved meanwhile.
        job.queued.swap(false, Ordering::AcqRel);
        if open {
            self.offer(job);
        }
    }
}

impl<W: BlobWriter> Job<W> {
    /// Reads the next piece; returns the number of bytes to hash. A failure ends the job.
    fn read(&self, buffer: &mut [u8], work: &mut Work<W>) -> usize {
        let Some((writer, _)) = &work.open else { return 0 };
        let want = usize::try_from(self.lead()).unwrap_or(PIECE).min(PIECE);
        let offset = self.hashed.load(Ordering::Acquire);
        let failure = match writer.read_at(offset, &mut buffer[..want]) {
            Ok(length) if length == want => return want,
            Ok(_) => Error::new(
                ErrorKind::Storage,
                "partial blob",
                "the file became shorter while it was read back",
            ),
            Err(error) => error,
        };
        // Before the waiter in `advance` is woken: the hash will not advance again.
        self.over.store(true, Ordering::Release);
        work.close(Err(failure));
        0
    }

    /// Fails the job after a panic.
    fn fail(&self) {
        self.over.store(true, Ordering::Release);
        self.work.lock().close(Err(Error::internal("hashing")));
        self.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that holds its bytes in memory.
    struct Held(Mutex<Vec<u8>>);

    impl BlobWriter for Held {
        fn received(&self) -> u64 {
            0
        }
        fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            let mut held = self.0.lock();
            assert_eq!(held.len() as u64, offset);
            held.extend_from_slice(bytes);
            Ok(())
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
            let held = self.0.lock();
            let rest = &held[usize::try_from(offset).unwrap()..];
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        }
        fn commit(self, _: &Digest) -> Result<()> {
            Ok(())
        }
        fn discard(self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn concurrent_blobs_are_hashed_correctly() {
        let hasher = Arc::new(Hasher::start(2).unwrap());
        let blobs = (0..9_usize).map(|number| {
            let hasher = hasher.clone();
            tokio::spawn(async move {
                let content: Vec<u8> =
                    (0..number * 700_001).map(|at| ((at * (number + 3)) >> 3) as u8).collect();
                let writer = Arc::new(Held(Mutex::new(Vec::new())));
                let hashing = hasher.job(writer.clone(), content.len() as u64);
                let mut front = 0;
                for chunk in content.chunks(100_003) {
                    writer.write_at(front, chunk).unwrap();
                    front += chunk.len() as u64;
                    hashing.advance(front).await;
                }
                assert_eq!(hashing.finish().await.unwrap(), Digest::of(&content));
                assert!(Arc::try_unwrap(writer).is_ok(), "the hasher still holds the writer");
            })
        });
        for blob in blobs.collect::<Vec<_>>() {
            blob.await.unwrap();
        }
    }

    #[tokio::test]
    async fn unreadable_blob_fails() {
        let hasher = Hasher::start(1).unwrap();
        let hashing = hasher.job(Arc::new(Held(Mutex::new(vec![1; 10]))), 20);
        assert_eq!(hashing.finish().await.unwrap_err().kind(), ErrorKind::Storage);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn receiver_far_ahead_waits_for_the_hash() {
        let hasher = Hasher::start(1).unwrap();
        let size = MAX_LEAD + 3 * REST;
        let content = vec![5; usize::try_from(size).unwrap()];
        let hashing = hasher.job(Arc::new(Held(Mutex::new(content.clone()))), size);
        for front in [MAX_LEAD + 1, MAX_LEAD + REST, MAX_LEAD + 2 * REST + 1, size] {
            hashing.advance(front).await;
            assert!(hashing.job.lead() <= MAX_LEAD, "{} at {front}", hashing.job.lead());
        }
        assert_eq!(hashing.finish().await.unwrap(), Digest::of(&content));
    }

    /// A writer that panics.
    struct Panics;

    impl BlobWriter for Panics {
        fn received(&self) -> u64 {
            0
        }
        fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<usize> {
            panic!("panics")
        }
        fn commit(self, _: &Digest) -> Result<()> {
            Ok(())
        }
        fn discard(self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn panic_while_hashing_fails_only_its_blob() {
        let hasher = Hasher::start(1).unwrap();
        for _ in 0..2 {
            let hashing = hasher.job(Arc::new(Panics), MAX_LEAD * 3);
            let done = async {
                hashing.advance(MAX_LEAD * 2).await;
                hashing.finish().await
            };
            let result = tokio::time::timeout(std::time::Duration::from_secs(20), done).await;
            assert!(result.expect("it never returns").is_err());
        }
    }

    #[tokio::test]
    async fn receiver_far_ahead_is_woken_when_hashing_fails() {
        let hasher = Hasher::start(1).unwrap();
        let size = MAX_LEAD * 3;
        let hashing = hasher.job(Arc::new(Held(Mutex::new(vec![1; 10]))), size);
        let far = hashing.advance(MAX_LEAD * 2);
        tokio::time::timeout(std::time::Duration::from_secs(20), far).await.expect("it never returns");
        assert_eq!(hashing.finish().await.unwrap_err().kind(), ErrorKind::Storage);
    }
}
