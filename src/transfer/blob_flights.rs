//! Downloads each digest once, however many images and registries need it.

use crate::error::{Error, Result};
use crate::oci::{Digest, Registry, Repository};
use crate::single_flight::SingleFlight;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;

/// Where a blob is requested from, and the size that its manifest claims. Part of the key of failures: a wrong size in one
/// manifest must not fail images with the right one.
pub(crate) type BlobSource = (Registry, Repository, u64);

type FailureKey = (Digest, BlobSource, Option<Repository>);

/// The blobs of a run, with their sizes in bytes once they are committed. The first image that needs a blob downloads it while
/// the others wait; if that fails, the next one tries its own source.
pub(crate) struct BlobFlights {
    blobs: SingleFlight<Digest, u64>,
    /// The same for each repository that needs its own copy.
    copies: SingleFlight<(Digest, Repository), u64>,
    /// Failures that were final, by source and, for copies, repository.
    failed: Mutex<HashMap<FailureKey, Error>>,
}

impl Default for BlobFlights {
    fn default() -> Self {
        Self {
            blobs: SingleFlight::remembering(),
            copies: SingleFlight::remembering(),
            failed: Mutex::default(),
        }
    }
}

impl BlobFlights {
    /// Whether no image of this run has claimed `digest` before.
    pub(crate) fn claim(&self, digest: Digest) -> bool {
        self.blobs.claim(digest)
    }

    /// The size of the blob `digest` once it is present. Runs `fetch` unless another caller does.
    ///
    /// If `copy` is given, the sink needs a copy in each repository: `fetch` runs once for each, and for the others only after
    /// the first is done, so that they can mount the blob from there.
    ///
    /// # Errors
    /// That of `fetch`, or the error that it returned before for the same `origin` and repository.
    pub(crate) async fn bring<F>(
        &self,
        digest: Digest,
        copy: Option<&Repository>,
        origin: BlobSource,
        fetch: impl Fn() -> F,
    ) -> Result<u64>
    where
        F: Future<Output = Result<u64>>,
    {
        let source = (digest, origin, copy.cloned());
        let first = self.blobs.join(digest);
        let Some(repository) = copy else {
            return first.try_run(self.fetch(&source, &fetch)).await;
        };
        let own = self.copies.join((digest, repository.clone()));
        let bring = async {
            let mut is_first = false;
            let run = async {
                is_first = true;
                self.fetch(&source, &fetch).await
            };
            let size = first.try_run(run).await?;
            if is_first { Ok(size) } else { self.fetch(&source, &fetch).await }
        };
        own.try_run(bring).await
    }

    async fn fetch<F>(
        &self,
        source: &(Digest, BlobSource, Option<Repository>),
        fetch: impl Fn() -> F,
    ) -> Result<u64>
    where
        F: Future<Output = Result<u64>>,
    {
        if let Some(error) = self.failed.lock().get(source) {
            return Err(error.clone());
        }
        let result = fetch().await;
        if let Err(error) = &result {
            self.failed.lock().insert(source.clone(), error.clone());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn origin(name: &str) -> BlobSource {
        ("a.io".parse().unwrap(), name.parse().unwrap(), 1)
    }

    #[tokio::test]
    async fn blob_is_fetched_once_for_many_callers() {
        let flight = BlobFlights::default();
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
    async fn failed_source_is_replaced_and_not_retried() {
        let flight = BlobFlights::default();
        let digest = Digest::of(b"x");
        let fail = || async { Err(Error::new(ErrorKind::NotFound, "x", "gone")) };
        assert!(flight.bring(digest, None, origin("a"), fail).await.is_err());
        let again = flight.bring(digest, None, origin("a"), || async { Ok(1) }).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(flight.bring(digest, None, origin("b"), || async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(flight.bring(digest, None, origin("a"), || async { Ok(2) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn wrong_size_fails_only_its_manifest() {
        let flight = BlobFlights::default();
        let digest = Digest::of(b"x");
        let (registry, repository, size) = origin("a");
        let lie = (registry.clone(), repository.clone(), size + 1);
        let fail = || async { Err(Error::new(ErrorKind::Corrupt, "x", "more were sent")) };
        assert!(flight.bring(digest, None, lie, fail).await.is_err());
        let truth = (registry, repository, size);
        assert_eq!(flight.bring(digest, None, truth, || async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn separate_repositories_fetch_after_the_first() {
        let flight = BlobFlights::default();
        let order = Mutex::new(Vec::new());
        let digest = Digest::of(b"x");
        let ask = |name: &'static str| {
            let (flight, order) = (&flight, &order);
            async move {
                let repository: Repository = name.parse().unwrap();
                let fetch = || async {
                    order.lock().push(format!("{name} begins"));
                    tokio::task::yield_now().await;
                    order.lock().push(format!("{name} ends"));
                    Ok(1)
                };
                flight.bring(digest, Some(&repository), origin("a"), fetch).await
            }
        };
        let all = futures::future::join_all(["one", "two", "one", "three"].map(ask)).await;
        assert!(all.iter().all(|size| *size.as_ref().unwrap() == 1));
        let order = order.into_inner();
        assert_eq!(order[..2], ["one begins", "one ends"], "{order:?}");
        assert_eq!(order.len(), 6, "{order:?}");
    }
}
