//! Response bodies: empty, a document in memory, or a range of a blob's file.

use super::recorder::RequestRecorder;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// The largest read from a file. Larger ones gain nothing and no longer fit the processor's cache.
const MAX_CHUNK: usize = 256 << 10;
/// The smallest read, however many clients there are.
const MIN_CHUNK: usize = 16 << 10;
/// The memory for chunks. When it is used up, further chunks have the smallest size.
const CHUNK_MEMORY: usize = 32 << 20;

/// The bytes in memory that were read from files and not sent yet.
#[derive(Clone, Default)]
pub(super) struct ChunkMemory(Arc<AtomicUsize>);

impl ChunkMemory {
    /// The size of the next chunk: a fraction of the free memory, so that many slow clients share it.
    fn next_size(&self) -> usize {
        let free = CHUNK_MEMORY.saturating_sub(self.0.load(Ordering::Relaxed));
        (free / 16).clamp(MIN_CHUNK, MAX_CHUNK)
    }
}

/// A chunk that counts as used memory until it was sent, or its client has gone.
struct Chunk {
    bytes: Vec<u8>,
    memory: ChunkMemory,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// A response body.
pub(super) struct Body {
    content: Content,
    recorder: Option<Box<RequestRecorder>>,
}

enum Content {
    Empty,
    Document(Bytes),
    File(FileRange),
}

/// A range of a file, read as the client receives it.
struct FileRange {
    file: Arc<File>,
    offset: u64,
    left: u64,
    memory: ChunkMemory,
    /// The read that is under way on another thread.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self { content: Content::Empty, recorder: None }
    }

    pub(super) fn document(bytes: Bytes) -> Self {
        Self { content: Content::Document(bytes), recorder: None }
    }

    /// `length` bytes of `file` from `offset`.
    pub(super) fn file_range(file: File, offset: u64, length: u64, memory: &ChunkMemory) -> Self {
        if length > MAX_CHUNK as u64 {
            // Doubles the read-ahead. It is advice, so a failure does no harm.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        }
        let memory = memory.clone();
        let range = FileRange { file: Arc::new(file), offset, left: length, memory, reading: None };
        Self { content: Content::File(range), recorder: None }
    }

    /// Attaches a recorder, which records the request when the body is dropped.
    pub(super) fn recorded_by(mut self, recorder: RequestRecorder) -> Self {
        self.recorder = Some(Box::new(recorder));
        self
    }

    fn left(&self) -> u64 {
        match &self.content {
            Content::Empty => 0,
            Content::Document(bytes) => bytes.len() as u64,
            Content::File(range) => range.left,
        }
    }
}

impl FileRange {
    /// The next chunk. It is read at once if it is in the page cache, which takes less time than handing the read to another
    /// thread. A read that would wait for a disk or a file server runs on a blocking thread.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let bytes = loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                break read.unwrap_or_else(|error| Err(io::Error::other(error)));
            }
            let size = self.left.min(self.memory.next_size() as u64) as usize;
            if is_cached(&self.file, self.offset + size as u64 - 1) {
                break read(&self.file, self.offset, size);
            }
            let file = self.file.clone();
            let offset = self.offset;
            self.reading = Some(tokio::task::spawn_blocking(move || read(&file, offset, size)));
        };
        Poll::Ready(bytes.map(|bytes| {
            self.offset += bytes.len() as u64;
            self.left -= bytes.len() as u64;
            self.memory.0.fetch_add(bytes.len(), Ordering::Relaxed);
            Bytes::from_owner(Chunk { bytes, memory: self.memory.clone() })
        }))
    }
}

/// Whether the byte at `offset` is in the page cache. Files are read in order, so what comes before it is there too.
fn is_cached(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    read == Ok(1)
}

/// Reads `size` bytes.
fn read(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => {
                // The response header has promised the length, so all that is left is to close the connection.
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than before"));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have returned more capacity than requested.
    bytes.truncate(size);
    Ok(bytes)
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let chunk = match &mut this.content {
            Content::Empty => return Poll::Ready(None),
            Content::Document(bytes) => Ok(std::mem::take(bytes)),
            Content::File(range) => ready!(range.poll_chunk(context)),
        };
        if this.left() == 0 {
            this.content = Content::Empty;
        }
        match &chunk {
            Ok(bytes) => {
                if let Some(recorder) = &mut this.recorder {
                    recorder.add_bytes(bytes.len());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read a blob to its end");
                this.content = Content::Empty;
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
    async fn file_range_is_complete_and_in_order() {
        let content: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        let memory = ChunkMemory::default();
        for (offset, length) in [(0, content.len()), (0, 1), (999_999, 4), (10, 600_000)] {
            let body = Body::file_range(file_of(&content), offset as u64, length as u64, &memory);
            let read = body.collect().await.unwrap().to_bytes();
            assert!(read == content[offset..offset + length], "{offset} {length}");
            drop(read);
            assert_eq!(memory.0.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn read_past_end_of_file_is_an_error() {
        let file = file_of(b"0123456789");
        assert_eq!(read(&file, 2, 4).unwrap(), b"2345");
        assert_eq!(read(&file, 8, 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(!is_cached(&file, 10));
    }

    #[tokio::test]
    async fn short_file_is_an_error() {
        let body = Body::file_range(file_of(b"abc"), 0, 10, &ChunkMemory::default());
        assert_eq!(body.collect().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn many_slow_clients_use_little_memory() {
        let content = file_of(&vec![7; 1 << 20]);
        let memory = ChunkMemory::default();
        let mut stalled = Vec::new();
        for _ in 0..1000 {
            let mut body = Body::file_range(content.try_clone().unwrap(), 0, 1 << 20, &memory);
            let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
            stalled.push((body, chunk));
        }
        assert_eq!(stalled[0].1.len(), MAX_CHUNK);
        assert_eq!(stalled[999].1.len(), MIN_CHUNK);
        let held: usize = stalled.iter().map(|(_, chunk)| chunk.len()).sum();
        assert_eq!(held, memory.0.load(Ordering::Relaxed));
        assert!(held < CHUNK_MEMORY + 1000 * MIN_CHUNK, "{held}");
        drop(stalled);
        assert_eq!((memory.0.load(Ordering::Relaxed), memory.next_size()), (0, MAX_CHUNK));
    }
}
