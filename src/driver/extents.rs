//! What has been written of a file whose bytes come in any order.

use std::collections::BTreeMap;

/// Which bytes of a file have been written: an unbroken front, and islands behind it.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Up to where everything has been written.
    pub(crate) front: u64,
    /// Start and end of what lies beyond the front; disjoint, not touching.
    islands: BTreeMap<u64, u64>,
}

impl Extents {
    pub(crate) fn from_front(front: u64) -> Self {
        Self { front, islands: BTreeMap::new() }
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

    pub(crate) fn has_gaps(&self) -> bool {
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
            let mut extents = Extents::from_front(first);
            let mut model = [false; 100];
            model[..first as usize].fill(true);
            for (start, length) in writes {
                extents.insert(start, start + length);
                model[start as usize..(start + length) as usize].fill(true);
                let front = model.iter().position(|byte| !byte).unwrap_or(100);
                prop_assert_eq!(extents.front, front as u64);
                prop_assert_eq!(extents.has_gaps(), model[front..].contains(&true));
            }
        }
    }
}
