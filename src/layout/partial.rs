//! Blobs that are being written to a layout.

use super::{Inner, PARTIAL, storage};
use crate::content::BlobWriter;
use crate::driver::Partial;
use crate::driver::resumable::ResumableFile;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// The number of committed blobs at which they are renamed into place before another is started: each keeps a file
/// open.
const MAX_COMMITTED: usize = 64;

/// The blobs that this process is writing, or has written but not yet renamed into place.
#[derive(Default)]
pub(super) struct LayoutClaims {
    state: Mutex<ClaimState>,
    /// Notified whenever a writer ends.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct ClaimState {
    writing: HashSet<Digest>,
    committed: HashMap<Digest, CommittedFile>,
}

/// A verified blob that has not been renamed into place yet.
struct CommittedFile {
    size: u64,
    /// Kept open, and thereby locked, so that no other process writes to it.
    _file: Box<dyn Partial>,
}

impl LayoutClaims {
    fn lock(&self) -> MutexGuard<'_, ClaimState> {
        self.state.lock()
    }

    /// Claims `digest` for writing, unless another writer of this process has claimed it.
    pub(super) fn claim(self: &Arc<Self>, digest: &Digest) -> Option<LayoutClaim> {
        self.lock().writing.insert(*digest).then(|| LayoutClaim { claims: self.clone(), digest: *digest })
    }

    /// Whether the blob has been committed and not yet renamed.
    pub(super) fn is_committed(&self, digest: &Digest, size: u64) -> bool {
        self.lock().committed.get(digest).is_some_and(|committed| committed.size == size)
    }

    /// Whether enough blobs are committed to rename them.
    pub(super) fn is_full(&self) -> bool {
        self.lock().committed.len() >= MAX_COMMITTED
    }

    /// Whether any blob is committed and not yet renamed.
    pub(super) fn any_committed(&self) -> bool {
        !self.lock().committed.is_empty()
    }

    /// The committed blobs and their announced sizes.
    pub(super) fn committed(&self) -> Vec<(Digest, u64)> {
        self.lock().committed.iter().map(|(digest, committed)| (*digest, committed.size)).collect()
    }

    /// Removes a blob from the committed ones, once it has been renamed or failed to be.
    pub(super) fn release(&self, digest: &Digest) {
        // Closes the file after the mutex is released.
        let released = self.lock().committed.remove(digest);
        drop(released);
        self.changed.notify_waiters();
    }
}

/// The exclusive right, within this process, to write one blob; released on drop.
pub(super) struct LayoutClaim {
    claims: Arc<LayoutClaims>,
    digest: Digest,
}

impl Drop for LayoutClaim {
    fn drop(&mut self) {
        self.claims.lock().writing.remove(&self.digest);
        self.claims.changed.notify_waiters();
    }
}

/// The path of the partial file of `digest`. The announced size is part of the name, so that a descriptor with a
/// wrong size does not affect the others.
pub(super) fn path(digest: &Digest, size: u64) -> String {
    format!("{PARTIAL}/{}.{size}", digest.hex())
}

/// Writes one blob to a partial file.
pub struct LayoutBlobWriter {
    inner: Arc<Inner>,
    size: u64,
    digest: Digest,
    /// Dropped when the writer ends, the file before the claim.
    open: Option<(ResumableFile, LayoutClaim)>,
}

impl LayoutBlobWriter {
    pub(super) fn new(inner: Arc<Inner>, claim: LayoutClaim, file: Box<dyn Partial>, size: u64) -> Self {
        let digest = claim.digest;
        let incoming = ResumableFile::resume(file, size);
        Self { inner, size, digest, open: Some((incoming, claim)) }
    }

    fn incoming(&self) -> Result<&ResumableFile> {
        // Only `commit` and `discard` take it, and they consume the writer.
        self.open.as_ref().map(|(incoming, _)| incoming).ok_or_else(|| self.corrupt("the writer is closed"))
    }

    fn corrupt(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, format!("blob {}", self.digest), message).on(Side::Sink)
    }

    fn failed(&self, operation: &str, cause: std::io::Error) -> Error {
        storage(&*self.inner.driver, &path(&self.digest, self.size), operation, cause)
    }
}

impl BlobWriter for LayoutBlobWriter {
    fn received(&self) -> u64 {
        self.incoming().map_or(0, ResumableFile::received)
    }

    fn extents(&self) -> Vec<Range<u64>> {
        self.incoming().map(|incoming| incoming.received_beyond().to_vec()).unwrap_or_default()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let incoming = self.incoming()?;
        if let Some(why) = incoming.out_of_bounds(offset, bytes.len()) {
            return Err(self.corrupt(why));
        }
        incoming.write_at(offset, bytes).map_err(|error| self.failed("write", error))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.incoming()?.read_at(offset, buffer).map_err(|error| self.failed("read back", error))
    }

    fn commit(mut self, digest: &Digest) -> Result<()> {
        if *digest != self.digest {
            return Err(self.corrupt(format!("committed as {digest}")));
        }
        let incoming = self.incoming()?;
        if let Some(received) = incoming.incomplete() {
            return Err(self.corrupt(format!("committed with {received} of {} bytes", self.size)));
        }
        incoming.finish().map_err(|error| self.failed("sync", error))?;
        let Some((incoming, claim)) = self.open.take() else { return Ok(()) };
        let committed = CommittedFile { size: self.size, _file: incoming.into_file() };
        self.inner.claims.lock().committed.insert(self.digest, committed);
        drop(claim);
        Ok(())
    }

    fn discard(mut self) -> Result<()> {
        let path = path(&self.digest, self.size);
        let removed = self.inner.driver.remove(&path).map_err(|error| self.failed("remove", error));
        self.open = None;
        removed
    }
}

impl Drop for LayoutBlobWriter {
    fn drop(&mut self) {
        let Some((incoming, claim)) = self.open.take() else { return };
        if !incoming.save() {
            // Nothing to resume.
            let _ = self.inner.driver.remove(&path(&self.digest, self.size));
        }
        drop(incoming);
        drop(claim);
    }
}
