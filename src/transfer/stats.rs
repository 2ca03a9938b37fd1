//! What one image costs, and the lane that bounds it.

use super::scheduler::Lane;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts one image's bytes and tries, from many tasks.
pub(crate) struct Tally {
    /// What it shares with the other images of its source.
    pub(crate) lane: Arc<Lane>,
    fetched: AtomicU64,
    attempts: AtomicU32,
    warnings: Mutex<Vec<String>>,
}

impl Tally {
    /// Nothing yet, in `lane`.
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, fetched: AtomicU64::new(0), attempts: AtomicU32::new(0), warnings: Mutex::default() }
    }

    /// Adds to what the report says about the image.
    pub(crate) fn warn(&self, message: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    /// What was added to the report.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `bytes` came over the network.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.lane.fetched(bytes);
    }

    /// Something took `attempts` tries.
    pub(crate) fn tried(&self, attempts: u32) {
        self.attempts.fetch_max(attempts, Ordering::Relaxed);
    }

    /// Bytes that came over the network.
    pub(crate) fn bytes_fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Tries of whatever took most.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed).max(1)
    }
}
