//! Statistics of one image, and its lane.

use super::scheduler::Lane;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts one image's bytes and attempts, from many tasks.
pub(crate) struct ImageStats {
    /// The lane of its source.
    pub(crate) lane: Arc<Lane>,
    fetched: AtomicU64,
    attempts: AtomicU32,
    corrupt_chunks: AtomicU64,
    warnings: Mutex<Vec<String>>,
}

impl ImageStats {
    /// Zero, in `lane`.
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            fetched: AtomicU64::new(0),
            attempts: AtomicU32::new(0),
            corrupt_chunks: AtomicU64::new(0),
            warnings: Mutex::default(),
        }
    }

    /// Adds a warning to the report.
    pub(crate) fn warn(&self, message: String) {
        self.warnings.lock().push(message);
    }

    /// The warnings for the report.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// Counts `bytes` received over the network.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.lane.fetched(bytes);
    }

    /// Records that a request took `attempts` attempts.
    pub(crate) fn tried(&self, attempts: u32) {
        self.attempts.fetch_max(attempts, Ordering::Relaxed);
    }

    /// Counts chunks of layers that arrived corrupt.
    pub(crate) fn count_corrupt(&self, chunks: u64) {
        self.corrupt_chunks.fetch_add(chunks, Ordering::Relaxed);
    }

    /// The chunks of layers that arrived corrupt.
    pub(crate) fn corrupt_chunks(&self) -> u64 {
        self.corrupt_chunks.load(Ordering::Relaxed)
    }

    /// The bytes received over the network.
    pub(crate) fn bytes_fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// The highest attempt count of any request.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed).max(1)
    }
}

/// Adds sizes that come from manifests and may overflow.
pub(super) fn sum(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}
