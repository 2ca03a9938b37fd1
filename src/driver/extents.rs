//! What has been written of a file whose bytes come in any order, and how the next one to open it learns of it.
//!
//! Nothing is noted down beside the file: what never came is a hole in it. The digest decides whether that was right.

use super::Partial;
use std::collections::BTreeMap;
use std::ops::Range;

/// How far from a hole bytes are not trusted to have come, a file system may fill its blocks up with zeros; and what holes are
/// made of when a file is left, so that each is seen. Few file systems have larger blocks.
const BORDER: u64 = 128 << 10;
/// What lies beyond a hole is gone on with if it has at least so many bytes.
const WORTHWHILE: u64 = 512 << 10;

/// Which bytes of a file have been written: an unbroken front, and islands behind it.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Up to where everything has been written.
    pub(crate) front: u64,
    /// Start and end of what lies beyond the front; disjoint, not touching.
    islands: BTreeMap<u64, u64>,
}

impl Extents {
    /// What a file has of a blob that came earlier. Without a hole that is its whole length; where there are holes their borders
    /// are not known to the byte, and what lies close to them is left out.
    pub(crate) fn found(file: &dyn Partial) -> Self {
        let length = file.length();
        let mut extents = Self::default();
        match file.extents() {
            Ok(found) if found.first() != Some(&(0..length)) => {
                for Range { start, end } in found {
                    let start =
                        if start == 0 { 0 } else { start.saturating_add(BORDER).next_multiple_of(BORDER) };
                    let end = if end == length { end } else { end.saturating_sub(BORDER) / BORDER * BORDER };
                    if start == 0 || end.saturating_sub(start) >= WORTHWHILE {
                        extents.insert(start, end);
                    }
                }
            }
            // Where nothing can be told of holes, the digest will tell.
            _ => extents.front = length,
        }
        // What is left out is made a hole again, lest the next to look takes it for data.
        for gap in extents.gaps() {
            let _ = file.punch(gap);
        }
        extents
    }

    /// Leaves `file`, which is not complete, so that [`found`](Self::found) finds what has been written; whether there is
    /// anything to go on with.
    pub(crate) fn leave(&self, file: &dyn Partial) -> bool {
        if !self.has_gaps() {
            return self.front > 0;
        }
        let punch =
            |gap: Range<u64>| file.punch(gap.start / BORDER * BORDER..gap.end.next_multiple_of(BORDER));
        let is_worthwhile = self.islands().any(|Range { start, end }| end - start >= 2 * BORDER + WORTHWHILE);
        if is_worthwhile && self.gaps().into_iter().try_for_each(punch).is_ok() {
            return true;
        }
        // If this fails, what is found has bytes in it that never came.
        let _ = file.truncate(self.front);
        self.front > 0
    }

    /// What has been written beyond the front.
    pub(crate) fn islands(&self) -> impl Iterator<Item = Range<u64>> {
        self.islands.iter().map(|(start, end)| *start..*end)
    }

    /// What lies between and is lacking.
    fn gaps(&self) -> Vec<Range<u64>> {
        let mut from = self.front;
        self.islands().map(|island| std::mem::replace(&mut from, island.end)..island.start).collect()
    }

    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        if start <= self.front {
            self.front = self.front.max(end);
        } else if start < end {
            let (mut start, mut end) = (start, end);
            // Every island that the new one touches becomes part of it.
            while let Some((&other, &other_end)) =
                self.islands.range(..=end).next_back().filter(|(_, other_end)| **other_end >= start)
            {
                start = start.min(other);
                end = end.max(other_end);
                self.islands.remove(&other);
            }
            self.islands.insert(start, end);
        }
        while let Some(island) = self.islands.first_entry().filter(|island| *island.key() <= self.front) {
            self.front = self.front.max(island.remove());
        }
    }

    fn has_gaps(&self) -> bool {
        !self.islands.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn extents_know_the_front(writes in proptest::collection::vec((0u64..60, 0u64..20), 0..30), first in 0u64..10) {
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
                let islands: u64 = extents.islands().map(|island| island.end - island.start).sum();
                prop_assert_eq!(islands, model[front..].iter().filter(|byte| **byte).count() as u64);
            }
        }
    }
}
