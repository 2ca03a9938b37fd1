//! Pulls that concurrent callers share.

use crate::error::{Error, Result};
use crate::oci::{Digest, Reference};
use crate::single_flight::SingleFlight;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What makes two pulls the same: the image, and a fingerprint of the credential.
pub(super) type PullKey = (Reference, Option<String>);

/// The running pulls.
#[derive(Default)]
pub(super) struct Pulls {
    running: SingleFlight<PullKey, SharedPull>,
    /// All tasks, including those of cancelled pulls.
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// A pull in a task of its own, which is cancelled once the last caller has dropped this.
#[derive(Clone)]
struct SharedPull {
    outcome: watch::Receiver<Option<Result<Digest>>>,
    _cancel: Arc<DropGuard>,
}

impl Pulls {
    /// The outcome of the pull `key`; starts `pull` unless it is running. Once every caller has dropped its future, the token that
    /// was passed to `pull` is cancelled, and the next caller starts a new pull.
    pub(super) async fn join<F>(&self, key: PullKey, pull: impl Fn(CancellationToken) -> F) -> Result<Digest>
    where
        F: Future<Output = Result<Digest>> + Send + 'static,
    {
        loop {
            let flight = self.running.join(key.clone());
            let mut shared = flight.run(async { self.start(&pull) }).await;
            if shared.outcome.borrow().is_some() {
                // It ended before this caller came, and other callers have not noticed yet.
                flight.end();
                continue;
            }
            let outcome = shared.outcome.wait_for(Option::is_some).await;
            // Without an outcome, the task has panicked.
            let outcome = outcome.ok().and_then(|outcome| outcome.clone());
            return outcome.unwrap_or_else(|| Err(Error::internal(&key.0)));
        }
    }

    fn start<F>(&self, pull: impl Fn(CancellationToken) -> F) -> SharedPull
    where
        F: Future<Output = Result<Digest>> + Send + 'static,
    {
        let cancel = self.cancel.child_token();
        let pull = pull(cancel.clone());
        let (done, outcome) = watch::channel(None);
        self.tasks.spawn(async move {
            // The callers may be gone.
            let _ = done.send(Some(pull.await));
        });
        SharedPull { outcome, _cancel: Arc::new(cancel.drop_guard()) }
    }

    /// Cancels all pulls and waits until their tasks have ended.
    pub(super) async fn shut_down(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(name: &str) -> PullKey {
        (name.parse().unwrap(), None)
    }

    #[tokio::test]
    async fn callers_with_equal_key_share_a_pull() {
        let pulls = Pulls::default();
        let started = Arc::new(AtomicUsize::new(0));
        let call = |name| {
            let pull = |_| {
                let started = started.clone();
                async move {
                    started.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    Ok(Digest::of(b"x"))
                }
            };
            pulls.join(key(name), pull)
        };
        let (one, same, other) = tokio::join!(call("a"), call("a"), call("b"));
        assert!(one.is_ok() && same.is_ok() && other.is_ok());
        assert_eq!(started.load(Ordering::SeqCst), 2);
        call("a").await.unwrap();
        assert_eq!(started.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn last_dropped_caller_cancels_the_pull() {
        let pulls = Pulls::default();
        let tokens = Mutex::new(Vec::<CancellationToken>::new());
        let wait = |token: CancellationToken| {
            tokens.lock().push(token.clone());
            async move {
                token.cancelled().await;
                Err(Error::new(ErrorKind::Cancelled, "", "cancelled"))
            }
        };
        let mut one = Box::pin(pulls.join(key("a"), wait));
        let mut two = Box::pin(pulls.join(key("a"), wait));
        assert!(futures::poll!(&mut one).is_pending() && futures::poll!(&mut two).is_pending());
        drop(one);
        assert!(!tokens.lock()[0].is_cancelled() && futures::poll!(&mut two).is_pending());
        drop(two);
        assert!(tokens.lock()[0].is_cancelled());
        pulls.join(key("a"), |_| async { Ok(Digest::of(b"x")) }).await.unwrap();
        let panics = pulls.join(key("a"), |_| async { std::panic::resume_unwind(Box::new("x")) }).await;
        assert_eq!(panics.unwrap_err().kind(), ErrorKind::Internal);
        pulls.shut_down().await;
    }
}
