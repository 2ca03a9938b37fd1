//! Tracks which bytes of a file have been written when writes arrive out of order, and recovers that after a restart.
//!
//! There is no sidecar file: ranges that were never written are holes. The digest decides in the end whether this was right.

use super::Partial;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes this close to a hole are not trusted, because a file system may pad its blocks with zeros. Holes punched on
/// close are aligned to this size too, so that they are always detected. Few file systems have larger blocks.
const BORDER: u64 = 128 << 10;
/// Smallest range beyond a hole that is worth resuming from, in bytes.
const MIN_RANGE: u64 = 512 << 10;

/// The written bytes of a file: a contiguous front and disjoint ranges beyond it.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Every byte before this offset has been written.
    pub(crate) front: u64,
    /// Start and end of each written range beyond the front. Ranges neither overlap nor touch.
    beyond: BTreeMap<u64, u64>,
}

impl Extents {
    /// Recovers the extents of a file written by an earlier run. Without holes, that is its whole length. The borders of holes
    /// are not known to the byte, so bytes close to them are left out.
    pub(crate) fn recover(file: &dyn Partial) -> Self {
        let length = file.length();
        let mut extents = Self::default();
        match file.extents() {
            Ok(found) if found.first() != Some(&(0..length)) => {
                for Range { start, end } in found {
                    let start =
                        if start == 0 { 0 } else { start.saturating_add(BORDER).next_multiple_of(BORDER) };
                    let end = if end == length { end } else { end.saturating_sub(BORDER) / BORDER * BORDER };
                    if start == 0 || end.saturating_sub(start) >= MIN_RANGE {
                        extents.insert(start, end);
                    }
                }
            }
            // If holes cannot be detected, the digest check decides.
            _ => extents.front = length,
        }
        // Untrusted bytes become holes again, so that the next run does not take them for data.
        for gap in extents.gaps() {
            let _ = file.punch(gap);
        }
        extents
    }

    /// Prepares the incomplete `file` so that [`recover`](Self::recover) finds what has been written. Returns whether there is
    /// anything to resume from.
    pub(crate) fn save(&self, file: &dyn Partial) -> bool {
        if !self.has_gaps() {
            return self.front > 0;
        }
        let punch =
            |gap: Range<u64>| file.punch(gap.start / BORDER * BORDER..gap.end.next_multiple_of(BORDER));
        let has_large_range = self.beyond().any(|Range { start, end }| end - start >= 2 * BORDER + MIN_RANGE);
        if has_large_range && self.gaps().into_iter().try_for_each(punch).is_ok() {
            return true;
        }
        // If this fails, the file contains bytes that were never written; the digest check will catch that.
        let _ = file.truncate(self.front);
        self.front > 0
    }

    /// The written ranges beyond the front.
    pub(crate) fn beyond(&self) -> impl Iterator<Item = Range<u64>> {
        self.beyond.iter().map(|(start, end)| *start..*end)
    }

    /// The holes between the front and the last written range.
    fn gaps(&self) -> Vec<Range<u64>> {
        let mut from = self.front;
        self.beyond().map(|range| std::mem::replace(&mut from, range.end)..range.start).collect()
    }

    /// Records that the bytes from `start` to `end` have been written.
    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        if start <= self.front {
            self.front = self.front.max(end);
        } else if start < end {
            let mut start = start;
            let mut end = end;
            // Merge every range that the new one touches.
            while let Some((&other, &other_end)) =
                self.beyond.range(..=end).next_back().filter(|(_, other_end)| **other_end >= start)
            {
                start = start.min(other);
                end = end.max(other_end);
                self.beyond.remove(&other);
            }
            self.beyond.insert(start, end);
        }
        while let Some(range) = self.beyond.first_entry().filter(|range| *range.key() <= self.front) {
            self.front = self.front.max(range.remove());
        }
    }

    fn has_gaps(&self) -> bool {
        !self.beyond.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn extents_match_a_byte_map(writes in proptest::collection::vec((0u64..60, 0u64..20), 0..30), first in 0u64..10) {
            let mut extents = Extents { front: first, ..Extents::default() };
            let mut model = [false; 100];
            model[..first as usize].fill(true);
            for (start, length) in writes {
                extents.insert(start, start + length);
                model[start as usize..(start + length) as usize].fill(true);
                let front = model.iter().position(|byte| !byte).unwrap_or(100);
                prop_assert_eq!(extents.front, front as u64);
                prop_assert_eq!(extents.has_gaps(), model[front..].contains(&true));
                let lacking = |gap: &Range<u64>| model[gap.start as usize..gap.end as usize].iter().all(|byte| !byte);
                prop_assert!(extents.gaps().iter().all(lacking));
                let beyond: u64 = extents.beyond().map(|range| range.end - range.start).sum();
                prop_assert_eq!(beyond, model[front..].iter().filter(|byte| **byte).count() as u64);
            }
        }
    }
}
