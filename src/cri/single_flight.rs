//! Shares work between concurrent callers that ask for the same.

use crate::error::{Error, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The running work, by key.
pub(super) struct SingleFlight<K, T> {
    running: Mutex<HashMap<K, SharedWork<T>>>,
    /// Notified when a task has ended.
    ended: Notify,
    /// The number of tasks, including cancelled ones.
    tasks: Mutex<usize>,
}

struct SharedWork<T> {
    /// Distinguishes this work from later work on the same key.
    identity: Arc<()>,
    waiters: usize,
    cancel: CancellationToken,
    outcome: Shared<BoxFuture<'static, Result<T>>>,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self { running: Mutex::default(), ended: Notify::new(), tasks: Mutex::default() }
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The outcome of the work on `key`; starts `work` unless the key's work is running. Once every waiter has dropped its future,
    /// the token that was passed to `work` is cancelled, and the next caller starts new work.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (outcome, _waiter) = {
            let mut running = self.running.lock();
            let shared = running.entry(key.clone()).or_insert_with(|| self.start(key.clone(), work));
            shared.waiters += 1;
            let waiter = Waiter { single_flight: self.clone(), key, identity: shared.identity.clone() };
            (shared.outcome.clone(), waiter)
        };
        outcome.await
    }

    fn start<F>(self: &Arc<Self>, key: K, work: impl FnOnce(CancellationToken) -> F) -> SharedWork<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let identity = Arc::new(());
        let work = work(cancel.clone());
        let single_flight = self.clone();
        let own = identity.clone();
        *self.tasks.lock() += 1;
        let task = tokio::spawn(async move {
            let task = RunningTask(single_flight);
            let outcome = work.await;
            task.0.forget(&key, &own);
            outcome
        });
        let outcome = async move { task.await.unwrap_or_else(|_| Err(Error::internal(""))) };
        SharedWork { identity, waiters: 0, cancel, outcome: outcome.boxed().shared() }
    }

    fn forget(&self, key: &K, identity: &Arc<()>) {
        let mut running = self.running.lock();
        if running.get(key).is_some_and(|shared| Arc::ptr_eq(&shared.identity, identity)) {
            running.remove(key);
        }
    }

    /// Cancels all work.
    pub(super) fn cancel_all(&self) {
        for shared in self.running.lock().values() {
            shared.cancel.cancel();
        }
    }

    /// Waits until all tasks have ended, including cancelled ones.
    pub(super) async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if *self.tasks.lock() == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// Counts a task until it has ended, even by a panic.
struct RunningTask<K, T>(Arc<SingleFlight<K, T>>);

impl<K, T> Drop for RunningTask<K, T> {
    fn drop(&mut self) {
        *self.0.tasks.lock() -= 1;
        self.0.ended.notify_waiters();
    }
}

/// A caller that waits. The last one to be dropped cancels the work.
struct Waiter<K: Eq + Hash, T> {
    single_flight: Arc<SingleFlight<K, T>>,
    key: K,
    identity: Arc<()>,
}

impl<K: Eq + Hash, T> Drop for Waiter<K, T> {
    fn drop(&mut self) {
        let mut running = self.single_flight.running.lock();
        let Some(shared) = running.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(&shared.identity, &self.identity) {
            return;
        }
        shared.waiters -= 1;
        if shared.waiters == 0 {
            shared.cancel.cancel();
            running.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn callers_with_equal_key_share_work() {
        let single_flight = Arc::new(SingleFlight::<u8, u8>::default());
        let started = Arc::new(AtomicUsize::new(0));
        let call = |key| {
            let single_flight = single_flight.clone();
            let started = started.clone();
            async move {
                let work = |_| async move {
                    started.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    Ok(key)
                };
                single_flight.join(key, work).await
            }
        };
        let (one, same, other) = tokio::join!(call(1), call(1), call(2));
        assert_eq!((one.unwrap(), same.unwrap(), other.unwrap()), (1, 1, 2));
        assert_eq!(started.load(Ordering::SeqCst), 2);
        call(1).await.unwrap();
        assert_eq!(started.load(Ordering::SeqCst), 3);
        single_flight.idle().await;
    }

    #[tokio::test]
    async fn last_dropped_waiter_cancels_work() {
        let single_flight = Arc::new(SingleFlight::<u8, ()>::default());
        let tokens = Arc::new(Mutex::new(Vec::<CancellationToken>::new()));
        let wait = |token: CancellationToken| {
            tokens.lock().push(token.clone());
            async move {
                token.cancelled().await;
                Err(Error::new(ErrorKind::Cancelled, "", "cancelled"))
            }
        };
        let mut one = Box::pin(single_flight.join(1, wait));
        let mut two = Box::pin(single_flight.join(1, wait));
        assert!(futures::poll!(&mut one).is_pending() && futures::poll!(&mut two).is_pending());
        drop(one);
        assert!(!tokens.lock()[0].is_cancelled() && futures::poll!(&mut two).is_pending());
        drop(two);
        assert!(tokens.lock()[0].is_cancelled());
        single_flight.idle().await;
        single_flight.join(1, |_| async { Ok(()) }).await.unwrap();
        let panics = single_flight.join(1, |_| async { std::panic::resume_unwind(Box::new("x")) }).await;
        assert_eq!(panics.unwrap_err().kind(), ErrorKind::Internal);
    }
}
