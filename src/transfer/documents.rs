//! Shares manifests and configurations between the images of a run.

use crate::error::Result;
use crate::oci::Digest;
use crate::single_flight::SingleFlight;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};

/// The number of known documents at which cleanup starts.
const MANY: usize = 4096;

/// The documents that images share while they are transferred: each is requested once while somebody holds it. After that the
/// sink has it.
pub(crate) struct SharedDocuments<T> {
    requests: SingleFlight<Digest, Arc<T>>,
    known: Mutex<KnownDocuments<T>>,
}

struct KnownDocuments<T> {
    by_digest: HashMap<Digest, Weak<T>>,
    /// The number of documents that were held at the last cleanup.
    held: usize,
}

impl<T> Default for SharedDocuments<T> {
    fn default() -> Self {
        let known = KnownDocuments { by_digest: HashMap::new(), held: 0 };
        Self { requests: SingleFlight::default(), known: Mutex::new(known) }
    }
}

impl<T> SharedDocuments<T> {
    /// The document `digest`. Runs `request` unless somebody holds the document or is requesting it.
    ///
    /// # Errors
    /// Those of `request`.
    pub(crate) async fn get(
        &self,
        digest: Digest,
        request: impl Future<Output = Result<T>>,
    ) -> Result<Arc<T>> {
        // On the heap, as in `Flight::try_run`.
        let request = Box::pin(request);
        let request = async {
            if let Some(known) = self.known(&digest) {
                return Ok(known);
            }
            let document = Arc::new(request.await?);
            self.keep(digest, &document);
            Ok(document)
        };
        self.requests.join(digest).try_run(request).await
    }

    fn known(&self, digest: &Digest) -> Option<Arc<T>> {
        self.known.lock().by_digest.get(digest)?.upgrade()
    }

    /// Remembers a document for as long as somebody holds it.
    fn keep(&self, digest: Digest, document: &Arc<T>) {
        let mut known = self.known.lock();
        // Amortised: the number of documents that are held may be large.
        if known.by_digest.len() >= MANY.max(known.held * 2) {
            known.by_digest.retain(|_, document| document.strong_count() > 0);
            known.held = known.by_digest.len();
        }
        known.by_digest.insert(digest, Arc::downgrade(document));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    fn digest(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[tokio::test]
    async fn document_is_requested_once_while_it_is_held() {
        let documents = SharedDocuments::default();
        let fail = || async { Err(Error::new(ErrorKind::NotFound, "x", "requested again")) };
        let held = documents.get(digest(1), async { Ok(1) }).await.unwrap();
        assert!(Arc::ptr_eq(&held, &documents.get(digest(1), fail()).await.unwrap()));
        drop(held);
        assert_eq!(documents.get(digest(1), fail()).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn documents_that_nobody_holds_are_forgotten() {
        let documents = SharedDocuments::default();
        let held: Vec<_> = (0..10).map(Arc::new).collect();
        held.iter().for_each(|number| documents.keep(digest(**number), number));
        for number in 0..3 * MANY {
            documents.keep(digest(held.len() + number), &Arc::new(number));
        }
        assert!(documents.known.lock().by_digest.len() <= MANY);
        assert!(held.iter().all(|number| documents.known(&digest(**number)).is_some()));
    }
}
