//! One pull for all who ask for the same at the same time.

use crate::error::{Error, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Work under way, by what it is about.
pub(super) struct Flights<K, T> {
    under_way: Mutex<HashMap<K, Flight<T>>>,
    /// Rung when one has ended.
    ended: Notify,
    /// How many tasks there are, given-up ones among them.
    tasks: Mutex<usize>,
}

struct Flight<T> {
    number: Arc<()>,
    waiting: usize,
    give_up: CancellationToken,
    outcome: Shared<BoxFuture<'static, Result<T>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { under_way: Mutex::default(), ended: Notify::new(), tasks: Mutex::default() }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The outcome of `work` on `key`, which begins unless it is under way. When all who wait for it have given up (their futures
    /// are dropped), the token that it was handed is cancelled; who asks after that begins anew.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (outcome, _seat) = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let flight = under_way.entry(key.clone()).or_insert_with(|| self.start(key.clone(), work));
            flight.waiting += 1;
            let seat = Seat { flights: self.clone(), key, number: flight.number.clone() };
            (flight.outcome.clone(), seat)
        };
        outcome.await
    }

    fn start<F>(self: &Arc<Self>, key: K, work: impl FnOnce(CancellationToken) -> F) -> Flight<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (give_up, number) = (CancellationToken::new(), Arc::new(()));
        let work = work(give_up.clone());
        let (flights, own) = (self.clone(), number.clone());
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let task = tokio::spawn(async move {
            let running = Running(flights);
            let outcome = work.await;
            running.0.forget(&key, &own);
            outcome
        });
        let outcome = async move { task.await.unwrap_or_else(|_| Err(Error::internal(""))) };
        Flight { number, waiting: 0, give_up, outcome: outcome.boxed().shared() }
    }

    fn forget(&self, key: &K, number: &Arc<()>) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(key).is_some_and(|flight| Arc::ptr_eq(&flight.number, number)) {
            under_way.remove(key);
        }
    }

    /// Gives up everything that is under way.
    pub(super) fn cancel_all(&self) {
        for flight in self.under_way.lock().unwrap_or_else(PoisonError::into_inner).values() {
            flight.give_up.cancel();
        }
    }

    /// Waits until nothing is under way, what was given up included.
    pub(super) async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// A task, counted until it ends in whatever way.
struct Running<K, T>(Arc<Flights<K, T>>);

impl<K, T> Drop for Running<K, T> {
    fn drop(&mut self) {
        *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_waiters();
    }
}

/// One who waits.
struct Seat<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    number: Arc<()>,
}

impl<K: Eq + Hash, T> Drop for Seat<K, T> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(flight) = under_way.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(&flight.number, &self.number) {
            return;
        }
        flight.waiting -= 1;
        if flight.waiting == 0 {
            flight.give_up.cancel();
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn who_asks_for_the_same_shares_it() {
        let flights = Arc::new(Flights::<u8, u8>::default());
        let began = Arc::new(AtomicUsize::new(0));
        let ask = |key| {
            let (flights, began) = (flights.clone(), began.clone());
            async move {
                flights
                    .join(key, |_| async move {
                        began.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok(key)
                    })
                    .await
            }
        };
        let (one, same, other) = tokio::join!(ask(1), ask(1), ask(2));
        assert_eq!((one.unwrap(), same.unwrap(), other.unwrap()), (1, 1, 2));
        assert_eq!(began.load(Ordering::SeqCst), 2);
        ask(1).await.unwrap();
        assert_eq!(began.load(Ordering::SeqCst), 3);
        flights.idle().await;
    }

    #[tokio::test]
    async fn the_last_who_gives_up_ends_it() {
        let flights = Arc::new(Flights::<u8, ()>::default());
        let wait = |token: CancellationToken| async move {
            token.cancelled().await;
            Err(Error::new(ErrorKind::Cancelled, "", "given up"))
        };
        let mut one = Box::pin(flights.join(1, wait));
        let mut two = Box::pin(flights.join(1, wait));
        assert!(futures::poll!(&mut one).is_pending() && futures::poll!(&mut two).is_pending());
        drop(one);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(futures::poll!(&mut two).is_pending());
        drop(two);
        tokio::time::timeout(Duration::from_secs(5), flights.idle()).await.unwrap();
        flights.join(1, |_| async { Ok(()) }).await.unwrap();
        let panics = flights.join(1, |_| async { std::panic::resume_unwind(Box::new("x")) }).await;
        assert_eq!(panics.unwrap_err().kind(), ErrorKind::Internal);
    }
}
