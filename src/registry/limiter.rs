//! How many requests are in flight, and the gate that a Retry-After closes.
//!
//! Additive increase, multiplicative decrease: each round of successes raises the limit by one, each round with a failure halves it. A round ends
//! with the first failure of a request that began in it, so that one bad moment halves once, not once per request. Some megabytes of a
//! long answer count as a success too: who has only giants to fetch need not wait for the end of one.
//!
//! Until the first failure each success raises the limit, as long as it is low or another connection is cheap: plain, or none at all
//! where one carries many requests. A TLS handshake takes longer than a short answer, so only who has much to ask makes many.

use crate::error::Error;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A limit that finds its own height, between 1 and a maximum.
#[derive(Debug)]
pub(super) struct Limit(Mutex<State>);

#[derive(Debug)]
struct State {
    limit: usize,
    /// Up to where each success raises the limit, whatever connections cost.
    eager: usize,
    max: usize,
    /// Places that are taken: more than the limit for a while after that was lowered.
    taken: usize,
    successes: usize,
    /// Counts the halvings.
    round: u64,
    going_on: VecDeque<oneshot::Sender<Permit>>,
    beginning: VecDeque<oneshot::Sender<Permit>>,
}

/// What a request that waits is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// More of what has been begun: goes first, so that what is first in a list is soon whole; also before one that was let in to begin
    /// and is not awake yet.
    GoesOn,
    /// Something new.
    Begins,
}

/// The right to have one request in flight.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<Limit>,
    round: u64,
    /// Whether it went over a connection that costs next to nothing: a plain one, or one that carries many requests.
    cheap: bool,
}

impl State {
    fn queue(&mut self, turn: Turn) -> &mut VecDeque<oneshot::Sender<Permit>> {
        match turn {
            Turn::GoesOn => &mut self.going_on,
            Turn::Begins => &mut self.beginning,
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        self.going_on.pop_front().or_else(|| self.beginning.pop_front())
    }
}

impl Limit {
    /// A limit of `start` at first, which rises readily up to `eager` and not beyond `max`.
    pub(super) fn new(start: usize, eager: usize, max: usize) -> Arc<Self> {
        let max = max.max(1);
        let (going_on, beginning) = Default::default();
        let limit = start.clamp(1, max);
        Arc::new(Self(Mutex::new(State {
            limit,
            eager,
            max,
            taken: 0,
            successes: 0,
            round: 0,
            going_on,
            beginning,
        })))
    }

    /// Waits for a free place.
    pub(super) async fn acquire(self: &Arc<Self>, turn: Turn) -> Permit {
        loop {
            let mut place = match self.take(turn) {
                Ok(permit) => return permit,
                Err(place) => place,
            };
            while let Ok(permit) = place.await {
                match self.gives_way(turn) {
                    Some(again) => place = again,
                    None => return permit,
                }
            }
        }
    }

    /// A place that is free, or one in the queue.
    fn take(self: &Arc<Self>, turn: Turn) -> Result<Permit, oneshot::Receiver<Permit>> {
        let mut state = self.state();
        if state.taken < state.limit {
            state.taken += 1;
            return Ok(self.permit(&state));
        }
        let (sender, place) = oneshot::channel();
        state.queue(turn).push_back(sender);
        Err(place)
    }

    /// Whether one that was let in waits once more, before all others that begin: until it was awake, whoever left the place may have
    /// come back for more of what it had begun.
    fn gives_way(&self, turn: Turn) -> Option<oneshot::Receiver<Permit>> {
        let mut state = self.state();
        let is_late = turn == Turn::Begins && state.going_on.iter().any(|waiting| !waiting.is_closed());
        is_late.then(|| {
            let (sender, place) = oneshot::channel();
            state.beginning.push_front(sender);
            place
        })
    }

    fn permit(self: &Arc<Self>, state: &State) -> Permit {
        Permit { limit: Arc::clone(self), round: state.round, cheap: false }
    }

    /// Gives free places to those who wait.
    fn hand_on(self: &Arc<Self>) {
        let mut refused = Vec::new();
        let mut state = self.state();
        while state.taken < state.limit
            && let Some(sender) = state.next()
        {
            if sender.is_closed() {
                continue;
            }
            state.taken += 1;
            let permit = self.permit(&state);
            refused.extend(sender.send(permit).err());
        }
        // Whoever gave up at this very moment gives the place back, which takes the lock.
        drop(state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn height(&self) -> usize {
        self.state().limit
    }
}

impl Permit {
    /// The request goes over a connection that costs next to nothing.
    pub(super) fn set_cheap(&mut self) {
        self.cheap = true;
    }

    /// The request succeeded.
    pub(super) fn succeeded(&self) {
        let mut state = self.limit.state();
        state.successes += 1;
        let readily = state.round == 0 && (self.cheap || state.limit < state.eager);
        let needed = if readily { 1 } else { state.limit };
        if state.limit < state.max && state.successes >= needed {
            state.successes = 0;
            state.limit += 1;
            drop(state);
            self.limit.hand_on();
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
        state.limit = (state.limit / 2).max(1);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.state().taken -= 1;
        self.limit.hand_on();
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

/// What is known of an endpoint that says nothing. Its limit falls to one place, and each request holds that until its patience
/// ends: were every one to try for itself, a long list would take days. Whoever waited meanwhile shares the failure as a try of its own.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// When there was an answer last.
    answered: Option<Instant>,
    /// The last request that nothing came of, nor of any other since it was sent, and when it was given up.
    failed: Option<(Instant, Error)>,
}

impl Silence {
    /// There was an answer.
    pub(super) fn answered(&self) {
        *self.heard() = Heard { answered: Some(Instant::now()), failed: None };
    }

    /// A request that was sent at `sent` was given up for lack of an answer.
    pub(super) fn failed(&self, sent: Instant, error: &Error) {
        let mut heard = self.heard();
        if heard.answered.is_none_or(|answered| answered < sent) {
            heard.failed = Some((Instant::now(), error.clone()));
        }
    }

    /// The failure that whoever waits since `began` has seen the end of.
    pub(super) fn since(&self, began: Instant) -> Option<Error> {
        let heard = self.heard();
        heard.failed.as_ref().filter(|(at, _)| *at > began).map(|(_, error)| error.clone())
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(limit: &Limit) -> usize {
        let state = limit.state();
        state.limit - state.taken
    }

    #[tokio::test]
    async fn what_goes_on_goes_first_and_who_gave_up_takes_no_place() {
        let limit = Limit::new(1, 1, 1);
        let held = limit.acquire(Turn::GoesOn).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, turn) in [
            ("new", Turn::Begins),
            ("gave up", Turn::GoesOn),
            ("old", Turn::GoesOn),
            ("newer", Turn::Begins),
            ("older", Turn::GoesOn),
        ] {
            let (limit, order) = (limit.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _permit = limit.acquire(turn).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        waiting.remove(1).abort();
        tokio::task::yield_now().await;
        drop(held);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["old", "older", "new", "newer"]);
        assert_eq!(free(&limit), 1);
    }

    #[tokio::test]
    async fn a_place_that_was_given_and_not_taken_is_handed_on() {
        let limit = Limit::new(1, 1, 1);
        let held = limit.acquire(Turn::GoesOn).await;
        let mut one = Box::pin(limit.acquire(Turn::GoesOn));
        let other = limit.acquire(Turn::GoesOn);
        assert!(futures::poll!(&mut one).is_pending());
        let mut other = Box::pin(other);
        assert!(futures::poll!(&mut other).is_pending());
        drop(held);
        drop(one);
        drop(other.await);
        assert_eq!(free(&limit), 1);
    }

    #[tokio::test]
    async fn grows_on_success_up_to_the_maximum() {
        let limit = Limit::new(2, 4, 4);
        for _ in 0..10 {
            limit.acquire(Turn::GoesOn).await.succeeded();
        }
        assert_eq!(limit.height(), 4);
        assert_eq!(free(&limit), 4);
    }

    #[tokio::test]
    async fn beyond_what_is_eager_it_grows_with_each_success_only_where_connections_cost_nothing() {
        for (cheap, expect) in [(false, 6), (true, 12)] {
            let limit = Limit::new(2, 4, 12);
            // Two to four places, four more to a fifth, five to a sixth.
            for _ in 0..2 + 4 + 5 {
                let mut permit = limit.acquire(Turn::GoesOn).await;
                if cheap {
                    permit.set_cheap();
                }
                permit.succeeded();
            }
            assert_eq!(limit.height(), expect, "cheap: {cheap}");
            assert_eq!(free(&limit), expect);
        }
    }

    #[tokio::test]
    async fn who_comes_back_for_more_goes_before_one_that_was_just_let_in() {
        let limit = Limit::new(1, 1, 1);
        let held = limit.acquire(Turn::Begins).await;
        let mut new = Box::pin(limit.acquire(Turn::Begins));
        let mut newer = Box::pin(limit.acquire(Turn::Begins));
        assert!(futures::poll!(&mut new).is_pending());
        assert!(futures::poll!(&mut newer).is_pending());
        drop(held);
        // The place is the new one's, which has not been awake yet.
        let mut more = Box::pin(limit.acquire(Turn::GoesOn));
        assert!(futures::poll!(&mut more).is_pending());
        assert!(futures::poll!(&mut new).is_pending());
        let std::task::Poll::Ready(held) = futures::poll!(&mut more) else {
            panic!("the new one kept the place")
        };
        // One that gave up does not send the new one to the end again.
        let mut given_up = Box::pin(limit.acquire(Turn::GoesOn));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(held);
        drop(given_up);
        assert!(futures::poll!(&mut newer).is_pending(), "it does not pass the new one");
        drop(new.await);
        drop(newer.await);
        assert_eq!(free(&limit), 1);
    }

    #[tokio::test]
    async fn one_bad_moment_halves_once() {
        let limit = Limit::new(8, 8, 8);
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(limit.acquire(Turn::GoesOn).await);
        }
        for permit in &permits {
            permit.overloaded();
        }
        assert_eq!(limit.height(), 4);
        permits.clear();
        assert_eq!(free(&limit), 4, "the surplus was not handed on");
        limit.acquire(Turn::GoesOn).await.overloaded();
        assert_eq!(limit.height(), 2);
        for _ in 0..10 {
            limit.acquire(Turn::GoesOn).await.overloaded();
        }
        assert_eq!(limit.height(), 1);
        assert_eq!(free(&limit), 1);
    }

    #[tokio::test]
    async fn grows_slowly_after_a_failure() {
        let limit = Limit::new(8, 8, 8);
        limit.acquire(Turn::GoesOn).await.overloaded();
        for _ in 0..4 {
            limit.acquire(Turn::GoesOn).await.succeeded();
        }
        assert_eq!(limit.height(), 5);
        assert_eq!(free(&limit), 5);
    }

    #[tokio::test]
    async fn comes_back_to_the_maximum_from_wherever_it_fell() {
        let limit = Limit::new(6, 16, 16);
        for _ in 0..5 {
            limit.acquire(Turn::GoesOn).await.overloaded();
        }
        assert_eq!(limit.height(), 1);
        // A success for each place there is, for each place more.
        for _ in 0..(1..16).sum::<usize>() {
            limit.acquire(Turn::GoesOn).await.succeeded();
        }
        assert_eq!(limit.height(), 16);
        assert_eq!(free(&limit), 16);
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

    #[tokio::test]
    async fn a_silence_is_shared_by_who_waited_for_it_alone() {
        let silence = Silence::default();
        let error = Error::new(crate::ErrorKind::Unavailable, "x", "fell silent");
        let step = || tokio::time::sleep(Duration::from_millis(2));
        let sent = Instant::now();
        step().await;
        silence.failed(sent, &error);
        assert!(silence.since(sent).is_some());
        assert!(silence.since(Instant::now()).is_none(), "who came later tries for itself");
        silence.answered();
        assert!(silence.since(sent).is_none());
        silence.failed(sent, &error);
        assert!(silence.since(sent).is_none(), "others were answered meanwhile");
        step().await;
        let sent = Instant::now();
        step().await;
        silence.failed(sent, &error);
        assert!(silence.since(sent).is_some());
    }
}
