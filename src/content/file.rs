//! Blobs that are part of a local file.

use super::BlobStream;
use crate::error::{Error, ErrorKind, Result, Side};
use bytes::Bytes;
use futures::StreamExt;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The number of bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// A blob of `length` bytes at `offset` in a file.
pub struct FileBlob {
    /// The file.
    pub file: File,
    /// Where the blob begins in the file.
    pub offset: u64,
    /// The blob's length in bytes.
    pub length: u64,
    /// The subject of errors.
    pub subject: String,
}

impl FileBlob {
    /// The blob's bytes from `from` up to `to` (to the end if `None`), as [`Source::blob`](super::Source::blob) returns them.
    /// Each chunk is read on demand and on the polling thread: from the page cache that takes less time than switching threads.
    #[must_use]
    pub fn stream(self, from: u64, to: Option<u64>) -> BlobStream {
        let end = to.unwrap_or(self.length).min(self.length);
        let start = from.min(end);
        // Doubles the kernel's read-ahead. It is only advice, so that failure is harmless.
        let _ = rustix::fs::fadvise(&self.file, self.offset, None, rustix::fs::Advice::Sequential);
        let chunks = futures::stream::unfold(Some(start), move |at| {
            let at = at.filter(|at| *at < end);
            let next = at.map(|at| match self.read(at, end) {
                Ok(chunk) => {
                    let next = at + chunk.len() as u64;
                    (Ok(chunk), Some(next))
                }
                Err(error) => (Err(error), None),
            });
            std::future::ready(next)
        });
        BlobStream { start, length: Some(end - start), chunks: chunks.boxed() }
    }

    fn read(&self, at: u64, end: u64) -> Result<Bytes> {
        // Bounded by CHUNK, so that it fits a usize.
        let mut chunk = vec![0; usize::try_from(CHUNK.min(end - at)).unwrap_or_default()];
        let read = self.file.read_exact_at(&mut chunk, self.offset + at);
        read.map(|()| Bytes::from(chunk)).map_err(|cause| {
            let kind = match cause.kind() {
                std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
                _ => ErrorKind::Storage,
            };
            Error::new(kind, &self.subject, format!("cannot read it: {cause}")).on(Side::Source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    async fn read(from: u64, to: Option<u64>, length: u64) -> Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..600_000_u32).map(|at| at as u8).collect();
        file.write_all(&content).unwrap();
        let blob = FileBlob { file, offset: 3, length, subject: "blob".into() };
        let stream = blob.stream(from, to);
        let length = stream.length.unwrap();
        let chunks: Vec<Result<Bytes>> = stream.chunks.collect().await;
        let bytes = chunks.into_iter().collect::<Result<Vec<_>>>()?.concat();
        assert_eq!(bytes.len() as u64, length);
        assert_eq!(bytes[..], content[3 + stream.start as usize..][..bytes.len()]);
        Ok(bytes)
    }

    #[tokio::test]
    async fn file_blob_ranges_are_read_correctly() {
        for (from, to, length) in
            [(0, None, 599_000), (5, None, 300_000), (5, Some(9), 100), (50, Some(400), 300), (0, None, 0)]
        {
            let expect = to.unwrap_or(length).min(length) - from;
            assert_eq!(read(from, to, length).await.unwrap().len() as u64, expect);
        }
        assert!(read(500, None, 300).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn truncated_file_is_corrupt() {
        assert_eq!(read(0, None, 700_000).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
