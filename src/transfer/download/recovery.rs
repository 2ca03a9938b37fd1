//! Recovery of a large blob that arrived damaged.
//!
//! A network path that flips one byte in some hundred megabytes damages every copy of a large layer, each at another place, so
//! that downloading it again as a whole never ends. The first copy is therefore kept and compared with further ones chunk by
//! chunk. Chunks that two copies agree on are taken as right, only the others are downloaded again, and the digest of the whole
//! decides. Nothing of this costs anything while downloads are intact.

use crate::content::retry::{Attempts, ThroughputCheck};
use crate::content::{BlobWriter, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest};
use crate::transfer::Engine;
use crate::transfer::blob::{BlobProgress, Origin, PROGRESS, check_length, too_slow, truncated};
use crate::transfer::event::Event;
use crate::transfer::source_copies::damage;
use crate::transfer::stats::ImageStats;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;

/// The least that a chunk has, in bytes.
const CHUNK: u64 = 1 << 20;
/// The most chunks that a blob is divided into: bounds memory.
const MAX_CHUNKS: u64 = 1 << 16;
/// How many copies of a chunk are compared before the blob is given up.
const MAX_COPIES: usize = 8;

/// What is known of one chunk of the file.
#[derive(Clone, Debug, PartialEq)]
enum Chunk {
    /// Only the first copy was seen.
    Single,
    /// Two copies were equal, and they are what the file has.
    Agreed,
    /// Copies differed. Their digests; the last is what the file has.
    Disputed(Vec<Digest>),
    /// Copies differed, and the last one, which the file has, is equal to another.
    Settled(Vec<Digest>),
}

impl Chunk {
    fn is_open(&self) -> bool {
        matches!(self, Self::Single | Self::Disputed(_))
    }

    /// Compares one more copy; answers whether the file is to have it.
    fn compare(&mut self, copy: &[u8], file: &[u8]) -> bool {
        match self {
            Self::Single if copy == file => {
                *self = Self::Agreed;
                false
            }
            Self::Single => {
                *self = Self::Disputed(vec![Digest::of(file), Digest::of(copy)]);
                true
            }
            Self::Disputed(copies) => {
                let digest = Digest::of(copy);
                let is_known = copies.contains(&digest);
                copies.push(digest);
                if is_known {
                    *self = Self::Settled(std::mem::take(copies));
                }
                copy != file
            }
            Self::Agreed | Self::Settled(_) => false,
        }
    }

    /// How many copies were received that are not what the file has.
    fn damaged(&self) -> usize {
        match self {
            Self::Single | Self::Agreed => 0,
            Self::Disputed(copies) | Self::Settled(copies) => {
                copies.iter().filter(|copy| Some(*copy) != copies.last()).count()
            }
        }
    }
}

struct Recovery<'a, K: Sink, S> {
    engine: &'a Engine<K>,
    from: &'a Origin<'a, S>,
    writer: Arc<K::Writer>,
    stats: &'a ImageStats,
    /// Bytes in a chunk; the last one may have fewer.
    length: u64,
    chunks: Vec<Chunk>,
    /// Bytes that were compared.
    compared: u64,
}

impl<K: Sink> Engine<K> {
    /// Downloads again what is wrong in a blob whose bytes are all there and hash to another digest; answers the digest that
    /// they have afterwards. That is not the blob's if the source sends the same wrong bytes every time.
    ///
    /// # Errors
    /// Those of the source, once retries are used up; `Storage`.
    pub(in crate::transfer) async fn recover<S: Source>(
        &self,
        from: &Origin<'_, S>,
        writer: K::Writer,
        stats: &ImageStats,
    ) -> Result<(K::Writer, Digest)> {
        let blob = from.blob;
        let shown = BlobProgress::start(self, from.reference, blob, 0);
        let length = CHUNK.max(blob.size.div_ceil(MAX_CHUNKS));
        let count = usize::try_from(blob.size.div_ceil(length)).unwrap_or_default();
        let mut recovery = Recovery {
            engine: self,
            from,
            writer: Arc::new(writer),
            stats,
            length,
            chunks: vec![Chunk::Single; count],
            compared: 0,
        };
        let mut digest = blob.digest;
        for _ in 1..MAX_COPIES {
            recovery.round().await?;
            digest = recovery.digest().await?;
            if digest == blob.digest || !recovery.chunks.iter().any(Chunk::is_open) {
                break;
            }
        }
        recovery.report(digest == blob.digest);
        shown.complete(digest == blob.digest);
        match Arc::try_unwrap(recovery.writer) {
            Ok(writer) => Ok((writer, digest)),
            Err(_) => Err(Error::new(ErrorKind::Storage, blob.digest, "the file is still being read")),
        }
    }
}

impl<K: Sink, S: Source> Recovery<'_, K, S> {
    /// Downloads every chunk once that is not agreed on, through failures of the source.
    async fn round(&mut self) -> Result<()> {
        let mut attempts = Attempts::new(&self.engine.options.retry);
        let mut next = 0;
        while let Some(run) = open_run(&self.chunks, next) {
            next = run.start;
            let slot = self.stats.lane.requests.acquire().await;
            let received = self.receive(&run, &mut next).await;
            drop(slot);
            if let Err(error) = received {
                if error.kind() == ErrorKind::Storage {
                    return Err(error);
                }
                if (next - run.start) as u64 * self.length >= PROGRESS {
                    attempts.progress();
                }
                self.engine.again(&mut attempts, self.stats, &self.from.blob.digest, error).await?;
            }
        }
        Ok(())
    }

    /// Compares the chunks `run` with what the source sends; `next` is the first that was not compared yet.
    async fn receive(&mut self, run: &Range<usize>, next: &mut usize) -> Result<()> {
        let Origin { source, reference, blob } = self.from;
        let (start, end) = (self.span(run.start).start, self.span(run.end - 1).end);
        let to = Some(end).filter(|end| *end < blob.size);
        let mut stream = source.blob(&reference.repository, blob, start, to).await?;
        if stream.start > start {
            let wrong = format!("requested bytes from {start}, received bytes from {}", stream.start);
            return Err(Error::new(ErrorKind::Unavailable, blob.digest, wrong).on(Side::Source));
        }
        // A source without ranges sends the blob from its start.
        let mut skip = start - stream.start;
        let mut at = start;
        let mut copy = BytesMut::new();
        let mut throughput = ThroughputCheck::new(&self.engine.options.retry);
        while let Some(bytes) = stream.chunks.next().await {
            let mut bytes = bytes?;
            self.stats.fetched(bytes.len() as u64);
            if throughput.is_too_slow(bytes.len() as u64) {
                return Err(too_slow(blob, at));
            }
            skip -= take(&mut bytes, skip).len() as u64;
            while !bytes.is_empty() {
                if *next == run.end {
                    check_length(blob, at, if end == blob.size { bytes.len() } else { 0 })?;
                    return Ok(());
                }
                let missing = self.span(*next).end - at;
                let piece = take(&mut bytes, missing);
                at += piece.len() as u64;
                copy.extend_from_slice(&piece);
                if at == self.span(*next).end {
                    self.compare(*next, copy.split().freeze()).await?;
                    *next += 1;
                }
            }
        }
        if *next < run.end { Err(truncated(blob, at)) } else { Ok(()) }
    }

    /// Compares a copy of chunk `index` with the file, and writes it there if it is to replace what the file has.
    async fn compare(&mut self, index: usize, copy: Bytes) -> Result<()> {
        let (writer, span, mut chunk) = (self.writer.clone(), self.span(index), self.chunks[index].clone());
        let bytes = copy.len() as u64;
        let compare = move || {
            let mut file = vec![0; copy.len()];
            let found = writer.read_at(span.start, &mut file)?;
            file.truncate(found);
            if chunk.compare(&copy, &file) {
                writer.write_at(span.start, &copy)?;
            }
            Ok::<_, Error>(chunk)
        };
        let digest = self.from.blob.digest;
        self.chunks[index] =
            tokio::task::spawn_blocking(compare).await.map_err(|_| Error::internal(digest))??;
        self.compared += bytes;
        self.engine.observer.event(&Event::BlobAdvanced { digest, bytes });
        Ok(())
    }

    /// The bytes of chunk `index`.
    fn span(&self, index: usize) -> Range<u64> {
        let start = index as u64 * self.length;
        start..(start + self.length).min(self.from.blob.size)
    }

    async fn digest(&self) -> Result<Digest> {
        self.engine.hasher.job(self.writer.clone(), self.from.blob.size).finish().await
    }

    /// Counts what arrived damaged, and warns of it if the blob was repaired.
    fn report(&self, is_repaired: bool) {
        let Descriptor { digest, size, .. } = self.from.blob;
        let damaged = self.chunks.iter().map(Chunk::damaged).sum::<usize>() as u64;
        self.stats.count_corrupt(damaged);
        if is_repaired {
            self.stats.warn(damage(*digest, damaged, self.length, size + self.compared));
        }
    }
}

/// The first chunks in a row, from `next` on, that are not agreed on.
fn open_run(chunks: &[Chunk], next: usize) -> Option<Range<usize>> {
    let start = next + chunks.get(next..)?.iter().position(Chunk::is_open)?;
    let length = chunks[start..].iter().take_while(|chunk| chunk.is_open()).count();
    Some(start..start + length)
}

/// Takes up to `count` bytes from the front of `bytes`.
fn take(bytes: &mut Bytes, count: u64) -> Bytes {
    bytes.split_to(usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `copies` of one chunk in turn, as long as it is open; what the file has in the end, and the chunk.
    fn run(first: &[u8], copies: &[&[u8]]) -> (Vec<u8>, Chunk) {
        let (mut file, mut chunk) = (first.to_vec(), Chunk::Single);
        for copy in copies {
            if chunk.is_open() && chunk.compare(copy, &file) {
                file = copy.to_vec();
            }
        }
        (file, chunk)
    }

    #[test]
    fn chunk_copies_that_agree_are_taken() {
        for (first, copies, expect, damaged, is_open) in [
            ("a", &["a"][..], "a", 0, false),
            ("x", &["a"], "a", 1, true),
            ("x", &["a", "a"], "a", 1, false),
            ("a", &["x", "a"], "a", 1, false),
            ("x", &["y", "z"], "z", 2, true),
            ("x", &["y", "a", "z", "a"], "a", 3, false),
            ("a", &["a", "x"], "a", 0, false),
        ] {
            let copies: Vec<&[u8]> = copies.iter().map(|copy| copy.as_bytes()).collect();
            let (file, chunk) = run(first.as_bytes(), &copies);
            assert_eq!(
                (file.as_slice(), chunk.damaged(), chunk.is_open()),
                (expect.as_bytes(), damaged, is_open),
                "{first} {copies:?}"
            );
        }
    }

    #[test]
    fn chunk_runs_cover_what_is_open() {
        let chunk = |open: char| if open == 'o' { Chunk::Single } else { Chunk::Agreed };
        for (chunks, next, expect) in [
            ("", 0, None),
            ("aaa", 0, None),
            ("ooo", 0, Some(0..3)),
            ("aooao", 0, Some(1..3)),
            ("aooao", 2, Some(2..3)),
            ("aooao", 3, Some(4..5)),
            ("aooao", 5, None),
        ] {
            let chunks: Vec<Chunk> = chunks.chars().map(chunk).collect();
            assert_eq!(open_run(&chunks, next), expect, "{chunks:?} from {next}");
        }
    }
}
