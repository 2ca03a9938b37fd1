//! Shares manifest requests between the images of a run.

use crate::error::Result;
use crate::oci::{Digest, RawManifest};
use crate::single_flight::SingleFlight;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};

/// The number of known manifests at which cleanup starts.
const MANY: usize = 4096;

/// The manifests that images share while they are transferred: each is requested once while somebody holds it. After that the
/// sink has it.
#[derive(Default)]
pub(crate) struct Manifests {
    requests: SingleFlight<Digest, Arc<RawManifest>>,
    known: Mutex<KnownManifests>,
}

#[derive(Default)]
struct KnownManifests {
    by_digest: HashMap<Digest, Weak<RawManifest>>,
    /// The number of manifests that were held at the last cleanup.
    held: usize,
}

impl Manifests {
    /// The manifest `digest`. Runs `request` unless somebody holds the manifest or is requesting it.
    ///
    /// # Errors
    /// Those of `request`.
    pub(crate) async fn get(
        &self,
        digest: Digest,
        request: impl Future<Output = Result<RawManifest>>,
    ) -> Result<Arc<RawManifest>> {
        // On the heap, as in `Flight::try_run`.
        let request = Box::pin(request);
        let request = async {
            if let Some(known) = self.known(&digest) {
                return Ok(known);
            }
            let manifest = Arc::new(request.await?);
            self.keep(&manifest);
            Ok(manifest)
        };
        self.requests.join(digest).try_run(request).await
    }

    fn known(&self, digest: &Digest) -> Option<Arc<RawManifest>> {
        self.known.lock().by_digest.get(digest)?.upgrade()
    }

    /// Remembers `manifest` for as long as somebody holds it.
    fn keep(&self, manifest: &Arc<RawManifest>) {
        let mut known = self.known.lock();
        // Amortised: the number of manifests that are held may be large.
        if known.by_digest.len() >= MANY.max(known.held * 2) {
            known.by_digest.retain(|_, manifest| manifest.strong_count() > 0);
            known.held = known.by_digest.len();
        }
        known.by_digest.insert(manifest.digest, Arc::downgrade(manifest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    fn manifest(number: usize) -> RawManifest {
        let json = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{number}"}}}}"#);
        RawManifest::new(json.into(), None).unwrap()
    }

    #[tokio::test]
    async fn manifest_is_requested_once_while_it_is_held() {
        let manifests = Manifests::default();
        let digest = manifest(1).digest;
        let fail = || async { Err(Error::new(ErrorKind::NotFound, digest, "requested again")) };
        let held = manifests.get(digest, async { Ok(manifest(1)) }).await.unwrap();
        assert!(Arc::ptr_eq(&held, &manifests.get(digest, fail()).await.unwrap()));
        drop(held);
        assert_eq!(manifests.get(digest, fail()).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn manifests_that_nobody_holds_are_forgotten() {
        let manifests = Manifests::default();
        let held: Vec<_> = (0..10).map(|number| Arc::new(manifest(number))).collect();
        held.iter().for_each(|manifest| manifests.keep(manifest));
        for number in 0..3 * MANY {
            manifests.keep(&Arc::new(manifest(held.len() + number)));
        }
        assert!(manifests.known.lock().by_digest.len() <= MANY);
        assert!(held.iter().all(|manifest| manifests.known(&manifest.digest).is_some()));
    }
}
