//! Work that concurrent callers share by key: the first caller does it, the others wait for the outcome.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The flights of one kind of work.
///
/// The work runs inside the future of one caller, so it may borrow, and it needs no task of its own. Cancellation follows from
/// that: if the caller that runs the work is dropped, the work is dropped with it and the next caller that waits starts its own.
/// Work that must outlive its callers is spawned by the work, with a guard in the value that stops it: the value of a flight
/// that is not remembered is dropped with the last caller.
#[derive(Debug)]
pub(crate) struct SingleFlight<K: Eq + Hash, V> {
    flights: Mutex<HashMap<K, Arc<OnceCell<V>>>>,
    remembers: bool,
}

/// One caller's part in a flight. The flight ends when the last caller drops its part, unless it is remembered.
pub(crate) struct Flight<'a, K: Eq + Hash, V> {
    owner: &'a SingleFlight<K, V>,
    key: K,
    cell: Arc<OnceCell<V>>,
}

/// Flights that end with their last caller: each later caller starts new work.
impl<K: Eq + Hash, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { flights: Mutex::default(), remembers: false }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    /// Flights whose values are kept: the work is done once for each key.
    pub(crate) fn remembering() -> Self {
        Self { remembers: true, ..Self::default() }
    }

    /// Joins the flight of `key`, or begins it.
    pub(crate) fn join(&self, key: K) -> Flight<'_, K, V> {
        let cell = self.flights.lock().entry(key.clone()).or_default().clone();
        Flight { owner: self, key, cell }
    }

    /// Begins the flight of `key`. Returns whether nobody had done so before.
    pub(crate) fn claim(&self, key: K) -> bool {
        let mut flights = self.flights.lock();
        let entry = flights.entry(key);
        let is_new = matches!(entry, Entry::Vacant(_));
        entry.or_default();
        is_new
    }

    /// The value of `key`, if its work is done.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.flights.lock().get(key).and_then(|cell| cell.get().cloned())
    }
}

impl<K: Eq + Hash, V: Clone> Flight<'_, K, V> {
    /// The outcome of `work`, which every caller of this flight gets.
    pub(crate) fn run<F: Future<Output = V>>(&self, work: F) -> impl Future<Output = V> {
        // On the heap: callers nest, and their futures would hold each other's by value.
        let work = Box::pin(work);
        async move { self.cell.get_or_init(|| work).await.clone() }
    }

    /// The value of `work`. A failure is the failure of the caller that ran the work only; the next one runs its own.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn try_run<E, F>(&self, work: F) -> impl Future<Output = Result<V, E>>
    where
        F: Future<Output = Result<V, E>>,
    {
        let work = Box::pin(work);
        async move { self.cell.get_or_try_init(|| work).await.cloned() }
    }

    /// Ends the flight: callers that have joined still get its value, later ones begin another flight.
    pub(crate) fn end(&self) {
        let mut flights = self.owner.flights.lock();
        if flights.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            flights.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, V> Drop for Flight<'_, K, V> {
    fn drop(&mut self) {
        if self.owner.remembers {
            return;
        }
        let mut flights = self.owner.flights.lock();
        let is_current = flights.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // The map's and this one.
        if is_current && Arc::strong_count(&self.cell) == 2 {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn concurrent_callers_share_one_run() {
        let flights = SingleFlight::<u8, Result<u8, u8>>::default();
        let runs = Cell::new(0);
        for outcome in [Ok(7), Err(7)] {
            let call = |key| {
                let (flights, runs) = (&flights, &runs);
                async move {
                    let work = async {
                        runs.set(runs.get() + 1);
                        tokio::task::yield_now().await;
                        outcome
                    };
                    flights.join(key).run(work).await
                }
            };
            assert_eq!(tokio::join!(call(1), call(1), call(2)), (outcome, outcome, outcome));
        }
        assert_eq!(runs.get(), 4, "two keys, each once for both rounds");
        assert!(flights.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn failure_concerns_only_its_caller() {
        let flights = SingleFlight::<u8, u8>::remembering();
        let call = |outcome: Result<u8, &'static str>| {
            let flights = &flights;
            async move {
                let work = async {
                    tokio::task::yield_now().await;
                    outcome
                };
                flights.join(1).try_run(work).await
            }
        };
        let outcomes = tokio::join!(call(Err("one")), call(Err("two")), call(Ok(3)), call(Ok(4)));
        assert_eq!(outcomes, (Err("one"), Err("two"), Ok(3), Ok(3)));
        assert_eq!(call(Err("late")).await, Ok(3), "success is remembered");
        assert_eq!((flights.get(&1), flights.get(&2)), (Some(3), None));
    }

    #[tokio::test]
    async fn dropped_caller_hands_its_work_on() {
        let flights = SingleFlight::<u8, u8>::default();
        let call = |value: oneshot::Receiver<u8>| {
            let flights = &flights;
            async move { flights.join(1).run(async { value.await.unwrap() }).await }
        };
        let (_never, first) = oneshot::channel();
        let (send, second) = oneshot::channel();
        let mut first = Box::pin(call(first));
        let mut second = Box::pin(call(second));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        send.send(2).unwrap();
        assert!(futures::poll!(&mut second).is_pending(), "the first caller's work runs");
        drop(first);
        assert_eq!(second.await, 2);
        assert!(flights.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn value_is_dropped_with_the_last_caller() {
        let flights = SingleFlight::<u8, Arc<()>>::default();
        let (one, two) = (flights.join(1), flights.join(1));
        let value = Arc::downgrade(&one.run(async { Arc::default() }).await);
        drop(one);
        assert!(value.upgrade().is_some());
        drop(two);
        assert!(value.upgrade().is_none());
    }

    #[tokio::test]
    async fn ended_flight_is_not_joined() {
        let flights = SingleFlight::<u8, u8>::default();
        let first = flights.join(1);
        assert_eq!(first.run(async { 1 }).await, 1);
        first.end();
        let second = flights.join(1);
        drop(first);
        assert_eq!(second.run(async { 2 }).await, 2);
        assert_eq!(flights.join(1).run(async { 3 }).await, 2, "the second flight has a caller");
    }

    #[test]
    fn only_the_first_claim_succeeds() {
        let flights = SingleFlight::<u8, u8>::remembering();
        assert!(flights.claim(1) && !flights.claim(1) && flights.claim(2));
    }
}
