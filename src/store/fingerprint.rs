//! Fingerprints that show whether files and directories changed: device, inode, time of change and size.
//!
//! The state of an entry that changed very recently proves nothing, since a later change may have the same time. Neither does any on a
//! medium without reliable times ([`Stamp::Unknown`]). Such entries are read each time.

use super::{Store, storage};
use crate::driver::Stamp;
use crate::error::Result;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

/// Minimum age of a change for which a later change has another time. Some file systems have a resolution of 2 s.
pub(super) const SETTLED: Duration = Duration::from_secs(3);

/// FingerprintBuilder of several things, one after the other.
#[derive(Clone, Default)]
pub(super) struct FingerprintBuilder {
    hasher: DefaultHasher,
    latest: (i64, i64),
    unknown: bool,
}

impl FingerprintBuilder {
    /// Adds the state of the entry at `path`.
    pub(super) fn add(&mut self, store: &Store, path: &str) -> Result<()> {
        let driver = &*store.inner.driver;
        let stamp = driver.stamp(path).map_err(|error| storage(driver, path, "access", error))?;
        match stamp {
            Stamp::Unknown => self.unknown = true,
            Stamp::Absent => {}
            Stamp::Present { changed, .. } => self.latest = self.latest.max(changed),
        }
        stamp.hash(&mut self.hasher);
        Ok(())
    }

    /// The fingerprint. `now` is a time before the first state was taken.
    pub(super) fn fingerprint(&self, now: SystemTime, settled: Duration) -> Fingerprint {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let settled = since.checked_sub(settled).is_some_and(|before| {
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            self.latest < (seconds, before.subsec_nanos().into())
        });
        Fingerprint { sum: self.hasher.finish(), settled: settled && !self.unknown }
    }
}

/// The states of several entries at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint {
    sum: u64,
    /// Whether equal states prove that nothing changed.
    settled: bool,
}

impl Fingerprint {
    /// Whether a comparison can prove that nothing changed.
    pub(super) fn is_conclusive(self) -> bool {
        self.settled
    }

    /// Whether nothing changed until the states of the same entries were added to `other`.
    pub(super) fn matches(self, other: &FingerprintBuilder) -> bool {
        self.settled && !other.unknown && self.sum == other.hasher.finish()
    }
}
