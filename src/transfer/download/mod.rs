//! A large blob on its way into its writer: over one stream, or in parts over several at once.
//!
//! One stream begins with all that is lacking. While slots lie idle and it has long to go, other streams take over
//! parts from its end; each writes where its bytes belong, and the hash follows the front. A part that fails lies
//! idle until another stream takes it; as long as others bring bytes that costs nothing more. Only a failure with nobody else at work
//! counts against the tries that the retry policy allows.

pub(super) mod concurrency;
mod ranges;
mod recovery;
mod stream;

use crate::content::retry::Attempts;
use crate::content::{BlobWriter, Sink, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Reference};
use crate::transfer::Engine;
use crate::transfer::blob::{PROGRESS, Shown};
use crate::transfer::stats::Tally;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use ranges::{PartId, Parts};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stream::{Ended, Receiving};
use tokio::sync::SemaphorePermit;
use tokio::time::MissedTickBehavior;

/// How long a stream should be busy with its part: long against a round trip, short against what others wait for its slot.
const PART_SECONDS: f64 = 4.0;
/// Streams that bring so many bytes a second are left as they are: one alone keeps the hash busy, which can only take the
/// front; several would share the same processors and leave the front behind.
const FAST: f64 = 200e6;
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
        let shown = Shown::start(self, from.reference, blob, blob.size - lacking);
        let writer = Arc::new(writer);
        let followed = self.hasher.follow(writer.clone(), blob.size);
        followed.advance(front).await;
        let slot = tally.lane.requests.acquire().await.ok();
        let receiving = Receiving {
            engine: self,
            from,
            writer: &*writer,
            followed: &followed,
            tally,
            parts: Mutex::new(parts),
            came: AtomicU64::new(0),
            beginning: AtomicU64::new(0),
            spread_out: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            whole: AtomicBool::new(false),
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
    /// Until every byte is written.
    async fn run(&self, mut slot: Option<SemaphorePermit<'a>>, alone: bool) -> Result<()> {
        let policy = &self.engine.options.parts;
        let mut in_parts = !alone && self.parts().missing() / 2 >= policy.least;
        let mut look = tokio::time::interval(policy.look.max(Duration::from_millis(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempts = Attempts::new(&self.engine.options.retry);
        let mut streams = Streams::new();
        let mut came = 0;
        // How much had come when a stream last failed with nobody else at work.
        let mut failed_at = None;
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
                    // A source that answers, and never with what was asked for, may have the whole; one that is away
                    // comes back. When the whole fails too, what is lacking is asked for again.
                    let is_stuck = failed_at.replace(now) == Some(now);
                    let answers = self.answered.swap(false, Ordering::Relaxed);
                    let was_whole = self.whole.load(Ordering::Relaxed);
                    let whole = is_stuck && answers && !was_whole && self.spread_out.load(Ordering::Relaxed);
                    self.whole.store(whole, Ordering::Relaxed);
                    self.engine.again(&mut attempts, self.tally, &self.from.blob.digest, error).await?;
                }
                Err(error) => {
                    tracing::debug!(digest = %self.from.blob.digest, %error, "a part failed; the others go on");
                    in_parts &= error.kind().is_retryable();
                    self.tally.lane.back_off(Instant::now());
                    // The stream that had it before has it still, unless it has been left by now.
                    self.parts().give_back();
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
            let rate = self.stream_rate(now);
            if rate >= FAST {
                return;
            }
            let length = self.part_length(rate);
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
            self.spread_out.store(true, Ordering::Relaxed);
            streams.push(self.stream(id, span, Some(slot)));
        }
    }

    /// Bytes that a stream brings in a second, on average.
    fn stream_rate(&self, now: Instant) -> f64 {
        let parts = self.parts();
        parts.rate(now) / parts.streams().max(1) as f64
    }

    /// About how many bytes a part should have, where a stream brings `rate` a second.
    fn part_length(&self, rate: f64) -> u64 {
        let least = PART.start.max(self.engine.options.parts.least);
        ((rate * PART_SECONDS) as u64).clamp(least, PART.end.max(least))
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::memory::Memory;
    use crate::content::retry::RetryPolicy;
    use crate::content::{BlobStream, Place, Resolved, Target};
    use crate::oci::{RawManifest, Repository, Tag};
    use crate::transfer::{Event, Image, Observer, PartPolicy, Report, Silent, TransferOptions};
    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    const SIZE: u64 = 1 << 20;
    const PIECE: u64 = 4 << 10;

    /// What becomes of a request for the blob, by its number and its first byte.
    type Conduct = fn(usize, u64) -> Fate;

    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Good,
        /// It fails after so many bytes.
        Cut(u64),
        /// The whole comes, whatever was asked for.
        Whole,
        /// The first byte is wrong.
        Wrong,
        /// Bytes from a little further on are sent.
        Elsewhere,
        /// Nothing comes for a while.
        Slow,
        Refused(ErrorKind),
    }

    /// A source whose every stream is slow, so that several of them bring more.
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
                let mut asked = self.asked.lock().unwrap();
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
        parts: PartPolicy,
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
            let parts = PartPolicy {
                least: 16 << 10,
                worth: Duration::from_millis(20),
                look: Duration::from_millis(10),
                ..PartPolicy::default()
            };
            Self { source, sink: Memory::new(), layer, parts, retries: 2 }
        }

        async fn run_until(&self, cancel: &CancellationToken) -> Report {
            self.run_observed(cancel, Arc::new(Silent)).await
        }

        async fn run_observed(&self, cancel: &CancellationToken, observer: Arc<dyn Observer>) -> Report {
            let retry =
                RetryPolicy { first_delay: Duration::ZERO, retries: self.retries, ..RetryPolicy::default() };
            let options = TransferOptions { retry, parts: self.parts.clone(), ..TransferOptions::default() };
            let engine = Engine::new(Arc::new(self.sink.clone()), options, observer).unwrap();
            let image = Image {
                source: self.source.clone(),
                reference: Reference::parse("r.io/a/b:v1").unwrap(),
                platforms: None,
                place: Place { repository: "x".parse().unwrap(), tag: Some("v1".parse().unwrap()) },
                alias: None,
                resolved: None,
                warnings: Vec::new(),
            };
            Arc::new(engine).run(vec![image], cancel).await
        }

        async fn saves(&self) -> Report {
            let report = self.run_until(&CancellationToken::new()).await;
            assert!(report.is_success(), "{:?}, asked {:?}", report.images[0].error, self.asked());
            let there = self.sink.contents().blobs;
            assert!(there[&Digest::of(&self.layer)] == self.layer, "wrong bytes were committed");
            report
        }

        fn asked(&self) -> Vec<(u64, Option<u64>)> {
            self.source.asked.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn a_slow_blob_comes_in_parts_and_no_byte_twice() {
        let scene = Scene::new(|_, _| Fate::Good);
        let report = scene.saves().await;
        assert!(scene.asked().len() >= 4, "{:?}", scene.asked());
        // What streams had in hand when others took over is all that may come in vain.
        let vain = report.bytes_fetched - SIZE;
        assert!(vain <= PIECE * scene.asked().len() as u64 + 10_000, "{vain} bytes came in vain");
    }

    #[tokio::test]
    async fn whatever_becomes_of_parts_the_blob_is_right() {
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
    async fn a_part_of_wrong_bytes_is_found_out_and_all_comes_in_one_stream() {
        let scene = Scene::new(|number, _| if number == 3 { Fate::Wrong } else { Fate::Good });
        scene.saves().await;
        let asked = scene.asked();
        assert_eq!(asked.last(), Some(&(0, None)), "{asked:?}");
        assert_eq!(asked.iter().filter(|(from, _)| *from == 0).count(), 2, "{asked:?}");
    }

    #[tokio::test]
    async fn a_source_that_is_away_for_a_while_costs_no_byte_twice() {
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
    async fn a_source_that_fails_for_good_is_given_up() {
        let scene = Scene::new(|number, _| if number > 3 { Fate::Cut(0) } else { Fate::Cut(20 * PIECE) });
        let report = scene.run_until(&CancellationToken::new()).await;
        let error = report.images[0].error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
    }

    #[tokio::test]
    async fn what_parts_have_brought_is_gone_on_with() {
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
    async fn no_parts_where_none_are_wanted() {
        let mut scene = Scene::new(|_, _| Fate::Good);
        scene.parts.least = u64::MAX;
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
    async fn an_interruption_that_comes_too_late_ends_nothing() {
        let (scene, cancel) = (Scene::new(|_, _| Fate::Good), CancellationToken::new());
        let report = scene.run_observed(&cancel, Arc::new(Late(cancel.clone()))).await;
        assert!(cancel.is_cancelled() && report.is_success(), "{report:?}");
    }
}
