//! Writes one blob, and resumes what an interrupted run has left of it.

use super::claims::{BlobClaim, CommittedBlob};
use super::publish::WriterGuard;
use super::{StoreInner, path, storage};
use crate::content::BlobWriter;
use crate::driver::resumable::ResumableFile;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use std::ops::Range;
use std::sync::Arc;

/// Writes one blob to a file outside the tree.
pub struct StoreWriter {
    inner: Arc<StoreInner>,
    digest: Digest,
    size: u64,
    open: Option<OpenBlob>,
}

/// What a writer releases when it ends.
struct OpenBlob {
    file: ResumableFile,
    claim: BlobClaim,
    guard: WriterGuard,
}

impl StoreWriter {
    pub(super) fn new(
        inner: Arc<StoreInner>,
        claim: BlobClaim,
        file: ResumableFile,
        guard: WriterGuard,
        size: u64,
    ) -> Self {
        let digest = claim.digest;
        Self { inner, digest, size, open: Some(OpenBlob { file, claim, guard }) }
    }

    fn file(&self) -> Result<&ResumableFile> {
        // Only `commit` and `discard` take it, and both consume the writer.
        self.open.as_ref().map(|open| &open.file).ok_or_else(|| self.corrupt("the writer has ended"))
    }

    fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, format!("blob {}", self.digest), why).on(Side::Sink)
    }

    fn failed(&self, doing: &str, cause: std::io::Error) -> Error {
        storage(&*self.inner.driver, &path::partial(&self.digest, self.size), doing, cause)
    }
}

impl BlobWriter for StoreWriter {
    fn received(&self) -> u64 {
        self.file().map_or(0, ResumableFile::received)
    }

    fn extents(&self) -> Vec<Range<u64>> {
        self.file().map(|file| file.received_beyond().to_vec()).unwrap_or_default()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file()?;
        if let Some(why) = file.out_of_bounds(offset, bytes.len()) {
            return Err(self.corrupt(why));
        }
        file.write_at(offset, bytes).map_err(|error| self.failed("write", error))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file()?.read_at(offset, buffer).map_err(|error| self.failed("read back", error))
    }

    fn commit(mut self, digest: &Digest) -> Result<()> {
        if *digest != self.digest {
            return Err(self.corrupt(format!("committed as {digest}")));
        }
        let file = self.file()?;
        if let Some(front) = file.incomplete() {
            return Err(self.corrupt(format!("committed with {front} of its {} bytes", self.size)));
        }
        file.finish().map_err(|error| self.failed("finish", error))?;
        let Some(OpenBlob { file, claim, guard }) = self.open.take() else {
            return Err(self.corrupt("the writer has ended"));
        };
        claim.commit(self.size);
        guard.commit(CommittedBlob { digest: self.digest, size: self.size, file: file.into_file(), claim })
    }

    fn discard(mut self) -> Result<()> {
        let partial = path::partial(&self.digest, self.size);
        // Remove the name while the file is locked, so that no other writer resumes it.
        let removed = self.inner.driver.remove(&partial);
        drop(self.open.take());
        removed.map_err(|error| storage(&*self.inner.driver, &partial, "remove", error))
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        let Some(open) = &self.open else { return };
        if !open.file.save() {
            // Nothing to resume. If the file can't be removed, the next writer finds it empty.
            let _ = self.inner.driver.remove(&path::partial(&self.digest, self.size));
        }
    }
}
