//! What one image cost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts one image's bytes and tries, from many tasks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    fetched: AtomicU64,
    attempts: AtomicU32,
}

impl Tally {
    /// `bytes` came over the network.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
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
