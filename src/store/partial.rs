//! A blob on its way in: who writes it, what has arrived, and what a later run can go on with.

use super::publish::OpenWriter;
use super::{Inner, path, storage};
use crate::content::BlobWriter;
use crate::driver::Partial;
use crate::driver::resumable::Incoming;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How many committed blobs may wait to become visible before no further one is begun: each keeps a file open, which keeps
/// other processes from writing to it.
const MAX_COMMITTED: usize = 256;

/// Which blobs this process is writing, or has written and not yet made visible.
#[derive(Default)]
pub(super) struct Claims {
    held: Mutex<Held>,
    /// Told whenever a claim ends or its state changes.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Held {
    blobs: HashMap<Digest, State>,
    committed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    /// Verified, of this size, and queued to become visible.
    Committed(u64),
}

/// What came of asking for a claim.
pub(super) enum Asked {
    /// The asker has it.
    Granted(Claim),
    /// The blob is committed: whatever is queued from now on is ordered behind it.
    Committed,
    /// Another task writes it, or too much is queued.
    Busy,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ask(self: &Arc<Self>, digest: &Digest, size: u64) -> Asked {
        let mut held = self.lock();
        match held.blobs.get(digest) {
            Some(State::Committed(length)) if *length == size => Asked::Committed,
            Some(_) => Asked::Busy,
            None if held.committed >= MAX_COMMITTED => Asked::Busy,
            None => {
                held.blobs.insert(*digest, State::Writing);
                Asked::Granted(Claim { claims: self.clone(), digest: *digest })
            }
        }
    }

    /// The size of the blob, if it is committed and not visible yet.
    pub(super) fn committed(&self, digest: &Digest) -> Option<u64> {
        match self.lock().blobs.get(digest) {
            Some(State::Committed(size)) => Some(*size),
            _ => None,
        }
    }
}

/// The right to write one blob, until it is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    digest: Digest,
}

impl Claim {
    fn commit(&self, size: u64) {
        let mut held = self.claims.lock();
        held.blobs.insert(self.digest, State::Committed(size));
        held.committed += 1;
        drop(held);
        self.claims.changed.notify_waiters();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        if let Some(State::Committed(_)) = held.blobs.remove(&self.digest) {
            held.committed -= 1;
        }
        drop(held);
        self.claims.changed.notify_waiters();
    }
}

/// A verified blob that waits for the publisher.
pub(super) struct Committed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Dropped only when the blob has its final name: until then no other process may write to the file.
    pub(super) file: Box<dyn Partial>,
    pub(super) claim: Claim,
}

/// Takes one blob's bytes into a file beside the tree.
pub struct Writer {
    inner: Arc<Inner>,
    digest: Digest,
    size: u64,
    open: Option<Open>,
}

/// What a writer gives up when it ends.
struct Open {
    incoming: Incoming,
    claim: Claim,
    writer: OpenWriter,
}

impl Writer {
    pub(super) fn new(
        inner: Arc<Inner>,
        claim: Claim,
        file: Box<dyn Partial>,
        writer: OpenWriter,
        size: u64,
    ) -> Self {
        let (digest, incoming) = (claim.digest, Incoming::found(file, size));
        Self { inner, digest, size, open: Some(Open { incoming, claim, writer }) }
    }

    fn incoming(&self) -> Result<&Incoming> {
        // Only `commit` and `discard` take it, and these consume the writer.
        self.open.as_ref().map(|open| &open.incoming).ok_or_else(|| self.corrupt("the writer has ended"))
    }

    fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, format!("blob {}", self.digest), why).on(Side::Sink)
    }

    fn failed(&self, doing: &str, cause: std::io::Error) -> Error {
        storage(&*self.inner.driver, &path::partial(&self.digest, self.size), doing, cause)
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
        incoming.finish().map_err(|error| self.failed("finish", error))?;
        let Some(Open { incoming, claim, writer }) = self.open.take() else {
            return Err(self.corrupt("the writer has ended"));
        };
        claim.commit(self.size);
        writer.commit(Committed { digest: self.digest, size: self.size, file: incoming.into_file(), claim })
    }

    fn discard(mut self) -> Result<()> {
        let partial = path::partial(&self.digest, self.size);
        // The name goes while the file is still locked, so that nobody goes on with it.
        let removed = self.inner.driver.remove(&partial);
        drop(self.open.take());
        removed.map_err(|error| storage(&*self.inner.driver, &partial, "remove", error))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(open) = &self.open else { return };
        if !open.incoming.leave() {
            // Nothing to go on with. If it can't be removed, the next one to want the blob finds it empty.
            let _ = self.inner.driver.remove(&path::partial(&self.digest, self.size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_exclusive_until_committed() {
        let claims = Arc::new(Claims::default());
        let digest = Digest::of(b"x");
        let Asked::Granted(claim) = claims.ask(&digest, 1) else { panic!("not granted") };
        assert!(matches!(claims.ask(&digest, 1), Asked::Busy));
        claim.commit(1);
        assert!(matches!(claims.ask(&digest, 1), Asked::Committed));
        assert!(matches!(claims.ask(&digest, 2), Asked::Busy));
        assert_eq!(claims.committed(&digest), Some(1));
        drop(claim);
        assert_eq!(claims.committed(&digest), None);
        assert!(matches!(claims.ask(&digest, 1), Asked::Granted(_)));
    }

    #[test]
    fn no_blob_is_begun_while_too_many_are_queued() {
        let claims = Arc::new(Claims::default());
        let mut queued = Vec::new();
        for number in 0..MAX_COMMITTED {
            let Asked::Granted(claim) = claims.ask(&Digest::of(&number.to_le_bytes()), 1) else {
                panic!("{number} not granted")
            };
            claim.commit(1);
            queued.push(claim);
        }
        assert!(matches!(claims.ask(&Digest::of(b"one more"), 1), Asked::Busy));
        queued.pop();
        assert!(matches!(claims.ask(&Digest::of(b"one more"), 1), Asked::Granted(_)));
    }
}
