//! Downloads a large blob into its writer, over one stream or over several that each request a range.
//!
//! The first stream requests all that is missing. While slots are idle and much is left, further streams take over ranges from
//! its end; each writes at its own offset, and the hash follows the contiguous front. A range that fails is idle until another
//! stream takes it. Only a failure with no other stream active counts against the retry policy.

pub(super) mod concurrency;
mod ranges;
mod recovery;
mod stream;

use crate::content::retry::Attempts;
use crate::content::{BlobWriter, Sink, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::transfer::Engine;
use crate::transfer::blob::{BlobProgress, Origin, PROGRESS};
use crate::transfer::stats::ImageStats;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use ranges::{MissingRanges, RangeId};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use stream::{Download, Ended, Mode};
use tokio::sync::SemaphorePermit;
use tokio::time::MissedTickBehavior;

/// How long a stream should be busy with its range: long compared with a round trip, short compared with what others wait for
/// its slot.
const PART_SECONDS: f64 = 4.0;
/// Streams of at least this throughput, in bytes per second, are not split: one of them keeps the hasher busy, and it can hash
/// only the front.
const FAST: f64 = 200e6;
/// The minimum and maximum size of a range, in bytes.
const PART: Range<u64> = 8 << 20..128 << 20;
/// A stream is split only if the rest takes it this many times longer than a new stream takes to start.
const BEGINNINGS: u32 = 4;

type Streams<'s> = FuturesUnordered<BoxFuture<'s, (RangeId, Result<Ended>)>>;

impl<K: Sink> Engine<K> {
    /// Downloads a large blob completely, through failures, and returns the digest of what is in the file. `alone` restricts it to
    /// one stream.
    pub(super) async fn receive<S: Source>(
        &self,
        from: &Origin<'_, S>,
        writer: K::Writer,
        alone: bool,
        stats: &ImageStats,
    ) -> Result<(K::Writer, Digest)> {
        let blob = from.blob;
        let present = std::iter::once(0..writer.received()).chain(writer.extents());
        let parts = MissingRanges::lacking(blob.size, present);
        let (front, lacking) = (parts.front(), parts.missing());
        let shown = BlobProgress::start(self, from.reference, blob, blob.size - lacking);
        let writer = Arc::new(writer);
        let hashing = self.hasher.job(writer.clone(), blob.size);
        hashing.advance(front).await;
        let slot = stats.lane.requests.acquire().await.ok();
        let receiving = Download {
            engine: self,
            from,
            writer: &*writer,
            hashing: &hashing,
            stats,
            parts: Mutex::new(parts),
            came: AtomicU64::new(0),
            beginning: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            mode: Mutex::new(Mode::Single { split: false }),
        };
        receiving.run(slot, alone).await?;
        let digest = hashing.finish().await?;
        shown.complete(digest == blob.digest);
        match Arc::try_unwrap(writer) {
            Ok(writer) => Ok((writer, digest)),
            Err(_) => Err(Error::new(ErrorKind::Storage, blob.digest, "the file is still being read")),
        }
    }
}

impl<'a, K: Sink, S: Source> Download<'a, K, S> {
    /// Runs until every byte is written.
    async fn run(&self, mut slot: Option<SemaphorePermit<'a>>, alone: bool) -> Result<()> {
        let policy = &self.engine.options.ranges;
        *self.mode() = Mode::new(!alone && self.parts().missing() / 2 >= policy.min_size);
        let mut interval = tokio::time::interval(policy.interval.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempts = Attempts::new(&self.engine.options.retry);
        let mut streams = Streams::new();
        let mut came = 0;
        // The bytes received when a stream last failed with no other active.
        let mut failed_at = None;
        loop {
            if streams.is_empty() {
                if self.parts().missing() == 0 {
                    return Ok(());
                }
                // The slot is free for others during the wait for a retry.
                let held = match slot.take() {
                    Some(slot) => Some(slot),
                    None => self.stats.lane.requests.acquire().await.ok(),
                };
                let next = self.parts().take(u64::MAX, Instant::now());
                streams.extend(next.map(|(id, span)| self.stream(id, span, held)));
            }
            let may_add = self.mode().may_add_streams();
            let (id, result) = tokio::select! {
                biased;
                Some(ended) = streams.next() => ended,
                _ = interval.tick(), if may_add => {
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
                Ok(Ended::Done) => self.stats.lane.spread.came(),
                Ok(Ended::RangesIgnored) => {
                    self.mode().ranges_refused();
                    self.stats.lane.spread.refused();
                    self.parts().give_back();
                }
                Err(error) if error.kind() == ErrorKind::Storage => return Err(error),
                Err(error) if streams.is_empty() => {
                    let is_stuck = failed_at.replace(now) == Some(now);
                    let has_answered = self.answered.swap(false, Ordering::Relaxed);
                    self.mode().last_stream_failed(is_stuck && has_answered);
                    self.engine.again(&mut attempts, self.stats, &self.from.blob.digest, error).await?;
                }
                Err(error) => {
                    tracing::debug!(digest = %self.from.blob.digest, %error, "a range failed; other streams continue");
                    if !error.kind().is_retryable() {
                        self.mode().ranges_refused();
                    }
                    self.stats.lane.back_off(Instant::now());
                    // The stream that had the range before has it again, unless it has ended by now.
                    self.parts().give_back();
                }
            }
            if self.mode().may_add_streams() {
                self.spread(&mut streams);
            }
        }
    }

    /// Adds streams, as many as pay off and have a slot.
    fn spread<'s>(&'s self, streams: &mut Streams<'s>) {
        let policy = &self.engine.options.ranges;
        let now = Instant::now();
        // More connections do not help where hashing is the bottleneck.
        while !streams.is_empty() && !self.hashing.is_far_behind() {
            let rate = self.stream_rate(now);
            if rate >= FAST {
                return;
            }
            let length = self.part_length(rate);
            let mut parts = self.parts();
            let beginning = Duration::from_micros(self.beginning.load(Ordering::Relaxed));
            let min_time = policy.min_time.max(beginning * BEGINNINGS);
            let slowest = match parts.first_idle() {
                Some(at) if at > parts.front().saturating_add(policy.max_distance) => return,
                Some(_) => None,
                None => match parts.slowest(policy.min_size, min_time, now) {
                    None => return,
                    slowest => slowest,
                },
            };
            let Some(slot) = self.stats.lane.idle_slot(now) else { return };
            if let Some(id) = slowest {
                parts.split(id, length);
            }
            let Some((id, span)) = parts.take(length, now) else { return };
            drop(parts);
            self.mode().stream_added();
            streams.push(self.stream(id, span, Some(slot)));
        }
    }

    /// The average throughput of a stream, in bytes per second.
    fn stream_rate(&self, now: Instant) -> f64 {
        let parts = self.parts();
        parts.rate(now) / parts.streams().max(1) as f64
    }

    /// The preferred size of a range, for streams with a throughput of `rate` bytes per second.
    fn part_length(&self, rate: f64) -> u64 {
        let min_size = PART.start.max(self.engine.options.ranges.min_size);
        ((rate * PART_SECONDS) as u64).clamp(min_size, PART.end.max(min_size))
    }

    /// Runs one stream from its request to its end, holding its slot.
    fn stream<'s>(
        &'s self,
        id: RangeId,
        span: Range<u64>,
        slot: Option<SemaphorePermit<'a>>,
    ) -> BoxFuture<'s, (RangeId, Result<Ended>)>
    where
        'a: 's,
    {
        Box::pin(async move {
            let result = self.bring(id, span).await;
            drop(slot);
            (id, result)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::memory::Memory;
    use crate::content::retry::RetryPolicy;
    use crate::content::{BlobStream, Place, Resolved, Target};
    use crate::oci::{Descriptor, RawManifest, Reference, Repository, Tag};
    use crate::transfer::{Event, Image, Observer, RangePolicy, Report, Silent, TransferOptions};
    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    const SIZE: u64 = 1 << 20;
    const PIECE: u64 = 4 << 10;

    /// How a request for the blob is answered, by its number and first byte.
    type Conduct = fn(usize, u64) -> Fate;

    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Good,
        /// The stream fails after so many bytes.
        Cut(u64),
        /// The whole blob, whatever was requested.
        Whole,
        /// The first byte is wrong.
        Wrong,
        /// The bytes from a later offset.
        Elsewhere,
        /// Nothing for a while.
        Slow,
        Refused(ErrorKind),
    }

    /// A source of slow streams, so that several of them are faster.
    struct Paced {
        memory: Memory,
        conduct: Conduct,
        asked: Mutex<Vec<(u64, Option<u64>)>>,
        piece_time: Duration,
    }

    impl Source for Paced {
        async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
            self.memory.resolve(repository, tag).await
        }
        async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
            self.memory.manifest(repository, target).await
        }
        async fn blob(
            &self,
            repository: &Repository,
            blob: &Descriptor,
            from: u64,
            to: Option<u64>,
        ) -> Result<BlobStream> {
            if blob.size < SIZE {
                return self.memory.blob(repository, blob, from, to).await;
            }
            let number = {
                let mut asked = self.asked.lock();
                asked.push((from, to));
                asked.len()
            };
            let fate = (self.conduct)(number, from);
            let (from, to) = match fate {
                Fate::Whole => (0, None),
                Fate::Elsewhere => (from + 1, to),
                Fate::Refused(kind) => return Err(Error::new(kind, blob.digest, "refused")),
                _ => (from, to),
            };
            let stream = self.memory.blob(repository, blob, from, to).await?;
            let mut content = stream.chunks.map(Result::unwrap).collect::<Vec<Bytes>>().await.concat();
            if fate == Fate::Wrong {
                content[0] ^= 1;
            }
            let mut pieces: Vec<Result<Bytes>> =
                content.chunks(PIECE as usize).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            if let Fate::Cut(after) = fate {
                pieces.truncate((after / PIECE) as usize);
                pieces.push(Err(Error::new(ErrorKind::Unavailable, blob.digest, "cut")));
            }
            let wait = if fate == Fate::Slow { Duration::from_millis(300) } else { Duration::ZERO };
            let time = self.piece_time;
            let chunks = futures::stream::iter(pieces.into_iter().enumerate());
            let chunks = chunks.then(move |(number, piece)| async move {
                tokio::time::sleep(if number == 0 { time + wait } else { time }).await;
                piece
            });
            Ok(BlobStream { start: from, length: None, chunks: chunks.boxed() })
        }
    }

    struct Scene {
        source: Arc<Paced>,
        sink: Memory,
        layer: Vec<u8>,
        parts: RangePolicy,
        retries: u32,
    }

    impl Scene {
        fn new(conduct: Conduct) -> Self {
            let (memory, repository) = (Memory::new(), "a/b".parse().unwrap());
            let layer: Vec<u8> = (0..SIZE).map(|at| (at / 5 % 251) as u8).collect();
            let describe = |content: &[u8]| {
                let digest = memory.insert_blob(&repository, content.to_vec());
                let size = content.len();
                format!(
                    r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{size}}}"#
                )
            };
            let config = describe(br#"{"os":"linux","architecture":"amd64"}"#);
            let json = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, describe(&layer));
            let raw = RawManifest::new(json.into(), None).unwrap();
            memory.insert_manifest(&repository, Some(&"v1".parse().unwrap()), &raw);
            let piece_time = Duration::from_millis(1);
            let source = Arc::new(Paced { memory, conduct, asked: Mutex::default(), piece_time });
            let parts = RangePolicy {
                min_size: 16 << 10,
                min_time: Duration::from_millis(20),
                interval: Duration::from_millis(10),
                ..RangePolicy::default()
            };
            Self { source, sink: Memory::new(), layer, parts, retries: 2 }
        }

        async fn run_until(&self, cancel: &CancellationToken) -> Report {
            self.run_observed(cancel, Arc::new(Silent)).await
        }

        async fn run_observed(&self, cancel: &CancellationToken, observer: Arc<dyn Observer>) -> Report {
            let retry =
                RetryPolicy { first_delay: Duration::ZERO, retries: self.retries, ..RetryPolicy::default() };
            let options = TransferOptions { retry, ranges: self.parts.clone(), ..TransferOptions::default() };
            let engine = Engine::new(Arc::new(self.sink.clone()), options, observer).unwrap();
            let image = Image {
                source: self.source.clone(),
                reference: Reference::parse("r.io/a/b:v1").unwrap(),
                platforms: None,
                place: Place { repository: "x".parse().unwrap(), tag: Some("v1".parse().unwrap()) },
                alias: None,
                resolved: None,
                pinned: None,
                origin: None,
                warnings: Vec::new(),
            };
            Arc::new(engine).run(vec![image], cancel).await
        }

        async fn saves(&self) -> Report {
            let report = self.run_until(&CancellationToken::new()).await;
            assert!(report.is_success(), "{:?}, asked {:?}", report.images[0].error, self.asked());
            let committed = self.sink.contents().blobs;
            assert!(committed[&Digest::of(&self.layer)] == self.layer, "wrong bytes were committed");
            report
        }

        fn asked(&self) -> Vec<(u64, Option<u64>)> {
            self.source.asked.lock().clone()
        }
    }

    #[tokio::test]
    async fn slow_blob_is_downloaded_in_ranges_without_overlap() {
        let scene = Scene::new(|_, _| Fate::Good);
        let report = scene.saves().await;
        assert!(scene.asked().len() >= 4, "{:?}", scene.asked());
        // Only what streams had in flight when others took over may be received twice.
        let vain = report.bytes_fetched - SIZE;
        assert!(vain <= PIECE * scene.asked().len() as u64 + 10_000, "{vain} bytes came in vain");
    }

    #[tokio::test]
    async fn failing_ranges_still_give_the_right_blob() {
        let conducts: [(&str, Conduct); 7] =
            [
                (
                    "every other part is cut",
                    |number, _| {
                        if number % 2 == 0 { Fate::Cut(3 * PIECE) } else { Fate::Good }
                    },
                ),
                ("parts are cut at once", |_, from| if from > 0 { Fate::Cut(0) } else { Fate::Good }),
                ("parts are refused", |_, from| {
                    if from > 0 { Fate::Refused(ErrorKind::RateLimited) } else { Fate::Good }
                }),
                ("parts are forbidden", |_, from| {
                    if from > 0 { Fate::Refused(ErrorKind::Unauthorized) } else { Fate::Good }
                }),
                ("ranges are ignored", |_, from| if from > 0 { Fate::Whole } else { Fate::Good }),
                ("ranges are misunderstood", |number, from| {
                    if from > 0 && number < 6 { Fate::Elsewhere } else { Fate::Good }
                }),
                ("some begin late", |number, _| if number % 3 == 0 { Fate::Slow } else { Fate::Good }),
            ];
        for (what, conduct) in conducts {
            let scene = Scene::new(conduct);
            let report = scene.saves().await;
            assert!(scene.asked().len() >= 2, "{what}: {:?}", scene.asked());
            assert!(report.bytes_fetched < 3 * SIZE, "{what}: {}", report.bytes_fetched);
        }
    }

    #[tokio::test]
    async fn damaged_range_is_recovered_over_one_stream() {
        let scene = Scene::new(|number, _| if number == 3 { Fate::Wrong } else { Fate::Good });
        scene.saves().await;
        let asked = scene.asked();
        assert_eq!(asked.last(), Some(&(0, None)), "{asked:?}");
        assert_eq!(asked.iter().filter(|(from, _)| *from == 0).count(), 2, "{asked:?}");
    }

    #[tokio::test]
    async fn temporary_outage_costs_no_byte_twice() {
        let mut scene = Scene::new(|number, _| match number {
            1..=5 => Fate::Cut(20 * PIECE),
            6 | 7 => Fate::Refused(ErrorKind::Unavailable),
            8..=12 => Fate::Cut(20 * PIECE),
            13 | 14 => Fate::Refused(ErrorKind::Unavailable),
            _ => Fate::Good,
        });
        scene.retries = 30;
        scene.saves().await;
        let asked = scene.asked();
        assert!(asked.len() > 14 && asked[1..].iter().all(|(from, _)| *from > 0), "{asked:?}");
    }

    #[tokio::test]
    async fn permanent_failure_ends_the_download() {
        let scene = Scene::new(|number, _| if number > 3 { Fate::Cut(0) } else { Fate::Cut(20 * PIECE) });
        let report = scene.run_until(&CancellationToken::new()).await;
        let error = report.images[0].error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
    }

    #[tokio::test]
    async fn interrupted_ranges_are_resumed() {
        let scene = Scene::new(|_, _| Fate::Good);
        let cancel = CancellationToken::new();
        let stop = async {
            while scene.asked().len() < 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
            cancel.cancel();
        };
        let (first, ()) = tokio::join!(scene.run_until(&cancel), stop);
        assert!(!first.is_success());
        let before = scene.asked().len();
        let second = scene.saves().await;
        let asked = scene.asked();
        assert!(asked[before..].iter().all(|(from, _)| *from > 0), "{asked:?}");
        let came = first.bytes_fetched + second.bytes_fetched - SIZE;
        assert!(came <= PIECE * asked.len() as u64 + 10_000, "{came} bytes came twice");
    }

    #[tokio::test]
    async fn disabled_ranges_use_one_request() {
        let mut scene = Scene::new(|_, _| Fate::Good);
        scene.parts.min_size = u64::MAX;
        scene.saves().await;
        assert_eq!(scene.asked(), [(0, None)]);
    }

    /// Interrupts the run when its image is done.
    struct Late(CancellationToken);

    impl Observer for Late {
        fn event(&self, event: &Event<'_>) {
            if matches!(event, Event::ImageFinished { .. }) {
                self.0.cancel();
            }
        }
    }

    #[tokio::test]
    async fn late_cancellation_is_ignored() {
        let (scene, cancel) = (Scene::new(|_, _| Fate::Good), CancellationToken::new());
        let report = scene.run_observed(&cancel, Arc::new(Late(cancel.clone()))).await;
        assert!(cancel.is_cancelled() && report.is_success(), "{report:?}");
    }
}
