//! Verifying: whether a tree is what it promises to be, and taking out of it what is not.
//!
//! The promise: a tag implies its whole closure (manifests with their links, blobs with theirs, of the right sizes and
//! bytes), every link is perfect and leads to content, and nothing stands in the tree that registries trip over.
//! Which of an index's manifests are there is the saver's choice; one whose link is there must be whole.

mod analysis;
mod hash;

mod repair;
mod report;
mod repository;

pub use repair::{Repair, Taken, repair};
pub use report::{Note, NoteKind, Problem, ProblemKind, VerifyReport};

use crate::error::Result;
use crate::store::Store;

/// Options of a verification.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Whether every blob is hashed; else only manifests are, and blobs of a wrong size.
    pub deep: bool,
    /// How many threads hash.
    pub threads: usize,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { deep: false, threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// Who is told of progress. Called from several threads.
pub trait VerifyObserver: Sync {
    /// So many blobs of so many bytes in all are going to be hashed.
    fn hashing(&self, blobs: usize, bytes: u64) {
        let _ = (blobs, bytes);
    }

    /// So many bytes were hashed since the last call.
    fn hashed(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl VerifyObserver for () {}

/// Verifies the tree. Takes no lock: a saver may be adding to it meanwhile; nothing may be taken away.
///
/// # Errors
/// `Storage` when the tree can't be read. What is wrong with it is no error.
pub fn verify(store: &Store, options: &VerifyOptions, observer: &dyn VerifyObserver) -> Result<VerifyReport> {
    Ok(analysis::inspect(store, options, observer)?.report)
}
