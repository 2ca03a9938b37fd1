//! A blob on its way into a layout.

use super::{Inner, PARTIAL, storage};
use crate::content::BlobWriter;
use crate::driver::Partial;
use crate::driver::extents::Extents;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// With so many blobs waiting for their names, they get them before another is begun: each keeps a file open.
const ENOUGH_BLOBS: usize = 64;

/// Which blobs this process is writing, or has written and not yet made visible.
#[derive(Default)]
pub(super) struct Claims {
    held: Mutex<Held>,
    /// Told whenever a writer ends.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Held {
    writing: HashSet<Digest>,
    committed: HashMap<Digest, Committed>,
}

/// A verified blob that waits for its final name.
pub(super) struct Committed {
    pub(super) size: u64,
    /// Kept open until then, so that no other process writes to the file.
    _file: Box<dyn Partial>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the right to write `digest`, unless another writer of this process has it.
    pub(super) fn take(self: &Arc<Self>, digest: &Digest) -> Option<Claim> {
        self.lock().writing.insert(*digest).then(|| Claim { claims: self.clone(), digest: *digest })
    }

    /// Whether the blob is verified and waits for its final name.
    pub(super) fn has(&self, digest: &Digest, size: u64) -> bool {
        self.lock().committed.get(digest).is_some_and(|committed| committed.size == size)
    }

    /// Whether so many blobs wait that they should get their names.
    pub(super) fn are_many(&self) -> bool {
        self.lock().committed.len() >= ENOUGH_BLOBS
    }

    /// Whether any blob waits.
    pub(super) fn any(&self) -> bool {
        !self.lock().committed.is_empty()
    }

    /// The blobs that wait, with the sizes they were announced with.
    pub(super) fn committed(&self) -> Vec<(Digest, u64)> {
        self.lock().committed.iter().map(|(digest, committed)| (*digest, committed.size)).collect()
    }

    /// Forgets a blob that waited: it has its name, or failed to get it.
    pub(super) fn settle(&self, digest: &Digest) {
        let settled = self.lock().committed.remove(digest);
        drop(settled);
        self.changed.notify_waiters();
    }
}

/// The right to write one blob, until it is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    digest: Digest,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().writing.remove(&self.digest);
        self.claims.changed.notify_waiters();
    }
}

/// Where the blob `digest` is received. The announced size is part of the name, so that a lie about it harms no honest blob.
pub(super) fn path(digest: &Digest, size: u64) -> String {
    format!("{PARTIAL}/{}.{size}", digest.hex())
}

/// Takes one blob's bytes into a file beside the layout's own.
pub struct Writer {
    inner: Arc<Inner>,
    size: u64,
    received: u64,
    islands: Vec<Range<u64>>,
    extents: Mutex<Extents>,
    digest: Digest,
    /// What is given up when the writer ends: the file before the claim.
    open: Option<(Box<dyn Partial>, Claim)>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, claim: Claim, file: Box<dyn Partial>, size: u64) -> Self {
        let extents = Extents::found(&*file);
        let (received, islands) = (extents.front, extents.islands().collect());
        let (digest, extents) = (claim.digest, Mutex::new(extents));
        Self { inner, size, received, islands, extents, digest, open: Some((file, claim)) }
    }

    fn extents(&self) -> MutexGuard<'_, Extents> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> Result<&dyn Partial> {
        // Only `commit` and `discard` take it, and these consume the writer.
        self.open.as_ref().map(|(file, _)| &**file).ok_or_else(|| self.corrupt("the writer has ended"))
    }

    fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, format!("blob {}", self.digest), why).on(Side::Sink)
    }

    fn failed(&self, doing: &str, cause: std::io::Error) -> Error {
        storage(&*self.inner.driver, &path(&self.digest, self.size), doing, cause)
    }
}

impl BlobWriter for Writer {
    fn received(&self) -> u64 {
        self.received
    }

    fn islands(&self) -> Vec<Range<u64>> {
        self.islands.clone()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size);
        let Some(end) = end else {
            let length = bytes.len();
            let why = format!("{length} bytes at offset {offset} go beyond its {} bytes", self.size);
            return Err(self.corrupt(why));
        };
        self.file()?.write_at(offset, bytes).map_err(|error| self.failed("write", error))?;
        self.extents().insert(offset, end);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file()?.read_at(offset, buffer).map_err(|error| self.failed("read back", error))
    }

    fn commit(mut self, digest: &Digest) -> Result<()> {
        if *digest != self.digest {
            return Err(self.corrupt(format!("committed as {digest}")));
        }
        let front = self.extents().front;
        if front != self.size {
            return Err(self.corrupt(format!("committed with {front} of {} bytes", self.size)));
        }
        self.file()?.finish().map_err(|error| self.failed("write out", error))?;
        let Some((file, claim)) = self.open.take() else { return Ok(()) };
        let committed = Committed { size: self.size, _file: file };
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

impl Drop for Writer {
    fn drop(&mut self) {
        let Some((file, claim)) = self.open.take() else { return };
        let extents = self.extents.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !extents.leave(&*file) {
            // Nothing to go on with.
            let _ = self.inner.driver.remove(&path(&self.digest, self.size));
        }
        drop(file);
        drop(claim);
    }
}
