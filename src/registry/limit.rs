//! How many requests are in flight, and the gate that a Retry-After closes.
//!
//! Additive increase, multiplicative decrease: each round of successes raises the limit by one (until
//! the first failure, each success does), each round with a failure halves it. Some megabytes of a long answer count as
//! a success too: who has only giants to fetch need not wait for the end of one. A round ends
//! with the first failure of a request that began in it, so that one bad moment halves once, not once per request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A limit that finds its own height, between 1 and a maximum.
#[derive(Debug)]
pub(super) struct Limit {
    semaphore: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    max: usize,
    /// Permits that are out and are to be dropped, not handed on, when they come back.
    excess: usize,
    successes: usize,
    /// Counts the halvings.
    round: u64,
}

/// The right to have one request in flight.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<Limit>,
    permit: Option<OwnedSemaphorePermit>,
    round: u64,
}

impl Limit {
    pub(super) fn new(start: usize, max: usize) -> Arc<Self> {
        let max = max.max(1);
        let start = start.clamp(1, max);
        Arc::new(Self {
            semaphore: Arc::new(Semaphore::new(start)),
            state: Mutex::new(State { limit: start, max, excess: 0, successes: 0, round: 0 }),
        })
    }

    /// Waits for a free place.
    pub(super) async fn acquire(self: &Arc<Self>) -> Permit {
        // The semaphore is never closed; without a permit we would merely go unlimited.
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok();
        let round = self.state().round;
        Permit { limit: Arc::clone(self), permit, round }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn height(&self) -> usize {
        self.state().limit
    }
}

impl Permit {
    /// The request succeeded.
    pub(super) fn succeeded(&self) {
        let mut state = self.limit.state();
        state.successes += 1;
        let needed = if state.round == 0 { 1 } else { state.limit };
        if state.limit < state.max && state.successes >= needed {
            state.successes = 0;
            state.limit += 1;
            if state.excess > 0 {
                state.excess -= 1;
            } else {
                self.limit.semaphore.add_permits(1);
            }
        }
    }

    /// The registry showed that it has too much to do: 429, 503, a reset, a stall.
    pub(super) fn overloaded(&self) {
        let mut state = self.limit.state();
        if self.round < state.round {
            return;
        }
        state.round += 1;
        state.successes = 0;
        let lower = (state.limit / 2).max(1);
        let surplus = state.limit - lower;
        state.limit = lower;
        let free = self.limit.semaphore.forget_permits(surplus);
        state.excess += surplus - free;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limit.state();
        if state.excess > 0
            && let Some(permit) = self.permit.take()
        {
            state.excess -= 1;
            permit.forget();
        }
    }
}

/// Holds requests back until the moment that the registry named.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Option<Instant>>);

impl Gate {
    /// Closes the gate for `delay` from now, unless it is closed for longer already.
    pub(super) fn close_for(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.is_none_or(|known| known < until) {
            *gate = Some(until);
        }
    }

    /// How long the gate stays closed.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = gate.as_ref()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Waits until the gate is open, but not longer than `patience`: then answers how long it stays closed.
    pub(super) async fn wait(&self, patience: Duration) -> Result<(), Duration> {
        while let Some(left) = self.remaining() {
            if left > patience {
                return Err(left);
            }
            tokio::time::sleep(left).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn grows_on_success_up_to_the_maximum() {
        let limit = Limit::new(2, 4);
        for _ in 0..10 {
            limit.acquire().await.succeeded();
        }
        assert_eq!(limit.height(), 4);
        assert_eq!(limit.semaphore.available_permits(), 4);
    }

    #[tokio::test]
    async fn one_bad_moment_halves_once() {
        let limit = Limit::new(8, 8);
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(limit.acquire().await);
        }
        for permit in &permits {
            permit.overloaded();
        }
        assert_eq!(limit.height(), 4);
        permits.clear();
        assert_eq!(limit.semaphore.available_permits(), 4, "the surplus was not handed on");
        limit.acquire().await.overloaded();
        assert_eq!(limit.height(), 2);
        for _ in 0..10 {
            limit.acquire().await.overloaded();
        }
        assert_eq!(limit.height(), 1);
        assert_eq!(limit.semaphore.available_permits(), 1);
    }

    #[tokio::test]
    async fn grows_slowly_after_a_failure() {
        let limit = Limit::new(8, 8);
        limit.acquire().await.overloaded();
        for _ in 0..4 {
            limit.acquire().await.succeeded();
        }
        assert_eq!(limit.height(), 5);
        assert_eq!(limit.semaphore.available_permits(), 5);
    }

    #[tokio::test]
    async fn comes_back_to_the_maximum_from_wherever_it_fell() {
        let limit = Limit::new(6, 16);
        for _ in 0..5 {
            limit.acquire().await.overloaded();
        }
        assert_eq!(limit.height(), 1);
        // A success for each place there is, for each place more.
        for _ in 0..(1..16).sum::<usize>() {
            limit.acquire().await.succeeded();
        }
        assert_eq!(limit.height(), 16);
        assert_eq!(limit.semaphore.available_permits(), 16);
    }

    #[tokio::test]
    async fn the_gate_holds_everyone_until_its_time() {
        let gate = Gate::default();
        assert_eq!(gate.wait(Duration::ZERO).await, Ok(()), "open at first");
        gate.close_for(Duration::from_secs(100));
        gate.close_for(Duration::from_secs(5));
        let left = gate.wait(Duration::from_secs(60)).await.unwrap_err();
        assert!(left > Duration::from_secs(60), "a later, shorter wait does not open it: {left:?}");
        let brief = Gate::default();
        brief.close_for(Duration::from_millis(30));
        let begun = Instant::now();
        brief.wait(Duration::from_secs(60)).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(29));
    }
}
