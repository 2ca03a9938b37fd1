//! One stream of a large blob: requests a range, checks the response and writes it at its offset.

use super::ranges::{BORDER, MissingRanges, RangeId};
use crate::content::retry::ThroughputCheck;
use crate::content::{BlobStream, BlobWriter, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Descriptor;
use crate::transfer::Engine;
use crate::transfer::blob::{Origin, check_length, too_slow, truncated};
use crate::transfer::event::Event;
use crate::transfer::hasher::HashJob;
use crate::transfer::stats::ImageStats;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// The download of one blob.
pub(super) struct Download<'a, K: Sink, S> {
    pub(super) engine: &'a Engine<K>,
    pub(super) from: &'a Origin<'a, S>,
    pub(super) writer: &'a K::Writer,
    pub(super) hashing: &'a HashJob<K::Writer>,
    pub(super) stats: &'a ImageStats,
    pub(super) parts: Mutex<MissingRanges>,
    /// The number of bytes received.
    pub(super) came: AtomicU64,
    /// The time that the last stream took to start, in microseconds.
    pub(super) beginning: AtomicU64,
    /// Whether the source has sent a response since a stream last failed with no other active.
    pub(super) answered: AtomicBool,
    /// What the next requests are for.
    pub(super) mode: Mutex<Mode>,
}

/// What a download requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    /// One stream requests what is missing. `split` if there were several before.
    Single { split: bool },
    /// Further streams may be added. `split` if there were several.
    Ranges { split: bool },
    /// One stream requests the whole blob, because range requests were answered without progress; `ranges` if they may be tried
    /// again after that.
    Whole { ranges: bool },
}

impl Mode {
    pub(super) fn new(ranges: bool) -> Self {
        if ranges { Self::Ranges { split: false } } else { Self::Single { split: false } }
    }

    pub(super) fn may_add_streams(self) -> bool {
        matches!(self, Self::Ranges { .. })
    }

    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Whole { .. })
    }

    /// A further stream was added.
    pub(super) fn stream_added(&mut self) {
        if let Self::Ranges { split } = self {
            *split = true;
        }
    }

    /// The source ignores or refuses ranges: no more streams.
    pub(super) fn ranges_refused(&mut self) {
        *self = match *self {
            Self::Single { split } | Self::Ranges { split } => Self::Single { split },
            Self::Whole { .. } => Self::Whole { ranges: false },
        };
    }

    /// The last stream failed. A source that responds to ranges without any progress (`is_stuck`) may still have the whole
    /// blob; if that fails too, what is missing is requested again.
    pub(super) fn last_stream_failed(&mut self, is_stuck: bool) {
        *self = match *self {
            Self::Whole { ranges: true } => Self::Ranges { split: true },
            Self::Whole { ranges: false } => Self::Single { split: true },
            Self::Ranges { split: true } if is_stuck => Self::Whole { ranges: true },
            Self::Single { split: true } if is_stuck => Self::Whole { ranges: false },
            same => same,
        };
    }
}

/// How a stream ended without failing.
pub(super) enum Ended {
    /// At the end of its range.
    Done,
    /// The source ignores ranges, and other streams are active.
    RangesIgnored,
}

impl<K: Sink, S: Source> Download<'_, K, S> {
    pub(super) fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock()
    }

    pub(super) fn parts(&self) -> MutexGuard<'_, MissingRanges> {
        self.parts.lock()
    }

    /// Downloads `span` of the blob, or less if other streams take over some of it.
    pub(super) async fn bring(&self, id: RangeId, span: Range<u64>) -> Result<Ended> {
        let Origin { source, reference, blob } = self.from;
        let (from, to) = if self.mode().is_whole() {
            (0, None)
        } else {
            (span.start, Some(span.end).filter(|end| *end < blob.size))
        };
        let begun = Instant::now();
        let stream = source.blob(&reference.repository, blob, from, to).await?;
        self.beginning
            .store(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
        if stream.start > span.start {
            let wrong = format!("requested bytes from {}, received bytes from {}", span.start, stream.start);
            return Err(Error::new(ErrorKind::Unavailable, blob.digest, wrong).on(Side::Source));
        }
        let mut asked = span.end;
        if stream.start < span.start || (to.is_none() && span.end < blob.size) {
            let mut parts = self.parts();
            if parts.streams() > 1 {
                return Ok(Ended::RangesIgnored);
            }
            parts.take_all(id);
            asked = blob.size;
        }
        let missing = self.parts().missing();
        self.engine.check_room(blob, missing).await?;
        self.write(id, span.start, asked, stream).await
    }

    /// Writes the response from byte `from` up to byte `asked`, or to the end of the range by then.
    async fn write(&self, id: RangeId, from: u64, asked: u64, mut stream: BlobStream) -> Result<Ended> {
        let blob = self.from.blob;
        // A source without ranges sends the blob from its start: skips what is present.
        let mut skip = from - stream.start;
        let mut at = from;
        // Received bytes that wait for the rest of their page.
        let mut held = Bytes::new();
        let mut throughput = ThroughputCheck::new(&self.engine.options.retry);
        while let Some(chunk) = stream.chunks.next().await {
            let mut chunk = chunk?;
            self.stats.fetched(chunk.len() as u64);
            if throughput.is_too_slow(chunk.len() as u64) {
                return Err(too_slow(blob, at));
            }
            let passed = skip.min(chunk.len() as u64);
            skip -= passed;
            let chunk = chunk.split_off(usize::try_from(passed).unwrap_or(chunk.len()));
            if chunk.is_empty() {
                continue;
            }
            let began = Instant::now();
            let chunk = joined(held, chunk);
            let (came, end) = self.keep(id, at, &chunk, blob).await?;
            at += came;
            held = chunk.slice(usize::try_from(came).unwrap_or(chunk.len())..);
            if at == end && end < blob.size {
                // The rest belongs to another stream, or was not requested.
                return Ok(Ended::Done);
            }
            throughput.excuse(began.elapsed());
        }
        if at < asked && self.parts().span(id).is_some() { Err(truncated(blob, at)) } else { Ok(Ended::Done) }
    }

    /// Writes `chunk` at `at`, up to the end of the range and only whole pages there. Returns the number of bytes written, and the
    /// end of the range.
    async fn keep(&self, id: RangeId, at: u64, chunk: &[u8], blob: &Descriptor) -> Result<(u64, u64)> {
        let Some(span) = self.parts().span(id) else {
            // The range is complete, yet more bytes arrive.
            check_length(blob, blob.size, chunk.len())?;
            return Ok((0, at));
        };
        if span.end == blob.size {
            check_length(blob, at, chunk.len())?;
        }
        let came = writable(at, chunk.len() as u64, span.end);
        if came == 0 {
            return Ok((0, span.end));
        }
        let chunk = &chunk[..usize::try_from(came).unwrap_or(chunk.len())];
        self.writer.write_at(at, chunk)?;
        self.came.fetch_add(came, Ordering::Relaxed);
        let front = {
            let mut parts = self.parts();
            let was_front = parts.front() == at;
            parts.advance(id, came);
            was_front.then(|| parts.front())
        };
        let event = Event::BlobAdvanced { digest: blob.digest, bytes: came };
        self.engine.observer.event(&event);
        match front {
            // The stream at the front waits for hashing; one that is done does not hold its slot for that.
            Some(front) if front == at + came => self.hashing.advance(front).await,
            Some(front) => self.hashing.reached(front),
            None => {}
        }
        Ok((came, span.end))
    }
}

/// The number of bytes, of `length` at `at`, to write in a range that ends at `end`. Its last page is written as a whole: if the
/// process were killed with half of it written, no hole would separate it from the next range.
fn writable(at: u64, length: u64, end: u64) -> u64 {
    let last_page = end.saturating_sub(1) / BORDER * BORDER;
    match at + length {
        to if to >= end => end - at,
        to => to.min(last_page.max(at)) - at,
    }
}

/// Joins two pieces, the first of which is short and mostly empty.
fn joined(held: Bytes, chunk: Bytes) -> Bytes {
    if held.is_empty() { chunk } else { [held, chunk].concat().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_requests_the_whole_only_after_ranges_made_no_progress() {
        let mut mode = Mode::new(true);
        mode.last_stream_failed(true);
        assert!(mode.may_add_streams(), "one stream alone requests all that is missing anyway");
        mode.stream_added();
        mode.last_stream_failed(false);
        assert!(!mode.is_whole(), "it made progress");
        mode.last_stream_failed(true);
        assert!(mode.is_whole() && !mode.may_add_streams());
        mode.last_stream_failed(true);
        assert_eq!(mode, Mode::Ranges { split: true });
        mode.ranges_refused();
        assert!(!mode.may_add_streams());
        mode.last_stream_failed(true);
        assert!(mode.is_whole());
        mode.last_stream_failed(false);
        assert_eq!(mode, Mode::Single { split: true });
        let mut single = Mode::new(false);
        single.stream_added();
        single.last_stream_failed(true);
        assert_eq!(single, Mode::Single { split: false });
    }

    #[test]
    fn last_page_of_a_range_is_written_whole() {
        for (at, length, end, expect) in [
            (0, 100, 8192, 100),
            (0, 4096, 8192, 4096),
            (0, 5000, 8192, 4096),
            (0, 8191, 8192, 4096),
            (0, 8192, 8192, 8192),
            (0, 9000, 8192, 8192),
            (4096, 4095, 8192, 0),
            (4096, 4096, 8192, 4096),
            (5000, 10, 8192, 0),
            (5000, 3192, 8192, 3192),
            (0, 8195, 8200, 8192),
            (8192, 8, 8200, 8),
            (0, 0, 0, 0),
        ] {
            assert_eq!(writable(at, length, end), expect, "{length} at {at}, to {end}");
        }
    }
}
