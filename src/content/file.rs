//! A part of a local file as a blob's bytes: what sources on a disk answer with.

use super::BlobStream;
use crate::error::{Error, ErrorKind, Result, Side};
use bytes::Bytes;
use futures::StreamExt;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How many bytes are read at once.
const CHUNK: u64 = 256 << 10;

/// A blob that is a part of a file: `length` bytes from `offset` on.
pub struct FileBlob {
    /// The file.
    pub file: File,
    /// Where in the file the blob begins.
    pub offset: u64,
    /// The blob's length in bytes.
    pub length: u64,
    /// What a failure to read is told of.
    pub subject: String,
}

impl FileBlob {
    /// The blob's bytes from `from` up to but without `to` (to its end when `None`), as [`Source::blob`](super::Source::blob) answers them.
    /// Each chunk is read when it is asked for and on the thread that asks: from the page cache that takes less time than a
    /// hand-over.
    #[must_use]
    pub fn stream(self, from: u64, to: Option<u64>) -> BlobStream {
        let end = to.unwrap_or(self.length).min(self.length);
        let start = from.min(end);
        // Doubles the kernel's read-ahead; only advice, so a refusal does no harm.
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
        // Bounded by CHUNK, so it fits whatever a usize holds.
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
        let told = stream.length.unwrap();
        let chunks: Vec<Result<Bytes>> = stream.chunks.collect().await;
        let bytes = chunks.into_iter().collect::<Result<Vec<_>>>()?.concat();
        assert_eq!(bytes.len() as u64, told);
        assert_eq!(bytes[..], content[3 + stream.start as usize..][..bytes.len()]);
        Ok(bytes)
    }

    #[tokio::test]
    async fn parts_of_a_part() {
        for (from, to, length) in
            [(0, None, 599_000), (5, None, 300_000), (5, Some(9), 100), (50, Some(400), 300), (0, None, 0)]
        {
            let expect = to.unwrap_or(length).min(length) - from;
            assert_eq!(read(from, to, length).await.unwrap().len() as u64, expect);
        }
        assert!(read(500, None, 300).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_file_that_ends_too_soon_is_corrupt() {
        assert_eq!(read(0, None, 700_000).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
