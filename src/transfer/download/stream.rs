//! One stream of a large blob: asked for, checked, and written where its bytes belong.

use super::Origin;
use super::ranges::{BORDER, PartId, Parts};
use crate::content::retry::Trickle;
use crate::content::{BlobStream, BlobWriter, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Descriptor;
use crate::transfer::Engine;
use crate::transfer::blob::{check_length, cut, trickles};
use crate::transfer::event::Event;
use crate::transfer::hasher::Followed;
use crate::transfer::stats::Tally;
use bytes::Bytes;
use futures::StreamExt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One blob being received.
pub(super) struct Receiving<'a, K: Sink, S> {
    pub(super) engine: &'a Engine<K>,
    pub(super) from: &'a Origin<'a, S>,
    pub(super) writer: &'a K::Writer,
    pub(super) followed: &'a Followed<K::Writer>,
    pub(super) tally: &'a Tally,
    pub(super) parts: Mutex<Parts>,
    /// Bytes that came, in all.
    pub(super) came: AtomicU64,
    /// How long the last stream took to begin, in microseconds.
    pub(super) beginning: AtomicU64,
    /// Whether there ever was more than one stream.
    pub(super) spread_out: AtomicBool,
    /// Whether the source has answered with a stream since one last failed with nobody else at work.
    pub(super) answered: AtomicBool,
    /// Whether the next stream is to bring the whole blob, what is there already included.
    pub(super) whole: AtomicBool,
}

/// How a stream ended that did not fail.
pub(super) enum Ended {
    /// As far as was asked for, or as its part still reached.
    Done,
    /// The source sends the whole blob whatever is asked, and others are at work.
    NoParts,
}

impl<K: Sink, S: Source> Receiving<'_, K, S> {
    pub(super) fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One stream: `span` of the blob, or less where others take over some of it.
    pub(super) async fn bring(&self, id: PartId, span: Range<u64>) -> Result<Ended> {
        let Origin { source, reference, blob } = self.from;
        let (from, to) = match self.whole.load(Ordering::Relaxed) {
            true => (0, None),
            false => (span.start, Some(span.end).filter(|end| *end < blob.size)),
        };
        let begun = Instant::now();
        let stream = source.blob(&reference.repository, blob, from, to).await?;
        self.beginning
            .store(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
        if stream.start > span.start {
            let wrong = format!("bytes from {} on were asked for, {} on were sent", span.start, stream.start);
            return Err(Error::new(ErrorKind::Unavailable, blob.digest, wrong).on(Side::Source));
        }
        let mut asked = span.end;
        if stream.start < span.start || (to.is_none() && span.end < blob.size) {
            let mut parts = self.parts();
            if parts.streams() > 1 {
                return Ok(Ended::NoParts);
            }
            parts.take_all(id);
            asked = blob.size;
        }
        let missing = self.parts().missing();
        self.engine.check_room(blob, missing).await?;
        self.write(id, span.start, asked, stream).await
    }

    /// Writes what comes, from byte `from` on: up to byte `asked`, or to where the part ends by then.
    async fn write(&self, id: PartId, from: u64, asked: u64, mut stream: BlobStream) -> Result<Ended> {
        let blob = self.from.blob;
        // A source that sends the blob from its start again: what is there already is passed over.
        let mut skip = from - stream.start;
        let mut at = from;
        // What came and waits for the rest of its page.
        let mut held = Bytes::new();
        let mut trickle = Trickle::new(&self.engine.options.retry);
        while let Some(chunk) = stream.chunks.next().await {
            let mut chunk = chunk?;
            self.tally.fetched(chunk.len() as u64);
            if trickle.is_too_slow(chunk.len() as u64) {
                return Err(trickles(blob, at));
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
                // What this one would bring now is another stream's, or was not asked for.
                return Ok(Ended::Done);
            }
            trickle.excuse(began.elapsed());
        }
        if at < asked && self.parts().span(id).is_some() { Err(cut(blob, at)) } else { Ok(Ended::Done) }
    }

    /// Writes a chunk that belongs at `at`, as far as the part reaches and its last page can be whole; answers how much that was, and
    /// where the part ends.
    async fn keep(&self, id: PartId, at: u64, chunk: &[u8], blob: &Descriptor) -> Result<(u64, u64)> {
        let Some(span) = self.parts().span(id) else {
            // The part is complete, yet more comes.
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
            // Whoever has the front waits for the hash; a stream that is done does not keep its slot for that.
            Some(front) if front == at + came => self.followed.advance(front).await,
            Some(front) => self.followed.reached(front),
            None => {}
        }
        Ok((came, span.end))
    }
}

/// How many of `length` bytes at `at` are to be written of a part that ends at `end`. Its last page comes whole or not at all: were it half
/// done when the process is killed, no hole would tell it from the part behind it.
fn writable(at: u64, length: u64, end: u64) -> u64 {
    let last_page = end.saturating_sub(1) / BORDER * BORDER;
    match at + length {
        to if to >= end => end - at,
        to => to.min(last_page.max(at)) - at,
    }
}

/// One piece of two, the first of which is short and mostly empty.
fn joined(held: Bytes, chunk: Bytes) -> Bytes {
    if held.is_empty() { chunk } else { [held, chunk].concat().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_of_a_part_is_written_whole_or_not_at_all() {
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
