//! Tracks which bytes of a blob are missing and which streams download them.
//!
//! Every missing byte belongs to exactly one range. A range is downloaded by one stream at a time or idle; its end moves towards
//! its start when another stream takes over the rest.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Ranges end at page boundaries, so that no two streams write to one page.
pub(super) const BORDER: u64 = 4 << 10;

/// Identifies a range while it exists.
pub(super) type RangeId = u64;

/// The missing bytes of one blob.
#[derive(Debug)]
pub(super) struct MissingRanges {
    size: u64,
    /// In order, disjoint, none empty.
    parts: Vec<Part>,
    next_id: RangeId,
}

#[derive(Debug)]
struct Part {
    id: RangeId,
    /// The next missing byte.
    at: u64,
    end: u64,
    /// The stream that downloads it.
    stream: Option<Stream>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    since: Instant,
    bytes: u64,
}

impl Stream {
    /// The throughput so far, in bytes per second.
    fn rate(self, now: Instant) -> f64 {
        self.bytes as f64 / now.saturating_duration_since(self.since).as_secs_f64().max(0.001)
    }
}

impl Part {
    fn length(&self) -> u64 {
        self.end - self.at
    }

    /// The time that its stream needs for the rest; unknown for a stream that has received nothing.
    fn time_left(&self, now: Instant) -> Option<Duration> {
        let stream = self.stream.filter(|stream| stream.bytes > 0)?;
        Duration::try_from_secs_f64(self.length() as f64 / stream.rate(now)).ok()
    }
}

impl MissingRanges {
    /// The missing ranges of a blob of `size` bytes that has the ranges `there`.
    pub(super) fn lacking(size: u64, present: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut parts = Self { size, parts: Vec::new(), next_id: 0 };
        let mut at = 0;
        for extent in present {
            parts.add(at, extent.start.min(size));
            at = at.max(extent.end);
        }
        parts.add(at, size);
        parts
    }

    fn add(&mut self, at: u64, end: u64) {
        if at < end {
            let id = self.new_id();
            self.parts.push(Part { id, at, end, stream: None });
        }
    }

    fn new_id(&mut self) -> RangeId {
        self.next_id += 1;
        self.next_id
    }

    fn index(&self, id: RangeId) -> Option<usize> {
        self.parts.iter().position(|part| part.id == id)
    }

    /// The first missing byte.
    pub(super) fn front(&self) -> u64 {
        self.parts.first().map_or(self.size, |part| part.at)
    }

    /// The number of missing bytes.
    pub(super) fn missing(&self) -> u64 {
        self.parts.iter().map(Part::length).sum()
    }

    /// The number of streams.
    pub(super) fn streams(&self) -> u64 {
        self.parts.iter().filter(|part| part.stream.is_some()).count() as u64
    }

    /// The throughput of all streams together, in bytes per second.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        self.parts.iter().filter_map(|part| part.stream).map(|stream| stream.rate(now)).sum()
    }

    /// The start of the first idle range.
    pub(super) fn first_idle(&self) -> Option<u64> {
        self.parts.iter().find(|part| part.stream.is_none()).map(|part| part.at)
    }

    /// Assigns the first idle range to a stream: all of it, or about `length` bytes if it is longer by half.
    pub(super) fn take(&mut self, length: u64, now: Instant) -> Option<(RangeId, Range<u64>)> {
        let index = self.parts.iter().position(|part| part.stream.is_none())?;
        if self.parts[index].length() > length.saturating_add(length / 2) {
            self.cut(index, self.parts[index].at + length);
        }
        let part = &mut self.parts[index];
        part.stream = Some(Stream { since: now, bytes: 0 });
        Some((part.id, part.at..part.end))
    }

    /// The range whose stream has the most time left, if that is at least `min_time` and the range can be split in two of `min_size` bytes.
    pub(super) fn slowest(&self, min_size: u64, min_time: Duration, now: Instant) -> Option<RangeId> {
        let long = self.parts.iter().filter(|part| part.length() / 2 >= min_size);
        let slowest = long.filter_map(|part| Some((part.time_left(now)?, part.id))).max();
        slowest.filter(|(left, _)| *left >= min_time).map(|(_, id)| id)
    }

    /// Splits a range. It keeps about `length` bytes, or half of them if it is shorter than twice that.
    pub(super) fn split(&mut self, id: RangeId, length: u64) {
        let Some(index) = self.index(id) else { return };
        let part = &self.parts[index];
        self.cut(index, part.at + length.min(part.length() / 2));
    }

    /// Ends a range at about `end`; the rest becomes an idle range.
    fn cut(&mut self, index: usize, end: u64) {
        let id = self.new_id();
        let part = &mut self.parts[index];
        let end = end.next_multiple_of(BORDER);
        if end <= part.at || end >= part.end {
            return;
        }
        let rest = Part { id, at: end, end: part.end, stream: None };
        part.end = end;
        self.parts.insert(index + 1, rest);
    }

    /// What is missing of a range; `None` once it is complete.
    pub(super) fn span(&self, id: RangeId) -> Option<Range<u64>> {
        self.index(id).map(|index| self.parts[index].at..self.parts[index].end)
    }

    /// Records that the stream of the range received `bytes`.
    pub(super) fn advance(&mut self, id: RangeId, bytes: u64) {
        let Some(index) = self.index(id) else { return };
        let part = &mut self.parts[index];
        part.at = (part.at + bytes).min(part.end);
        if let Some(stream) = &mut part.stream {
            stream.bytes += bytes;
        }
        if part.at == part.end {
            self.parts.remove(index);
        }
    }

    /// Records that the stream has ended: its range is idle, merged with an idle one directly behind it.
    pub(super) fn release(&mut self, id: RangeId) {
        let Some(index) = self.index(id) else { return };
        self.parts[index].stream = None;
        let end = self.parts[index].end;
        if let Some(next) = self.parts.get(index + 1)
            && next.stream.is_none()
            && next.at == end
        {
            self.parts[index].end = next.end;
            self.parts.remove(index + 1);
        }
    }

    /// Ranges cannot be requested separately: merges idle ranges into the stream's range directly before them.
    pub(super) fn give_back(&mut self) {
        for index in (1..self.parts.len()).rev() {
            let (left, right) = (&self.parts[index - 1], &self.parts[index]);
            if right.stream.is_none() && left.end == right.at {
                self.parts[index - 1].end = right.end;
                self.parts.remove(index);
            }
        }
    }

    /// One stream downloads everything from the range's position to the end of the blob, including what is present.
    pub(super) fn take_all(&mut self, id: RangeId) {
        if let Some(index) = self.index(id) {
            self.parts[index].end = self.size;
            self.parts.truncate(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = BORDER;

    fn spans(parts: &MissingRanges) -> Vec<(u64, u64, bool)> {
        parts.parts.iter().map(|part| (part.at, part.end, part.stream.is_some())).collect()
    }

    #[test]
    fn gaps_between_extents_are_missing() {
        for (present, expect) in [
            (&[][..], &[(0, 100)][..]),
            (&[(0, 10)], &[(10, 100)]),
            (&[(0, 10), (20, 30), (30, 100)], &[(10, 20)]),
            (&[(0, 0), (90, 100)], &[(0, 90)]),
            (&[(0, 100)], &[]),
            (&[(0, 50), (20, 30), (99, 200)], &[(50, 99)]),
        ] {
            let parts = MissingRanges::lacking(100, present.iter().map(|(start, end)| *start..*end));
            let found: Vec<_> = parts.parts.iter().map(|part| (part.at, part.end)).collect();
            assert_eq!(found, expect, "{present:?}");
        }
    }

    #[test]
    fn slowest_stream_is_split() {
        let begun = Instant::now();
        let mut parts = MissingRanges::lacking(100 * PAGE, []);
        let (one, span) = parts.take(u64::MAX, begun).unwrap();
        assert_eq!(span, 0..100 * PAGE);
        let now = begun + Duration::from_secs(1);
        assert_eq!(parts.slowest(PAGE, Duration::ZERO, now), None, "nothing has come: its rate is not known");
        parts.advance(one, 10 * PAGE);
        assert_eq!(parts.slowest(PAGE, Duration::from_secs(10), now), None, "it will be done before that");
        assert_eq!(parts.slowest(46 * PAGE, Duration::ZERO, now), None, "two of them are more than there is");
        assert_eq!(parts.slowest(45 * PAGE, Duration::from_secs(9), now), Some(one));
        parts.split(one, 20 * PAGE);
        assert_eq!(spans(&parts), [(10 * PAGE, 30 * PAGE, true), (30 * PAGE, 100 * PAGE, false)]);
        let (other, span) = parts.take(20 * PAGE, now).unwrap();
        assert_eq!(span, 30 * PAGE..50 * PAGE);
        parts.advance(other, 1);
        // The second stream is much slower; its range is shorter than twice the preferred size, so it keeps half.
        let now = now + Duration::from_secs(1);
        assert_eq!(parts.slowest(PAGE, Duration::from_secs(1), now), Some(other));
        parts.split(other, 20 * PAGE);
        assert_eq!(parts.span(other).unwrap(), 30 * PAGE + 1..40 * PAGE);
    }

    #[test]
    fn idle_ranges_merge_into_the_stream_before_them() {
        let now = Instant::now();
        let mut parts = MissingRanges::lacking(100 * PAGE, std::iter::once(60 * PAGE..70 * PAGE));
        let (one, _) = parts.take(20 * PAGE, now).unwrap();
        let (two, _) = parts.take(20 * PAGE, now).unwrap();
        parts.advance(two, PAGE);
        parts.release(two);
        assert_eq!(
            spans(&parts),
            [(0, 20 * PAGE, true), (21 * PAGE, 60 * PAGE, false), (70 * PAGE, 100 * PAGE, false)]
        );
        parts.give_back();
        assert_eq!(parts.span(one).unwrap(), 0..20 * PAGE, "a page between them is there already");
        let (two, _) = parts.take(20 * PAGE, now).unwrap();
        parts.release(two);
        let (two, _) = parts.take(u64::MAX, now).unwrap();
        parts.cut(1, 30 * PAGE);
        parts.give_back();
        assert_eq!(parts.span(two).unwrap(), 21 * PAGE..60 * PAGE);
        parts.take_all(one);
        assert_eq!(spans(&parts), [(0, 100 * PAGE, true)]);
    }

    proptest! {
        /// Whatever is split, abandoned and taken again: every byte is received exactly once.
        #[test]
        fn every_byte_is_received_exactly_once(steps in proptest::collection::vec((0u8..5, 0u64..40), 0..200), gap in 1u64..50) {
            // Pieces of 512 bytes, eight to a page.
            const PIECE: u64 = 512;
            let mut came = [false; 50 * 8 + 1];
            let size = came.len() as u64 * PIECE;
            came[..1].fill(true);
            let extent = gap * 8..(gap * 8 + 9).min(came.len() as u64);
            came[extent.start as usize..extent.end as usize].fill(true);
            let mut parts = MissingRanges::lacking(size, [0..PIECE, extent.start * PIECE..extent.end * PIECE]);
            let begun = Instant::now();
            let mut streams: Vec<RangeId> = Vec::new();
            for (number, (what, amount)) in steps.into_iter().enumerate() {
                let now = begun + Duration::from_millis(number as u64);
                match what {
                    0 => streams.extend(parts.take(amount * 1000 + 1, now).map(|(id, _)| id)),
                    1 => {
                        if let Some(id) = parts.slowest(PAGE, Duration::ZERO, now) {
                            parts.split(id, amount * 1000);
                        }
                    }
                    2 if !streams.is_empty() => parts.release(streams.swap_remove(number % streams.len())),
                    3 => parts.give_back(),
                    _ if !streams.is_empty() => {
                        let id = streams[number % streams.len()];
                        if let Some(span) = parts.span(id) {
                            let pieces = (amount * 2).min((span.end - span.start) / PIECE);
                            for piece in span.start / PIECE..span.start / PIECE + pieces {
                                prop_assert!(!std::mem::replace(&mut came[piece as usize], true), "{piece} came twice");
                            }
                            parts.advance(id, pieces * PIECE);
                        }
                    }
                    _ => {}
                }
                let front = came.iter().position(|came| !came).unwrap_or(came.len());
                prop_assert_eq!(parts.front(), front as u64 * PIECE);
                prop_assert_eq!(parts.missing(), came.iter().filter(|came| !**came).count() as u64 * PIECE);
            }
        }
    }
}
