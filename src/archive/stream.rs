//! The one writer of tar files: a stream, with nothing in its headers that could differ between two runs.

use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Digest, Digester};
use std::io::{self, Read, Write};
use tar::{Builder, EntryType, Header};

/// Every member's mode; they belong to user and group 0 and to 1970.
const MODE: u32 = 0o644;

/// A tar file being written.
pub(super) struct TarStream<W: Write> {
    tar: Builder<W>,
    name: String,
}

impl<W: Write> TarStream<W> {
    /// Begins one that messages call `name`.
    pub(super) fn new(out: W, name: &str) -> Self {
        Self { tar: Builder::new(out), name: name.to_owned() }
    }

    /// Adds a member whose content is at hand.
    ///
    /// # Errors
    /// `Storage` when it can't be written.
    pub(super) fn document(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.member(path, content.len() as u64, content)
    }

    /// Adds a member of `size` bytes that hash to `digest`.
    ///
    /// # Errors
    /// `Corrupt` when `content` has other bytes; then the file is of no use. `Storage` when they can't be read or written.
    pub(super) fn content(
        &mut self,
        path: &str,
        size: u64,
        digest: &Digest,
        content: impl Read,
    ) -> Result<()> {
        let verified = Verified { content, left: size, digester: Digester::new(), expect: *digest };
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

    /// Ends the file.
    ///
    /// # Errors
    /// `Storage` when it can't be written.
    pub(super) fn finish(self) -> Result<W> {
        let Self { tar, name } = self;
        let mut out = tar.into_inner().map_err(|cause| failed(&name, cause))?;
        out.flush().map_err(|cause| failed(&name, cause))?;
        Ok(out)
    }
}

/// A failure of either side: a reader's own error comes through as it is.
fn failed(name: &str, cause: io::Error) -> Error {
    let own = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    own.unwrap_or_else(|| Error::storage(name, "write", cause))
}

/// Gives out content only as long as it is what it should be.
struct Verified<R> {
    content: R,
    left: u64,
    digester: Digester,
    expect: Digest,
}

impl<R: Read> Verified<R> {
    fn wrong(&self, why: impl Into<String>) -> io::Error {
        io::Error::other(Error::new(ErrorKind::Corrupt, self.expect, why).on(Side::Source))
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.content.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => return Err(error),
            Err(error) => return Err(self.wrong(format!("it cannot be read: {error}"))),
            Ok(count) => count,
        };
        self.digester.update(&buffer[..count]);
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(self.wrong("it has become longer while it was written")),
        }
        if count == 0 && !buffer.is_empty() {
            if self.left > 0 {
                return Err(self.wrong(format!("it ends {} bytes too soon", self.left)));
            }
            let found = std::mem::take(&mut self.digester).finish();
            if found != self.expect {
                return Err(self.wrong(format!("its bytes hash to {found}")));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(size: u64, digest: Digest, content: &[u8]) -> Result<Vec<u8>> {
        let mut tar = TarStream::new(Vec::new(), "out.tar");
        tar.document("index.json", b"{}")?;
        tar.content("blobs/x", size, &digest, content)?;
        tar.finish()
    }

    #[test]
    fn the_same_members_are_the_same_bytes() {
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
    fn content_that_is_not_what_it_should_be_is_an_error() {
        for (size, content) in [(4, b"abc".as_slice()), (2, b"abc"), (3, b"abd")] {
            let error = write(size, Digest::of(b"abc"), content).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}
