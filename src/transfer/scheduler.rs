//! Schedules images. Every source has a lane of its own, so that a slow registry, or one that asks for a pause, does not delay
//! images of others.

use super::download::concurrency::StreamLimit;
use super::{Image, Resolution};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::{JoinError, JoinSet};

/// The maximum number of images of one source that are planned and downloaded at a time.
const IN_HAND: usize = 48;
/// The maximum number of images of one source in progress, those that wait for stable storage included; bounds memory.
const IN_ALL: usize = 512;

/// What the images of one source share.
pub(crate) struct Lane {
    in_hand: Arc<Semaphore>,
    /// Bounds blob requests.
    pub(crate) requests: Semaphore,
    /// Bounds blobs that are open for writing, and so open files.
    pub(crate) writers: Semaphore,
    /// Limits the streams that large blobs are split into.
    pub(crate) spread: StreamLimit,
    jobs: usize,
    fetched: AtomicU64,
}

/// One image's place in its lane.
pub(crate) struct ImageSlot {
    pub(crate) lane: Arc<Lane>,
    /// Released when the image's content is complete, so that the next image can start.
    pub(crate) in_hand: OwnedSemaphorePermit,
}

impl Lane {
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            in_hand: Arc::new(Semaphore::new(IN_HAND)),
            requests: Semaphore::new(jobs),
            writers: Semaphore::new(jobs * 2),
            spread: StreamLimit::default(),
            jobs,
            fetched: AtomicU64::new(0),
        }
    }

    /// Counts `bytes` received over the network.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An idle slot for another range of a large blob, if more streams are worth it. A few slots are left for blobs that come
    /// along.
    pub(crate) fn idle_slot(&self, now: Instant) -> Option<SemaphorePermit<'_>> {
        let streams = self.jobs - self.requests.available_permits();
        let most = self.jobs - self.jobs / 8;
        let fetched = self.fetched.load(Ordering::Relaxed);
        let allowed = self.spread.allows_one_more(streams, most, fetched, now);
        if allowed { self.requests.try_acquire().ok() } else { None }
    }

    /// Records that the source failed a range.
    pub(crate) fn back_off(&self, now: Instant) {
        self.spread.back_off(self.jobs - self.requests.available_permits(), now);
    }
}

/// Runs `work` for each image, with a bounded number of images per source and up to `jobs` blob requests each. Results are
/// in the order of the images.
pub(crate) async fn each<S, R, F>(
    jobs: usize,
    images: Vec<Image<S>>,
    work: impl Fn(Image<S>, ImageSlot) -> F + Clone + Send + 'static,
) -> Vec<R>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    // In the order of the list, so that its first images start first.
    let mut lanes: Vec<Vec<(usize, Image<S>)>> = Vec::new();
    // Keyed by address: raw pointers would make the future `!Send`.
    let mut of_source: HashMap<usize, usize> = HashMap::new();
    for (number, image) in images.into_iter().enumerate() {
        let lane = *of_source.entry(Arc::as_ptr(&image.source).addr()).or_insert(lanes.len());
        if lane == lanes.len() {
            lanes.push(Vec::new());
        }
        lanes[lane].push((number, image));
    }
    for lane in &mut lanes {
        // An image that waits for another registry must not delay the rest of its lane.
        lane.sort_by_key(|(_, image)| matches!(image.resolved, Some(Resolution::Pending(_))));
    }
    // A task each: the runtime's tasks wake each other cheaply, and the thread that blocks on the run does not.
    let mut tasks = JoinSet::new();
    for images in lanes {
        tasks.spawn(in_lane(Arc::new(Lane::new(jobs)), images, work.clone()));
    }
    let mut rows = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        rows.extend(finished(joined).into_iter().flatten());
    }
    rows.sort_by_key(|(number, _)| *number);
    rows.into_iter().map(|(_, row)| row).collect()
}

async fn in_lane<S, R, F>(
    lane: Arc<Lane>,
    images: Vec<(usize, Image<S>)>,
    work: impl Fn(Image<S>, ImageSlot) -> F,
) -> Vec<(usize, R)>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let mut rows = Vec::with_capacity(images.len());
    let mut tasks = JoinSet::new();
    for (number, image) in images {
        let Ok(in_hand) = lane.in_hand.clone().acquire_owned().await else { break };
        // Boxed: the future is large and is moved several times before it runs.
        let done = Box::pin(work(image, ImageSlot { lane: lane.clone(), in_hand }));
        tasks.spawn(async move { (number, done.await) });
        while tasks.len() >= IN_ALL
            && let Some(joined) = tasks.join_next().await
        {
            rows.extend(finished(joined));
        }
        while let Some(joined) = tasks.try_join_next() {
            rows.extend(finished(joined));
        }
    }
    while let Some(joined) = tasks.join_next().await {
        rows.extend(finished(joined));
    }
    rows
}

/// The output of a task; `None` if it was aborted.
fn finished<T>(joined: Result<T, JoinError>) -> Option<T> {
    match joined {
        Ok(brought) => Some(brought),
        // Propagates panics, most likely an observer's: an omitted row would hide an image.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
