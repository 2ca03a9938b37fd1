//! What proves that files and directories are as they were: their stamps (which file, when changed, how long).
//!
//! A stamp that is younger than the clock of some file system ticks proves nothing, nor does any on a medium that can't tell
//! ([`Stamp::Unknown`]): such things are read each time.

use super::{Store, storage};
use crate::driver::Stamp;
use crate::error::Result;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

/// How old a change must be to be told from a later one by its time: some file systems count in steps of 2 s.
pub(super) const SETTLED: Duration = Duration::from_secs(3);

/// Stamps of several things, one after the other.
#[derive(Clone, Default)]
pub(super) struct Stamps {
    hasher: DefaultHasher,
    latest: (i64, i64),
    unknown: bool,
}

impl Stamps {
    /// Takes the stamp of what stands at `path`.
    pub(super) fn add(&mut self, store: &Store, path: &str) -> Result<()> {
        let driver = &*store.inner.driver;
        let stamp = driver.stamp(path).map_err(|error| storage(driver, path, "look at", error))?;
        match stamp {
            Stamp::Unknown => self.unknown = true,
            Stamp::Absent => {}
            Stamp::Seen { changed, .. } => self.latest = self.latest.max(changed),
        }
        stamp.hash(&mut self.hasher);
        Ok(())
    }

    /// What is kept of them; `now` is a moment before the first was taken.
    pub(super) fn seen(&self, now: SystemTime, settled: Duration) -> Seen {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let settled = since.checked_sub(settled).is_some_and(|before| {
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            self.latest < (seconds, before.subsec_nanos().into())
        });
        Seen { sum: self.hasher.finish(), settled: settled && !self.unknown }
    }
}

/// What stamps were at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    sum: u64,
    /// Whether the same stamps prove that nothing changed.
    settled: bool,
}

impl Seen {
    /// Whether later stamps may prove anything.
    pub(super) fn can_prove(self) -> bool {
        self.settled
    }

    /// Whether nothing changed until `stamps` of the same things were taken.
    pub(super) fn is_proven_by(self, stamps: &Stamps) -> bool {
        self.settled && !stamps.unknown && self.sum == stamps.hasher.finish()
    }
}
