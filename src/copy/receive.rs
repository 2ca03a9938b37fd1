//! A large blob on its way into its writer: over one stream, or in parts over several at once.
//!
//! One stream begins with all that is lacking. While slots lie idle and it has long to go, other streams take over
//! parts from its end; each writes where its bytes belong, and the hash follows the front. A part that fails lies
//! idle until another stream takes it; as long as others bring bytes that costs nothing more. Only a failure with nobody else at work
//! counts against the tries that the retry policy allows.

use super::Engine;
use super::blob::{PROGRESS, Shown, check_length, cut, trickles};
use super::event::Event;
use super::follower::Followed;
use super::parts::{PartId, Parts};
use super::tally::Tally;
use crate::content::retry::{Attempts, Trickle};
use crate::content::{BlobStream, BlobWriter, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Reference};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::SemaphorePermit;
use tokio::time::MissedTickBehavior;

/// How long a stream should be busy with its part: long against a round trip, short against what others wait for its slot.
const PART_SECONDS: f64 = 4.0;
/// The least and most that such a part has.
const PART: Range<u64> = 8 << 20..128 << 20;
/// What is left of a stream is worth splitting when it takes so many times longer than a stream takes to begin.
const BEGINNINGS: u32 = 4;

/// Where a blob comes from.
pub(super) struct Origin<'a, S> {
    pub(super) source: &'a S,
    pub(super) reference: &'a Reference,
    pub(super) blob: &'a Descriptor,
}

/// One blob being received.
struct Receiving<'a, K: Sink, S> {
    engine: &'a Engine<K>,
    from: &'a Origin<'a, S>,
    writer: &'a K::Writer,
    followed: &'a Followed<K::Writer>,
    tally: &'a Tally,
    parts: Mutex<Parts>,
    /// Bytes that came, in all.
    came: AtomicU64,
    /// How long the last stream took to begin, in microseconds.
    beginning: AtomicU64,
}

/// How a stream ended that did not fail.
enum Ended {
    /// As far as was asked for, or as its part still reached.
    Done,
    /// The source sends the whole blob whatever is asked, and others are at work.
    NoParts,
}

type Streams<'s> = FuturesUnordered<BoxFuture<'s, (PartId, Result<Ended>)>>;

impl<K: Sink> Engine<K> {
    /// Receives a large blob to its last byte, through cuts and stalls, `alone`: over one stream; answers the digest of what is on disk.
    pub(super) async fn receive<S: Source>(
        &self,
        from: &Origin<'_, S>,
        writer: K::Writer,
        alone: bool,
        tally: &Tally,
    ) -> Result<(K::Writer, Digest)> {
        let blob = from.blob;
        let there = std::iter::once(0..writer.received()).chain(writer.islands());
        let parts = Parts::lacking(blob.size, there);
        let (front, lacking) = (parts.front(), parts.missing());
        let slot = tally.lane.requests.acquire().await.ok();
        let shown = Shown::start(self, from.reference, blob, blob.size - lacking);
        let writer = Arc::new(writer);
        let followed = self.hasher.follow(writer.clone(), blob.size);
        followed.advance(front).await;
        let receiving = Receiving {
            engine: self,
            from,
            writer: &*writer,
            followed: &followed,
            tally,
            parts: Mutex::new(parts),
            came: AtomicU64::new(0),
            beginning: AtomicU64::new(0),
        };
        receiving.run(slot, alone).await?;
        let digest = followed.finish().await?;
        shown.complete(digest == blob.digest);
        match Arc::try_unwrap(writer) {
            Ok(writer) => Ok((writer, digest)),
            Err(_) => Err(Error::new(ErrorKind::Storage, blob.digest, "the blob is still being read")),
        }
    }
}

impl<'a, K: Sink, S: Source> Receiving<'a, K, S> {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until every byte is written.
    async fn run(&self, mut slot: Option<SemaphorePermit<'a>>, alone: bool) -> Result<()> {
        let policy = &self.engine.options.parts;
        let mut in_parts = !alone && self.parts().missing() / 2 >= policy.least;
        let mut look = tokio::time::interval(policy.look.max(Duration::from_millis(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempts = Attempts::new(&self.engine.options.retry);
        let mut streams = Streams::new();
        let mut came = 0;
        loop {
            if streams.is_empty() {
                if self.parts().missing() == 0 {
                    return Ok(());
                }
                // While a try is waited for, others may have the slot.
                let held = match slot.take() {
                    Some(slot) => Some(slot),
                    None => self.tally.lane.requests.acquire().await.ok(),
                };
                let next = self.parts().take(u64::MAX, Instant::now());
                streams.extend(next.map(|(id, span)| self.stream(id, span, held)));
            }
            let (id, result) = tokio::select! {
                biased;
                Some(ended) = streams.next() => ended,
                _ = look.tick(), if in_parts => {
                    self.spread(&mut streams);
                    continue;
                }
            };
            let now = self.came.load(Ordering::Relaxed);
            if now - came >= PROGRESS {
                attempts.progress();
                came = now;
            }
            self.parts().release(id);
            match result {
                Ok(Ended::Done) => self.tally.lane.spread.came(),
                Ok(Ended::NoParts) => {
                    in_parts = false;
                    self.tally.lane.spread.refused();
                    self.parts().give_back();
                }
                Err(error) if error.kind() == ErrorKind::Storage => return Err(error),
                Err(error) if streams.is_empty() => {
                    came = now;
                    self.engine.again(&mut attempts, self.tally, &self.from.blob.digest, error).await?;
                }
                Err(error) => {
                    tracing::debug!(digest = %self.from.blob.digest, %error, "a part failed; the others go on");
                    in_parts &= error.kind().is_retryable();
                    self.tally.lane.back_off(Instant::now());
                }
            }
            if in_parts {
                self.spread(&mut streams);
            }
        }
    }

    /// Begins more streams, as many as are worth it and have a slot.
    fn spread<'s>(&'s self, streams: &mut Streams<'s>) {
        let policy = &self.engine.options.parts;
        let now = Instant::now();
        // Where hashing is the brake, more connections bring nothing.
        while !streams.is_empty() && !self.followed.is_far_behind() {
            let length = self.part_length(now);
            let mut parts = self.parts();
            let beginning = Duration::from_micros(self.beginning.load(Ordering::Relaxed));
            let worth = policy.worth.max(beginning * BEGINNINGS);
            let slowest = match parts.first_idle() {
                Some(at) if at > parts.front().saturating_add(policy.ahead) => return,
                Some(_) => None,
                None => match parts.slowest(policy.least, worth, now) {
                    None => return,
                    slowest => slowest,
                },
            };
            let Some(slot) = self.tally.lane.idle_slot(now) else { return };
            if let Some(id) = slowest {
                parts.split(id, length);
            }
            let Some((id, span)) = parts.take(length, now) else { return };
            drop(parts);
            streams.push(self.stream(id, span, Some(slot)));
        }
    }

    /// About how many bytes a part should have, by what one stream brings in a second.
    fn part_length(&self, now: Instant) -> u64 {
        let parts = self.parts();
        let rate = parts.rate(now) / parts.streams().max(1) as f64;
        ((rate * PART_SECONDS) as u64).clamp(PART.start.max(self.engine.options.parts.least), PART.end)
    }

    /// One stream, from its request to its end; holds its slot as long.
    fn stream<'s>(
        &'s self,
        id: PartId,
        span: Range<u64>,
        slot: Option<SemaphorePermit<'a>>,
    ) -> BoxFuture<'s, (PartId, Result<Ended>)>
    where
        'a: 's,
    {
        Box::pin(async move {
            let result = self.bring(id, span).await;
            drop(slot);
            (id, result)
        })
    }

    async fn bring(&self, id: PartId, span: Range<u64>) -> Result<Ended> {
        let Origin { source, reference, blob } = self.from;
        let to = Some(span.end).filter(|end| *end < blob.size);
        let begun = Instant::now();
        let stream = source.blob(&reference.repository, blob, span.start, to).await?;
        self.beginning
            .store(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if stream.start > span.start {
            let wrong = format!("bytes from {} on were asked for, {} on were sent", span.start, stream.start);
            return Err(Error::new(ErrorKind::Unavailable, blob.digest, wrong).on(Side::Source));
        }
        let mut asked = span.end;
        if stream.start < span.start {
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
            let (came, end) = self.keep(id, at, chunk, blob).await?;
            at += came;
            if at == end && end < asked {
                // Another stream has taken over what this one would bring now.
                return Ok(Ended::Done);
            }
            trickle.excuse(began.elapsed());
        }
        if at < asked && self.parts().span(id).is_some() { Err(cut(blob, at)) } else { Ok(Ended::Done) }
    }

    /// Writes a chunk that belongs at `at`, as far as the part reaches; answers how much that was, and where the part ends.
    async fn keep(&self, id: PartId, at: u64, chunk: Bytes, blob: &Descriptor) -> Result<(u64, u64)> {
        let Some(span) = self.parts().span(id) else {
            // The part is complete, yet more comes.
            check_length(blob, blob.size, chunk.len())?;
            return Ok((0, at));
        };
        if span.end == blob.size {
            check_length(blob, at, chunk.len())?;
        }
        let room = usize::try_from(span.end - at).unwrap_or(chunk.len());
        let chunk = &chunk[..chunk.len().min(room)];
        let came = chunk.len() as u64;
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
