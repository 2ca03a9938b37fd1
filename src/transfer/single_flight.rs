//! One digest is one download, however many images and registries name it.

use crate::error::{Error, Result};
use crate::oci::{Digest, Registry, Repository};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Where a blob can be had, and of what size it is said to be: one manifest's lie about that is no other's failure.
pub(crate) type Provenance = (Registry, Repository, u64);

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
    /// The same for each repository that must have it apart from the others.
    apart: Mutex<HashMap<Repository, Arc<OnceCell<u64>>>>,
    /// What failed for good in this run: from where, to which repository apart, and how.
    failed: Mutex<Vec<Failed>>,
}

type Failed = (Provenance, Option<Repository>, Error);

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
    /// Where the sink keeps the repository `apart` from others, `fetch` runs for each repository: for the others once
    /// the first has the blob, so that they can have it from there.
    ///
    /// # Errors
    /// `fetch`'s, or what it answered an earlier caller with the same `origin` and repository.
    pub(crate) async fn bring<F>(
        &self,
        digest: Digest,
        apart: Option<&Repository>,
        origin: Provenance,
        fetch: impl Fn() -> F,
    ) -> Result<u64>
    where
        F: Future<Output = Result<u64>>,
    {
        let blob = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            blobs.entry(digest).or_default().clone()
        };
        let bring = || blob.fetch(&origin, apart, &fetch);
        let Some(repository) = apart else { return blob.size.get_or_try_init(bring).await.copied() };
        let own = blob.apart(repository);
        let bring = || async {
            let first = AtomicBool::new(false);
            let size = blob.size.get_or_try_init(|| {
                first.store(true, Ordering::Relaxed);
                bring()
            });
            let size = *size.await?;
            if first.load(Ordering::Relaxed) { Ok(size) } else { bring().await }
        };
        own.get_or_try_init(bring).await.copied()
    }
}

impl Blob {
    fn apart(&self, repository: &Repository) -> Arc<OnceCell<u64>> {
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart.entry(repository.clone()).or_default().clone()
    }

    async fn fetch<F>(
        &self,
        origin: &Provenance,
        to: Option<&Repository>,
        fetch: impl Fn() -> F,
    ) -> Result<u64>
    where
        F: Future<Output = Result<u64>>,
    {
        if let Some(error) = self.failure_at(origin, to) {
            return Err(error);
        }
        let result = fetch().await;
        if let Err(error) = &result {
            let failed = (origin.clone(), to.cloned(), error.clone());
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(failed);
        }
        result
    }

    fn failure_at(&self, origin: &Provenance, to: Option<&Repository>) -> Option<Error> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(from, apart, _): &&Failed| from == origin && apart.as_ref() == to;
        failed.iter().find(same).map(|(.., error)| error.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::AtomicUsize;

    fn origin(name: &str) -> Provenance {
        ("a.io".parse().unwrap(), name.parse().unwrap(), 1)
    }

    #[tokio::test]
    async fn many_ask_and_one_fetches() {
        let flight = Flight::default();
        let fetched = AtomicUsize::new(0);
        let digest = Digest::of(b"x");
        let ask = || {
            flight.bring(digest, None, origin("a"), || async {
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
        assert!(flight.bring(digest, None, origin("a"), fail).await.is_err());
        let again = flight.bring(digest, None, origin("a"), || async { Ok(1) }).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(flight.bring(digest, None, origin("b"), || async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(flight.bring(digest, None, origin("a"), || async { Ok(2) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_lie_about_the_size_is_not_held_against_who_tells_the_truth() {
        let flight = Flight::default();
        let digest = Digest::of(b"x");
        let (registry, repository, size) = origin("a");
        let lie = (registry.clone(), repository.clone(), size + 1);
        let fail = || async { Err(Error::new(ErrorKind::Corrupt, "x", "more were sent")) };
        assert!(flight.bring(digest, None, lie, fail).await.is_err());
        let truth = (registry, repository, size);
        assert_eq!(flight.bring(digest, None, truth, || async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn repositories_apart_each_fetch_the_first_before_the_others() {
        let flight = Flight::default();
        let order = Mutex::new(Vec::new());
        let digest = Digest::of(b"x");
        let ask = |name: &'static str| {
            let (flight, order) = (&flight, &order);
            async move {
                let repository: Repository = name.parse().unwrap();
                let fetch = || async {
                    order.lock().unwrap().push(format!("{name} begins"));
                    tokio::task::yield_now().await;
                    order.lock().unwrap().push(format!("{name} ends"));
                    Ok(1)
                };
                flight.bring(digest, Some(&repository), origin("a"), fetch).await
            }
        };
        let all = futures::future::join_all(["one", "two", "one", "three"].map(ask)).await;
        assert!(all.iter().all(|size| *size.as_ref().unwrap() == 1));
        let order = order.into_inner().unwrap();
        assert_eq!(order[..2], ["one begins", "one ends"], "{order:?}");
        assert_eq!(order.len(), 6, "{order:?}");
    }

    #[test]
    fn the_first_to_claim_is_told_so() {
        let flight = Flight::default();
        assert!(flight.claim(Digest::of(b"x")));
        assert!(!flight.claim(Digest::of(b"x")));
    }
}
