//! Whose turn it is. Every source has a lane of its own, so that a registry that is slow, or asks for a
//! pause, holds up nobody's images but its own.

use super::download::concurrency::Spread;
use super::{Image, Resolution};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::{JoinError, JoinSet};

/// Images of one source that are resolved, planned and fetched at once.
const IN_HAND: usize = 48;
/// Images of one source that may wait for stable storage beside them; bounds memory.
const IN_ALL: usize = 512;

/// What the images of one source share.
pub(crate) struct Lane {
    in_hand: Arc<Semaphore>,
    /// Blob requests in flight.
    pub(crate) requests: Semaphore,
    /// Blobs opened for writing: bounds open files.
    pub(crate) writers: Semaphore,
    /// Over how many of the requests big blobs are spread.
    pub(crate) spread: Spread,
    jobs: usize,
    fetched: AtomicU64,
}

/// An image's turn.
pub(crate) struct Turn {
    pub(crate) lane: Arc<Lane>,
    /// Given back when all that the image needs is there, so that the next one may begin.
    pub(crate) in_hand: OwnedSemaphorePermit,
}

impl Lane {
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            in_hand: Arc::new(Semaphore::new(IN_HAND)),
            requests: Semaphore::new(jobs),
            writers: Semaphore::new(jobs * 2),
            spread: Spread::default(),
            jobs,
            fetched: AtomicU64::new(0),
        }
    }

    /// `bytes` came over the network.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A slot for one more part of a big blob, where that is worth it: one that lies idle and that nobody waits for. A few
    /// are always left, so that a blob that comes along need not wait.
    pub(crate) fn idle_slot(&self, now: Instant) -> Option<SemaphorePermit<'_>> {
        let streams = self.jobs - self.requests.available_permits();
        let most = self.jobs - self.jobs / 8;
        let fetched = self.fetched.load(Ordering::Relaxed);
        let allowed = self.spread.allows_one_more(streams, most, fetched, now);
        if allowed { self.requests.try_acquire().ok() } else { None }
    }

    /// The source failed a part of a big blob.
    pub(crate) fn back_off(&self, now: Instant) {
        self.spread.back_off(self.jobs - self.requests.available_permits(), now);
    }
}

/// Runs `work` for each image, a bounded number at once of each source, up to `jobs` blob requests each; the
/// results are in the order of the images.
pub(crate) async fn each<S, R, F>(
    jobs: usize,
    images: Vec<Image<S>>,
    work: impl Fn(Image<S>, Turn) -> F + Clone + Send + 'static,
) -> Vec<R>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    // In the order of the list, so that what is first in it begins first.
    let mut lanes: Vec<Vec<(usize, Image<S>)>> = Vec::new();
    // By the sources' addresses, as numbers: pointers would bind the run to one thread.
    let mut of_source: HashMap<usize, usize> = HashMap::new();
    for (number, image) in images.into_iter().enumerate() {
        let lane = *of_source.entry(Arc::as_ptr(&image.source).addr()).or_insert(lanes.len());
        if lane == lanes.len() {
            lanes.push(Vec::new());
        }
        lanes[lane].push((number, image));
    }
    for lane in &mut lanes {
        // What waits for another registry must not hold up the rest of its lane.
        lane.sort_by_key(|(_, image)| matches!(image.resolved, Some(Resolution::Pending(_))));
    }
    // Among the runtime's own tasks, which wake each other cheaply: the thread that waits for the run is woken at each lane's end.
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
    work: impl Fn(Image<S>, Turn) -> F,
) -> Vec<(usize, R)>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let mut rows = Vec::with_capacity(images.len());
    let mut tasks = JoinSet::new();
    for (number, image) in images {
        let Ok(in_hand) = lane.in_hand.clone().acquire_owned().await else { break };
        // It is large, and a task is moved some times before it runs.
        let done = Box::pin(work(image, Turn { lane: lane.clone(), in_hand }));
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

/// What a task brought; none when it was ended from outside.
fn finished<T>(joined: Result<T, JoinError>) -> Option<T> {
    match joined {
        Ok(brought) => Some(brought),
        // An observer's, most likely: a row left out would hide an image.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
