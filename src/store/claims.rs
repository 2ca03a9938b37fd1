//! Which blobs this process is writing, or has written and not published yet.

use crate::driver::Partial;
use crate::oci::Digest;
use parking_lot::Mutex;
use std::collections::HashMap;
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
    pub(super) digest: Digest,
}

impl BlobClaim {
    pub(super) fn commit(&self, size: u64) {
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
