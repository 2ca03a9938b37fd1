//! A blob on its way into a layout.

use super::{Inner, PARTIAL, storage};
use crate::content::BlobWriter;
use crate::driver::Partial;
use crate::driver::resumable::Incoming;
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
    digest: Digest,
    /// What is given up when the writer ends: the file before the claim.
    open: Option<(Incoming, Claim)>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, claim: Claim, file: Box<dyn Partial>, size: u64) -> Self {
        let (digest, incoming) = (claim.digest, Incoming::found(file, size));
        Self { inner, size, digest, open: Some((incoming, claim)) }
    }

    fn incoming(&self) -> Result<&Incoming> {
        // Only `commit` and `discard` take it, and these consume the writer.
        self.open.as_ref().map(|(incoming, _)| incoming).ok_or_else(|| self.corrupt("the writer has ended"))
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
        self.incoming().map_or(0, Incoming::received)
    }

    fn islands(&self) -> Vec<Range<u64>> {
        self.incoming().map(|incoming| incoming.islands().to_vec()).unwrap_or_default()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let incoming = self.incoming()?;
        if let Some(why) = incoming.beyond(offset, bytes.len()) {
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
        if let Some(front) = incoming.lacking() {
            return Err(self.corrupt(format!("committed with {front} of its {} bytes", self.size)));
        }
        incoming.finish().map_err(|error| self.failed("write out", error))?;
        let Some((incoming, claim)) = self.open.take() else { return Ok(()) };
        let committed = Committed { size: self.size, _file: incoming.into_file() };
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
        let Some((incoming, claim)) = self.open.take() else { return };
        if !incoming.leave() {
            // Nothing to go on with.
            let _ = self.inner.driver.remove(&path(&self.digest, self.size));
        }
        drop(incoming);
        drop(claim);
    }
}
