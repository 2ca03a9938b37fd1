//! Hashes many blobs at once: several per thread in interleaved lanes, the largest first.

use super::{VerifyObserver, VerifyOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::oci::sha256::{self, Sha256State};
use crate::store::Store;
use crate::store::document::{ContentFault, hashes_to};
use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of bytes of a blob that are read and hashed at a time.
const PIECE: usize = 256 << 10;

/// Hashes `blobs` and returns those that do not match their digest.
///
/// # Errors
/// `Storage` if a blob can't be opened or a thread can't be started, `Cancelled`.
pub(super) fn check(
    store: &Store,
    mut blobs: Vec<(Digest, u64)>,
    options: &VerifyOptions,
    observer: &dyn VerifyObserver,
) -> Result<BTreeMap<Digest, ContentFault>> {
    // A large blob that comes last would be hashed alone, with all other lanes idle.
    blobs.sort_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
    observer.hashing(blobs.len(), blobs.iter().map(|(_, size)| size).sum());
    let threads = options.threads.clamp(1, blobs.len().max(1));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("verify-{n}"));
    let pool = pool.build().map_err(|error| {
        Error::new(ErrorKind::Storage, "hashing threads", format!("cannot start them: {error}"))
    })?;
    let work = HashWork {
        store,
        options,
        observer,
        blobs: &blobs,
        next: AtomicUsize::new(threads * sha256::lanes()),
        faults: Mutex::default(),
    };
    let ended = pool.broadcast(|context| work.run(context.index(), threads));
    ended.into_iter().collect::<Result<()>>()?;
    Ok(work.faults.into_inner())
}

struct HashWork<'a> {
    store: &'a Store,
    options: &'a VerifyOptions,
    observer: &'a dyn VerifyObserver,
    blobs: &'a [(Digest, u64)],
    /// Index of the next blob to hash.
    next: AtomicUsize,
    faults: Mutex<BTreeMap<Digest, ContentFault>>,
}

/// A blob that is being hashed.
struct HashLane {
    digest: Digest,
    file: File,
    state: Sha256State,
    buffer: Vec<u8>,
    filled: usize,
}

impl HashWork<'_> {
    /// Hashes the share of one thread. The first blobs are distributed in turn, so that one thread does not get all large ones.
    fn run(&self, thread: usize, threads: usize) -> Result<()> {
        let mut lanes: Vec<HashLane> = Vec::with_capacity(sha256::lanes());
        let mut dealt = (0..sha256::lanes()).map(|turn| turn * threads + thread);
        loop {
            while lanes.len() < sha256::lanes() {
                let number = dealt.next().unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
                let Some((digest, _)) = self.blobs.get(number) else { break };
                lanes.extend(self.open(*digest)?);
            }
            if lanes.is_empty() {
                return Ok(());
            }
            self.options.check_cancelled()?;
            self.step(&mut lanes);
        }
    }

    fn open(&self, digest: Digest) -> Result<Option<HashLane>> {
        let Some((file, size)) = self.store.open_blob(&digest)? else {
            self.fault(digest, ContentFault::Missing);
            return Ok(None);
        };
        // Advisory: a file system that ignores it is only slower.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let piece = usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE);
        let buffer = vec![0; piece];
        Ok(Some(HashLane { digest, file, state: Sha256State::new(), buffer, filled: 0 }))
    }

    /// Reads and hashes one piece of each blob, and removes the blobs that are done.
    fn step(&self, lanes: &mut Vec<HashLane>) {
        lanes.retain_mut(|lane| match lane.fill() {
            Ok(()) => true,
            Err(error) => {
                self.fault(lane.digest, ContentFault::Unreadable(error.to_string()));
                false
            }
        });
        let mut streams: Vec<(&mut Sha256State, &[u8])> =
            lanes.iter_mut().map(|lane| (&mut lane.state, &lane.buffer[..lane.filled])).collect();
        sha256::update_lanes(&mut streams);
        drop(streams);
        self.observer.hashed(lanes.iter().map(|lane| lane.filled as u64).sum());
        lanes.retain_mut(|lane| {
            if lane.filled == lane.buffer.len() {
                return true;
            }
            let length = lane.state.len();
            let found = Digest::from_bytes(std::mem::take(&mut lane.state).finish());
            if found != lane.digest {
                let what = if length == 0 { "it is empty".into() } else { hashes_to(&found) };
                self.fault(lane.digest, ContentFault::Corrupt(what));
            }
            false
        });
    }

    fn fault(&self, digest: Digest, fault: ContentFault) {
        self.faults.lock().insert(digest, fault);
    }
}

impl HashLane {
    /// Reads until the buffer is full or the file ends.
    fn fill(&mut self) -> std::io::Result<()> {
        self.filled = 0;
        while self.filled < self.buffer.len() {
            match self.file.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(length) => self.filled += length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
