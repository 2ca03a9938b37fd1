//! How many requests are in flight to one endpoint: an adaptive limit (AIMD).
//!
//! Additive increase, multiplicative decrease: a round of successes raises the limit by one, a failure halves it. A round
//! ends with the first failure of a request that started in it, so a burst of failures halves the limit once. Every few
//! megabytes of a long response count as a success too, so that large blobs raise the limit before they are complete.
//!
//! Until the first failure, each success raises the limit while it is low or connections are cheap: plain HTTP, or HTTP/2,
//! where one connection carries many requests. A TLS handshake takes longer than a short response.

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// An adaptive concurrency limit between 1 and a maximum.
#[derive(Debug)]
pub(super) struct Limiter(Mutex<LimiterState>);

#[derive(Debug)]
struct LimiterState {
    limit: usize,
    /// Below this, each success raises the limit, whatever connections cost.
    eager: usize,
    max: usize,
    /// Permits that are held. Exceeds the limit for a while after a decrease.
    held: usize,
    successes: usize,
    /// Incremented by each decrease.
    round: u64,
    continuations: VecDeque<oneshot::Sender<Permit>>,
    new: VecDeque<oneshot::Sender<Permit>>,
}

/// The order in which waiting requests get a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// A request for an image that is in progress. Goes first, so that images finish in list order; it even goes before a
    /// `New` request that was granted a permit and has not run yet.
    Continuation,
    /// The first request of an image.
    New,
}

/// The right to have one request in flight. Dropping it passes it on.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    round: u64,
    /// Whether the request's connection costs next to nothing: plain HTTP or HTTP/2.
    cheap: bool,
}

impl LimiterState {
    fn queue(&mut self, priority: Priority) -> &mut VecDeque<oneshot::Sender<Permit>> {
        match priority {
            Priority::Continuation => &mut self.continuations,
            Priority::New => &mut self.new,
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        self.continuations.pop_front().or_else(|| self.new.pop_front())
    }
}

impl Limiter {
    /// A limit of `start` that rises quickly to `eager` and never above `max`.
    pub(super) fn new(start: usize, eager: usize, max: usize) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self(Mutex::new(LimiterState {
            limit: start.clamp(1, max),
            eager,
            max,
            held: 0,
            successes: 0,
            round: 0,
            continuations: VecDeque::new(),
            new: VecDeque::new(),
        })))
    }

    /// Waits for a permit. Cancel-safe.
    pub(super) async fn acquire(self: &Arc<Self>, priority: Priority) -> Permit {
        loop {
            let mut queued = match self.acquire_or_queue(priority) {
                Ok(permit) => return permit,
                Err(queued) => queued,
            };
            while let Ok(permit) = queued.await {
                match self.requeue_if_outranked(priority) {
                    Some(again) => queued = again,
                    None => return permit,
                }
            }
        }
    }

    fn acquire_or_queue(self: &Arc<Self>, priority: Priority) -> Result<Permit, oneshot::Receiver<Permit>> {
        let mut state = self.state();
        if state.held < state.limit {
            state.held += 1;
            return Ok(self.permit(&state));
        }
        let (sender, queued) = oneshot::channel();
        state.queue(priority).push_back(sender);
        Err(queued)
    }

    /// Puts a `New` request that was granted a permit back to the head of its queue when continuations have queued up
    /// before its task ran: often the task that released the permit is about to ask for the next one.
    fn requeue_if_outranked(&self, priority: Priority) -> Option<oneshot::Receiver<Permit>> {
        let mut state = self.state();
        let outranked =
            priority == Priority::New && state.continuations.iter().any(|waiting| !waiting.is_closed());
        outranked.then(|| {
            let (sender, queued) = oneshot::channel();
            state.new.push_front(sender);
            queued
        })
    }

    fn permit(self: &Arc<Self>, state: &LimiterState) -> Permit {
        Permit { limiter: Arc::clone(self), round: state.round, cheap: false }
    }

    /// Grants free permits to waiting requests.
    fn grant(self: &Arc<Self>) {
        let mut refused = Vec::new();
        let mut state = self.state();
        while state.held < state.limit
            && let Some(sender) = state.next()
        {
            if sender.is_closed() {
                continue;
            }
            state.held += 1;
            let permit = self.permit(&state);
            refused.extend(sender.send(permit).err());
        }
        // A permit whose receiver is gone releases itself when it is dropped, which takes the lock.
        drop(state);
    }

    fn state(&self) -> MutexGuard<'_, LimiterState> {
        self.0.lock()
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> usize {
        self.state().limit
    }
}

impl Permit {
    /// Marks the request's connection as cheap.
    pub(super) fn set_cheap(&mut self) {
        self.cheap = true;
    }

    /// Records a success, which may raise the limit.
    pub(super) fn record_success(&self) {
        let mut state = self.limiter.state();
        state.successes += 1;
        let eager = state.round == 0 && (self.cheap || state.limit < state.eager);
        let needed = if eager { 1 } else { state.limit };
        if state.limit < state.max && state.successes >= needed {
            state.successes = 0;
            state.limit += 1;
            drop(state);
            self.limiter.grant();
        }
    }

    /// Records a sign of overload (429, 503, a reset, a stall), which halves the limit once a round.
    pub(super) fn record_overload(&self) {
        let mut state = self.limiter.state();
        if self.round < state.round {
            return;
        }
        state.round += 1;
        state.successes = 0;
        state.limit = (state.limit / 2).max(1);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.state().held -= 1;
        self.limiter.grant();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(limiter: &Limiter) -> usize {
        let state = limiter.state();
        state.limit - state.held
    }

    #[tokio::test]
    async fn continuations_go_first_and_abandoned_waiters_are_skipped() {
        let limiter = Limiter::new(1, 1, 1);
        let held = limiter.acquire(Priority::Continuation).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, priority) in [
            ("new", Priority::New),
            ("gave up", Priority::Continuation),
            ("old", Priority::Continuation),
            ("newer", Priority::New),
            ("older", Priority::Continuation),
        ] {
            let (limiter, order) = (limiter.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _permit = limiter.acquire(priority).await;
                order.lock().push(name);
            }));
            tokio::task::yield_now().await;
        }
        waiting.remove(1).abort();
        tokio::task::yield_now().await;
        drop(held);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["old", "older", "new", "newer"]);
        assert_eq!(free(&limiter), 1);
    }

    #[tokio::test]
    async fn permit_granted_to_a_dropped_waiter_is_passed_on() {
        let limiter = Limiter::new(1, 1, 1);
        let held = limiter.acquire(Priority::Continuation).await;
        let mut one = Box::pin(limiter.acquire(Priority::Continuation));
        let other = limiter.acquire(Priority::Continuation);
        assert!(futures::poll!(&mut one).is_pending());
        let mut other = Box::pin(other);
        assert!(futures::poll!(&mut other).is_pending());
        drop(held);
        drop(one);
        drop(other.await);
        assert_eq!(free(&limiter), 1);
    }

    #[tokio::test]
    async fn limit_grows_with_successes_up_to_the_maximum() {
        let limiter = Limiter::new(2, 4, 4);
        for _ in 0..10 {
            limiter.acquire(Priority::Continuation).await.record_success();
        }
        assert_eq!(limiter.limit(), 4);
        assert_eq!(free(&limiter), 4);
    }

    #[tokio::test]
    async fn eager_growth_continues_only_on_cheap_connections() {
        for (cheap, expect) in [(false, 6), (true, 12)] {
            let limiter = Limiter::new(2, 4, 12);
            // Two successes to a limit of 4, four more to 5, five more to 6.
            for _ in 0..2 + 4 + 5 {
                let mut permit = limiter.acquire(Priority::Continuation).await;
                if cheap {
                    permit.set_cheap();
                }
                permit.record_success();
            }
            assert_eq!(limiter.limit(), expect, "cheap: {cheap}");
            assert_eq!(free(&limiter), expect);
        }
    }

    #[tokio::test]
    async fn continuation_outranks_a_granted_new_request() {
        let limiter = Limiter::new(1, 1, 1);
        let held = limiter.acquire(Priority::New).await;
        let mut new = Box::pin(limiter.acquire(Priority::New));
        let mut newer = Box::pin(limiter.acquire(Priority::New));
        assert!(futures::poll!(&mut new).is_pending());
        assert!(futures::poll!(&mut newer).is_pending());
        drop(held);
        // The permit belongs to `new`, whose task has not run yet.
        let mut more = Box::pin(limiter.acquire(Priority::Continuation));
        assert!(futures::poll!(&mut more).is_pending());
        assert!(futures::poll!(&mut new).is_pending());
        let std::task::Poll::Ready(held) = futures::poll!(&mut more) else {
            panic!("the new request kept the permit")
        };
        // An abandoned continuation does not outrank `new`.
        let mut given_up = Box::pin(limiter.acquire(Priority::Continuation));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(held);
        drop(given_up);
        assert!(futures::poll!(&mut newer).is_pending(), "newer does not overtake new");
        drop(new.await);
        drop(newer.await);
        assert_eq!(free(&limiter), 1);
    }

    #[tokio::test]
    async fn burst_of_failures_halves_the_limit_once() {
        let limiter = Limiter::new(8, 8, 8);
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(limiter.acquire(Priority::Continuation).await);
        }
        for permit in &permits {
            permit.record_overload();
        }
        assert_eq!(limiter.limit(), 4);
        permits.clear();
        assert_eq!(free(&limiter), 4, "permits above the limit were passed on");
        limiter.acquire(Priority::Continuation).await.record_overload();
        assert_eq!(limiter.limit(), 2);
        for _ in 0..10 {
            limiter.acquire(Priority::Continuation).await.record_overload();
        }
        assert_eq!(limiter.limit(), 1);
        assert_eq!(free(&limiter), 1);
    }

    #[tokio::test]
    async fn limit_grows_slowly_after_a_failure() {
        let limiter = Limiter::new(8, 8, 8);
        limiter.acquire(Priority::Continuation).await.record_overload();
        for _ in 0..4 {
            limiter.acquire(Priority::Continuation).await.record_success();
        }
        assert_eq!(limiter.limit(), 5);
        assert_eq!(free(&limiter), 5);
    }

    #[tokio::test]
    async fn limit_recovers_to_the_maximum() {
        let limiter = Limiter::new(6, 16, 16);
        for _ in 0..5 {
            limiter.acquire(Priority::Continuation).await.record_overload();
        }
        assert_eq!(limiter.limit(), 1);
        // Raising the limit by one takes as many successes as the limit.
        for _ in 0..(1..16).sum::<usize>() {
            limiter.acquire(Priority::Continuation).await.record_success();
        }
        assert_eq!(limiter.limit(), 16);
        assert_eq!(free(&limiter), 16);
    }
}
