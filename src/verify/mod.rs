//! Verification and repair of a tree.
//!
//! In an intact tree, a tag implies its whole closure: manifests and their links, blobs and their links, with the right sizes and
//! content. Every link is valid and points to content, and nothing in the tree makes a registry or its garbage collection fail.
//! Which manifests of an index are stored is up to whoever saved it; but one that is linked must be complete.

mod analysis;
mod expected;
mod hash;
mod repair;
mod report;
mod repository;
mod signatures;

pub use expected::{Completeness, ExpectedImage, MissingImage, MissingKind};
pub use repair::{Repair, Taken, repair};
pub use report::{Note, NoteKind, Problem, ProblemKind, VerifyReport};
pub use signatures::{TrustReport, UntrustedImage};

use crate::content::SignaturePolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::save::NameRule;
use crate::store::Store;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options of a verification.
#[derive(Clone)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Whether to hash every blob. Otherwise only manifests and blobs of the wrong size are hashed.
    pub deep: bool,
    /// Number of hashing threads.
    pub threads: usize,
    /// The images that the tree should have; `None` to check only what is there.
    pub expected: Option<Vec<ExpectedImage>>,
    /// The rule of the names in the tree, for these; `None` for the one that it was saved with.
    pub names: Option<NameRule>,
    /// The signature policy that all images should satisfy; `None` to check no signatures.
    pub policy: Option<Arc<dyn SignaturePolicy>>,
    /// Receives the progress of hashing.
    pub observer: Arc<dyn VerifyObserver>,
    /// Cancelling this token ends the verification, or the repair before it changes anything.
    pub cancel: CancellationToken,
}

/// Sizes only, one hashing thread for each processor, no progress.
impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            deep: false,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            expected: None,
            names: None,
            policy: None,
            observer: Arc::new(()),
            cancel: CancellationToken::new(),
        }
    }
}

impl VerifyOptions {
    /// Hashes every blob.
    #[must_use]
    pub fn with_deep(self, deep: bool) -> Self {
        Self { deep, ..self }
    }

    /// Hashes with so many threads.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Reports which of these images, or of their platforms, the tree lacks.
    #[must_use]
    pub fn with_expected(self, expected: impl IntoIterator<Item = ExpectedImage>) -> Self {
        Self { expected: Some(expected.into_iter().collect()), ..self }
    }

    /// Reports which images do not satisfy `policy`.
    #[must_use]
    pub fn with_policy(self, policy: Arc<dyn SignaturePolicy>) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// Sends the progress of hashing to `observer`.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn VerifyObserver>) -> Self {
        Self { observer, ..self }
    }

    /// Ends the verification when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }

    /// # Errors
    /// `Cancelled` once the token is cancelled.
    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the verification", "it was cancelled"));
        }
        Ok(())
    }
}

/// Receives the progress of a verification. Called from several threads.
pub trait VerifyObserver: Send + Sync {
    /// Hashing starts, of so many blobs with so many bytes in total.
    fn hashing(&self, blobs: usize, bytes: u64) {
        let _ = (blobs, bytes);
    }

    /// So many bytes have been hashed since the last call.
    fn hashed(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl VerifyObserver for () {}

/// Verifies the tree. Other processes may add to the tree and remove from it meanwhile: problems, and
/// missing images, are reported only if they are still found while nothing is being removed.
///
/// # Errors
/// `InvalidInput` if the directory is not a tree, `Storage` if it can't be read, `Cancelled`. Problems of the tree are not errors.
pub fn verify(store: &Store, options: &VerifyOptions) -> Result<VerifyReport> {
    store.check_is_tree()?;
    let found = analysis::inspect(store, options)?;
    if found.report.is_clean() && found.report.is_complete() && found.report.is_trusted() {
        return Ok(found.report);
    }
    Ok(analysis::confirm(store, found, options)?.report)
}
