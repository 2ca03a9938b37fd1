//! Downloads in progress: which blobs this process is writing, and the writer that resumes interrupted ones.

use super::publish::WriterGuard;
use super::{StoreInner, path, storage};
use crate::content::BlobWriter;
use crate::driver::Partial;
use crate::driver::resumable::ResumableFile;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// Maximum number of committed blobs that wait to be published before new ones have to wait. Each keeps a file open, and with it
/// the lock that keeps other processes away.
const MAX_COMMITTED: usize = 256;

/// The blobs that this process is writing, or has written but not published yet.
#[derive(Default)]
pub(super) struct BlobClaims {
    table: Mutex<ClaimTable>,
    /// Notified whenever a claim ends or changes its state.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct ClaimTable {
    blobs: HashMap<Digest, ClaimState>,
    committed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClaimState {
    Writing,
    /// Verified, of this size, and queued for publication.
    Committed(u64),
}

/// The result of asking for a claim.
pub(super) enum ClaimResult {
    /// The caller may write the blob.
    Granted(BlobClaim),
    /// The blob is committed. Images that are queued from now on are published after it.
    Committed,
    /// Another task is writing the blob, or too many blobs are queued.
    Busy,
}

impl BlobClaims {
    pub(super) fn claim(self: &Arc<Self>, digest: &Digest, size: u64) -> ClaimResult {
        let mut table = self.table.lock();
        match table.blobs.get(digest) {
            Some(ClaimState::Committed(length)) if *length == size => ClaimResult::Committed,
            Some(_) => ClaimResult::Busy,
            None if table.committed >= MAX_COMMITTED => ClaimResult::Busy,
            None => {
                table.blobs.insert(*digest, ClaimState::Writing);
                ClaimResult::Granted(BlobClaim { claims: self.clone(), digest: *digest })
            }
        }
    }

    /// The size of the blob, if it is committed but not published yet.
    pub(super) fn committed(&self, digest: &Digest) -> Option<u64> {
        match self.table.lock().blobs.get(digest) {
            Some(ClaimState::Committed(size)) => Some(*size),
            _ => None,
        }
    }
}

/// The exclusive right to write one blob, until it is dropped.
pub(super) struct BlobClaim {
    claims: Arc<BlobClaims>,
    digest: Digest,
}

impl BlobClaim {
    fn commit(&self, size: u64) {
        let mut table = self.claims.table.lock();
        table.blobs.insert(self.digest, ClaimState::Committed(size));
        table.committed += 1;
        drop(table);
        self.claims.changed.notify_waiters();
    }
}

impl Drop for BlobClaim {
    fn drop(&mut self) {
        let mut table = self.claims.table.lock();
        if let Some(ClaimState::Committed(_)) = table.blobs.remove(&self.digest) {
            table.committed -= 1;
        }
        drop(table);
        self.claims.changed.notify_waiters();
    }
}

/// A verified blob that is queued for publication.
pub(super) struct CommittedBlob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Kept open, and thus locked, until the blob is at its final path: no other process may write to the file before.
    pub(super) file: Box<dyn Partial>,
    pub(super) claim: BlobClaim,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_is_exclusive_until_committed() {
        let claims = Arc::new(BlobClaims::default());
        let digest = Digest::of(b"x");
        let ClaimResult::Granted(claim) = claims.claim(&digest, 1) else { panic!("not granted") };
        assert!(matches!(claims.claim(&digest, 1), ClaimResult::Busy));
        claim.commit(1);
        assert!(matches!(claims.claim(&digest, 1), ClaimResult::Committed));
        assert!(matches!(claims.claim(&digest, 2), ClaimResult::Busy));
        assert_eq!(claims.committed(&digest), Some(1));
        drop(claim);
        assert_eq!(claims.committed(&digest), None);
        assert!(matches!(claims.claim(&digest, 1), ClaimResult::Granted(_)));
    }

    #[test]
    fn claim_is_refused_while_too_many_blobs_are_queued() {
        let claims = Arc::new(BlobClaims::default());
        let mut queued = Vec::new();
        for number in 0..MAX_COMMITTED {
            let ClaimResult::Granted(claim) = claims.claim(&Digest::of(&number.to_le_bytes()), 1) else {
                panic!("{number} not granted")
            };
            claim.commit(1);
            queued.push(claim);
        }
        assert!(matches!(claims.claim(&Digest::of(b"one more"), 1), ClaimResult::Busy));
        queued.pop();
        assert!(matches!(claims.claim(&Digest::of(b"one more"), 1), ClaimResult::Granted(_)));
    }
}
