//! Shares the failure of a request to an unresponsive endpoint with the requests that were waiting behind it.
//!
//! The concurrency limit of an endpoint that does not respond falls to one, and each request holds its permit until its
//! timeout. If every request were to time out by itself, a long list would take days.

use crate::error::Error;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Tracks whether an endpoint responds.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<Unresponsive>);

#[derive(Debug, Default)]
struct Unresponsive {
    /// The time of the last response.
    last_response: Option<Instant>,
    /// The last request that timed out with no response to any request since it was sent, and when it did.
    failure: Option<(Instant, Error)>,
}

impl CircuitBreaker {
    /// Records a response, which closes the circuit.
    pub(super) fn record_response(&self) {
        *self.state() = Unresponsive { last_response: Some(Instant::now()), failure: None };
    }

    /// Records that a request sent at `sent` timed out.
    pub(super) fn record_failure(&self, sent: Instant, error: &Error) {
        let mut state = self.state();
        if state.last_response.is_none_or(|response| response < sent) {
            state.failure = Some((Instant::now(), error.clone()));
        }
    }

    /// The failure that a request which has been waiting since `start` shares.
    pub(super) fn failure_since(&self, start: Instant) -> Option<Error> {
        let state = self.state();
        state.failure.as_ref().filter(|(at, _)| *at > start).map(|(_, error)| error.clone())
    }

    fn state(&self) -> MutexGuard<'_, Unresponsive> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn failure_is_shared_only_with_requests_that_waited_for_it() {
        let breaker = CircuitBreaker::default();
        let error = Error::new(crate::ErrorKind::Unavailable, "x", "timed out");
        let step = || tokio::time::sleep(Duration::from_millis(2));
        let sent = Instant::now();
        step().await;
        breaker.record_failure(sent, &error);
        assert!(breaker.failure_since(sent).is_some());
        assert!(breaker.failure_since(Instant::now()).is_none(), "later requests try for themselves");
        breaker.record_response();
        assert!(breaker.failure_since(sent).is_none());
        breaker.record_failure(sent, &error);
        assert!(breaker.failure_since(sent).is_none(), "another request was answered meanwhile");
        step().await;
        let sent = Instant::now();
        step().await;
        breaker.record_failure(sent, &error);
        assert!(breaker.failure_since(sent).is_some());
    }
}
