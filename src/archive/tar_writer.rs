//! Writes archives of images: a stream whose headers contain nothing that differs between two runs.

use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Digest, Digester};
use std::io::{self, Read, Write};
use tar::{Builder, EntryType, Header};

/// The mode of every member; owner, group and modification time are 0.
const MODE: u32 = 0o644;

/// A tar file being written.
pub(super) struct TarWriter<W: Write> {
    tar: Builder<W>,
    name: String,
}

impl<W: Write> TarWriter<W> {
    /// Starts a tar file that messages call `name`.
    pub(super) fn new(out: W, name: &str) -> Self {
        Self { tar: Builder::new(out), name: name.to_owned() }
    }

    /// Adds a member with content held in memory.
    ///
    /// # Errors
    /// `Storage` if it cannot be written.
    pub(super) fn document(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.member(path, content.len() as u64, content)
    }

    /// Adds a member of `size` bytes that hash to `digest`.
    ///
    /// # Errors
    /// `Corrupt` if `content` has other bytes, which leaves the tar file unusable; `Storage` if it cannot be read
    /// or written.
    pub(super) fn content(
        &mut self,
        path: &str,
        size: u64,
        digest: &Digest,
        content: impl Read,
    ) -> Result<()> {
        let verified =
            VerifyingReader { content, remaining: size, digester: Digester::new(), expected: *digest };
        self.member(path, size, verified)
    }

    fn member(&mut self, path: &str, size: u64, content: impl Read) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_mode(MODE);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let added = self.tar.append_data(&mut header, path, content);
        added.map_err(|cause| failed(&self.name, cause))
    }

    /// Writes the end of the archive and flushes.
    ///
    /// # Errors
    /// `Storage` if it cannot be written.
    pub(super) fn finish(self) -> Result<W> {
        let Self { tar, name } = self;
        let mut out = tar.into_inner().map_err(|cause| failed(&name, cause))?;
        out.flush().map_err(|cause| failed(&name, cause))?;
        Ok(out)
    }
}

/// The error of a failed copy: an error that the reader raised is returned unchanged.
fn failed(name: &str, cause: io::Error) -> Error {
    let own = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    own.unwrap_or_else(|| Error::storage(name, "write", cause))
}

/// Passes content through and fails where its length or digest is not the expected one.
struct VerifyingReader<R> {
    content: R,
    remaining: u64,
    digester: Digester,
    expected: Digest,
}

impl<R: Read> VerifyingReader<R> {
    fn corrupt(&self, message: impl Into<String>) -> io::Error {
        io::Error::other(Error::new(ErrorKind::Corrupt, self.expected, message).on(Side::Source))
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.content.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => return Err(error),
            Err(error) => return Err(self.corrupt(format!("cannot read the content: {error}"))),
        };
        self.digester.update(&buffer[..count]);
        let Some(remaining) = self.remaining.checked_sub(count as u64) else {
            return Err(self.corrupt("the content grew while it was written"));
        };
        self.remaining = remaining;
        if count == 0 && !buffer.is_empty() {
            if self.remaining > 0 {
                return Err(self.corrupt(format!("the content ends {} bytes early", self.remaining)));
            }
            let actual = std::mem::take(&mut self.digester).finish();
            if actual != self.expected {
                return Err(self.corrupt(format!("the content's bytes hash to {actual}")));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(size: u64, digest: Digest, content: &[u8]) -> Result<Vec<u8>> {
        let mut tar = TarWriter::new(Vec::new(), "out.tar");
        tar.document("index.json", b"{}")?;
        tar.content("blobs/x", size, &digest, content)?;
        tar.finish()
    }

    #[test]
    fn tar_of_same_members_is_byte_identical() {
        let tar = write(3, Digest::of(b"abc"), b"abc").unwrap();
        assert_eq!(tar, write(3, Digest::of(b"abc"), b"abc").unwrap());
        let mut read = tar::Archive::new(&tar[..]);
        for entry in read.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        }
    }

    #[test]
    fn content_with_wrong_size_or_digest_is_corrupt() {
        for (size, content) in [(4, b"abc".as_slice()), (2, b"abc"), (3, b"abd")] {
            let error = write(size, Digest::of(b"abc"), content).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}
