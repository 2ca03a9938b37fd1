//! Response bodies: nothing, a document in memory, or a part of a blob's file.

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// The most bytes read from a file at once: larger reads gain nothing and leave the processor's cache.
const LARGEST_CHUNK: usize = 256 << 10;
/// The fewest, however many clients there are.
const SMALLEST_CHUNK: usize = 16 << 10;
/// What all bodies together may hold in memory before every further chunk is one of the smallest.
const CHUNKS_IN_MEMORY: usize = 32 << 20;

/// How many bytes of chunks are in memory: those that their clients have not taken yet.
#[derive(Clone, Default)]
pub(super) struct HeldChunks(Arc<AtomicUsize>);

impl HeldChunks {
    /// The length of the next chunk: a part of what is left, so that many clients that take nothing
    /// share it and do not all hold a large one.
    fn next(&self) -> usize {
        let left = CHUNKS_IN_MEMORY.saturating_sub(self.0.load(Ordering::Relaxed));
        (left / 16).clamp(SMALLEST_CHUNK, LARGEST_CHUNK)
    }
}

/// A chunk that is counted until it is dropped, which is when the client has taken it or is gone.
struct Chunk {
    bytes: Vec<u8>,
    chunks: HeldChunks,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.chunks.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// A response's body.
pub(super) struct Body {
    content: Content,
    log: Option<Box<AccessLog>>,
}

enum Content {
    Nothing,
    Document(Bytes),
    Part(FilePart),
}

/// A part of a file, read as the client takes it.
struct FilePart {
    file: File,
    offset: u64,
    left: u64,
    chunks: HeldChunks,
}

impl Body {
    pub(super) fn nothing() -> Self {
        Self { content: Content::Nothing, log: None }
    }

    pub(super) fn document(bytes: Bytes) -> Self {
        Self { content: Content::Document(bytes), log: None }
    }

    /// `length` bytes of `file` from `offset`.
    pub(super) fn part(file: File, offset: u64, length: u64, chunks: &HeldChunks) -> Self {
        if length > LARGEST_CHUNK as u64 {
            // Doubles the kernel's read-ahead; only advice, so a refusal does no harm.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        }
        let part = FilePart { file, offset, left: length, chunks: chunks.clone() };
        Self { content: Content::Part(part), log: None }
    }

    /// The same body, that writes a line to the log when it is done.
    pub(super) fn logged(mut self, log: AccessLog) -> Self {
        self.log = Some(Box::new(log));
        self
    }

    fn left(&self) -> u64 {
        match &self.content {
            Content::Nothing => 0,
            Content::Document(bytes) => bytes.len() as u64,
            Content::Part(part) => part.left,
        }
    }
}

impl FilePart {
    /// The next chunk. The read is made here and not on another thread: in the page cache it takes less time than
    /// the hand-over, and the kernel reads ahead.
    fn read(&mut self) -> io::Result<Bytes> {
        let wanted = self.left.min(self.chunks.next() as u64) as usize;
        let mut chunk = Vec::with_capacity(wanted);
        while chunk.len() < wanted {
            let at = self.offset + chunk.len() as u64;
            let spare = rustix::buffer::spare_capacity(&mut chunk);
            match rustix::io::pread(&self.file, spare, at) {
                Ok(0) => {
                    // The length was promised in the header: ending the connection is all that is left to tell.
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // An allocator may hand out more than was asked for.
        chunk.truncate(wanted);
        self.offset += wanted as u64;
        self.left -= wanted as u64;
        self.chunks.0.fetch_add(wanted, Ordering::Relaxed);
        Ok(Bytes::from_owner(Chunk { bytes: chunk, chunks: self.chunks.clone() }))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let chunk = match &mut this.content {
            Content::Nothing => return Poll::Ready(None),
            Content::Document(bytes) => Ok(std::mem::take(bytes)),
            Content::Part(part) => part.read(),
        };
        if this.left() == 0 {
            this.content = Content::Nothing;
        }
        match &chunk {
            Ok(bytes) => {
                if let Some(log) = &mut this.log {
                    log.bytes += bytes.len() as u64;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a blob could not be read to its end");
                this.content = Content::Nothing;
            }
        }
        Poll::Ready(Some(chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// A line of the access log, written when its body is done or given up.
pub(super) struct AccessLog {
    pub(super) method: hyper::Method,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) since: Instant,
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        tracing::debug!(
            target: "saver::serve::access",
            method = %self.method,
            path = %self.path.escape_debug(),
            status = self.status,
            bytes = self.bytes,
            ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Write;

    fn file_of(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[tokio::test]
    async fn a_part_of_a_file_comes_whole_and_in_order() {
        let content: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        let chunks = HeldChunks::default();
        for (offset, length) in [(0, content.len()), (0, 1), (999_999, 4), (10, 600_000)] {
            let body = Body::part(file_of(&content), offset as u64, length as u64, &chunks);
            let got = body.collect().await.unwrap().to_bytes();
            assert!(got == content[offset..offset + length], "{offset} {length}");
            drop(got);
            assert_eq!(chunks.0.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_ends_in_an_error() {
        let body = Body::part(file_of(b"abc"), 0, 10, &HeldChunks::default());
        assert_eq!(body.collect().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn many_clients_that_take_nothing_hold_little() {
        let content = file_of(&vec![7; 1 << 20]);
        let chunks = HeldChunks::default();
        let mut stuck = Vec::new();
        for _ in 0..1000 {
            let mut body = Body::part(content.try_clone().unwrap(), 0, 1 << 20, &chunks);
            let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
            stuck.push((body, chunk));
        }
        assert_eq!(stuck[0].1.len(), LARGEST_CHUNK);
        assert_eq!(stuck[999].1.len(), SMALLEST_CHUNK);
        let held: usize = stuck.iter().map(|(_, chunk)| chunk.len()).sum();
        assert_eq!(held, chunks.0.load(Ordering::Relaxed));
        assert!(held < CHUNKS_IN_MEMORY + 1000 * SMALLEST_CHUNK, "{held}");
        drop(stuck);
        assert_eq!((chunks.0.load(Ordering::Relaxed), chunks.next()), (0, LARGEST_CHUNK));
    }
}
