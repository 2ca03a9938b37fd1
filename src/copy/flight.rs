//! One digest is one download, however many images and registries name it.

use crate::error::{Error, Result};
use crate::oci::{Digest, Registry, Repository};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Where a blob can be had, and of what size it is said to be: one manifest's lie about that is no other's failure.
pub(crate) type Origin = (Registry, Repository, u64);

/// The blobs of a run: which are there, which are on their way.
#[derive(Default)]
pub(crate) struct Flight {
    blobs: Mutex<HashMap<Digest, Arc<Blob>>>,
}

/// One blob. The first image to ask fetches it, the others wait; when it fails, the next one
/// takes over from its own origin.
#[derive(Default)]
struct Blob {
    /// Set once the blob is committed: its size in bytes.
    size: OnceCell<u64>,
    /// Origins that failed for good in this run, and how.
    failed: Mutex<Vec<(Origin, Error)>>,
}

impl Flight {
    /// Whether nobody in this run has asked for `digest` before; counts as asking.
    pub(crate) fn claim(&self, digest: Digest) -> bool {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        match blobs.entry(digest) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Arc::default());
                true
            }
        }
    }

    /// The size of the blob `digest` once it is there; runs `fetch` when it falls to this caller to bring it.
    ///
    /// # Errors
    /// `fetch`'s, or what it answered an earlier caller with the same `origin`.
    pub(crate) async fn bring<F>(
        &self,
        digest: Digest,
        origin: Origin,
        fetch: impl FnOnce() -> F,
    ) -> Result<u64>
    where
        F: Future<Output = Result<u64>>,
    {
        let blob = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            blobs.entry(digest).or_default().clone()
        };
        let bring = async || {
            if let Some(error) = blob.failure_at(&origin) {
                return Err(error);
            }
            let result = fetch().await;
            if let Err(error) = &result {
                blob.failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((origin.clone(), error.clone()));
            }
            result
        };
        blob.size.get_or_try_init(bring).await.copied()
    }
}

impl Blob {
    fn failure_at(&self, origin: &Origin) -> Option<Error> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.iter().find(|(at, _)| at == origin).map(|(_, error)| error.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn origin(name: &str) -> Origin {
        ("a.io".parse().unwrap(), name.parse().unwrap(), 1)
    }

    #[tokio::test]
    async fn many_ask_and_one_fetches() {
        let flight = Flight::default();
        let fetched = AtomicUsize::new(0);
        let digest = Digest::of(b"x");
        let ask = || {
            flight.bring(digest, origin("a"), || async {
                tokio::task::yield_now().await;
                fetched.fetch_add(1, Ordering::SeqCst);
                Ok(1)
            })
        };
        let all = futures::future::join_all((0..10).map(|_| ask())).await;
        assert!(all.iter().all(|size| *size.as_ref().unwrap() == 1));
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn another_origin_takes_over_and_the_same_is_not_asked_again() {
        let flight = Flight::default();
        let digest = Digest::of(b"x");
        let fail = || async { Err(Error::new(ErrorKind::NotFound, "x", "gone")) };
        assert!(flight.bring(digest, origin("a"), fail).await.is_err());
        let again = flight.bring(digest, origin("a"), || async { Ok(1) }).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(flight.bring(digest, origin("b"), || async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(flight.bring(digest, origin("a"), || async { Ok(2) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_lie_about_the_size_is_not_held_against_who_tells_the_truth() {
        let flight = Flight::default();
        let digest = Digest::of(b"x");
        let (registry, repository, size) = origin("a");
        let lie = (registry.clone(), repository.clone(), size + 1);
        let fail = || async { Err(Error::new(ErrorKind::Corrupt, "x", "more were sent")) };
        assert!(flight.bring(digest, lie, fail).await.is_err());
        let truth = (registry, repository, size);
        assert_eq!(flight.bring(digest, truth, || async { Ok(1) }).await.unwrap(), 1);
    }

    #[test]
    fn the_first_to_claim_is_told_so() {
        let flight = Flight::default();
        assert!(flight.claim(Digest::of(b"x")));
        assert!(!flight.claim(Digest::of(b"x")));
    }
}
