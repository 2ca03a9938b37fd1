//! The retry policy: what is retried, how often, and with which delays.

use crate::error::{Error, ErrorKind, Result};
use std::time::{Duration, Instant};

/// How transient failures are retried.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many times a request is retried without progress in between.
    pub retries: u32,
    /// How many times a refused connection is retried. [`retries`](Self::retries) limits it too.
    pub refused_retries: u32,
    /// How many times corrupt content is downloaded again.
    pub corruptions: u32,
    /// The delay before the first retry; it doubles with each further one.
    pub first_delay: Duration,
    /// The longest delay of the exponential backoff; a Retry-After may ask for more.
    pub max_delay: Duration,
    /// The longest Retry-After that is honoured; with a longer one the image fails.
    pub max_retry_after: Duration,
    /// A stream that transfers fewer bytes than this in `slow_window` is abandoned and retried.
    pub slow_bytes: u64,
    /// The time over which a stream's throughput is measured.
    pub slow_window: Duration,
}

impl RetryPolicy {
    /// For sources on a local disk, where a retry would fail the same way.
    #[must_use]
    pub fn local() -> Self {
        Self { retries: 0, corruptions: 0, ..Self::default() }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 7,
            refused_retries: 7,
            corruptions: 2,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(600),
            slow_bytes: 600 << 10,
            slow_window: Duration::from_secs(60),
        }
    }
}

/// Counts the attempts of one operation and computes the delays between them.
#[derive(Debug)]
pub struct Attempts<'a> {
    policy: &'a RetryPolicy,
    /// Failures since the last progress.
    failures: u32,
    /// How often the content was corrupt.
    corruptions: u32,
    /// All attempts, including the first.
    made: u32,
}

impl<'a> Attempts<'a> {
    /// Starts with the first attempt.
    #[must_use]
    pub fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, failures: 0, corruptions: 0, made: 1 }
    }

    /// The number of attempts so far, including the current one.
    #[must_use]
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Records progress, which restores the retry budget.
    pub fn progress(&mut self) {
        self.failures = 0;
    }

    /// The delay before the next attempt after `error`.
    ///
    /// # Errors
    /// `error` itself, with the number of attempts, when it is permanent or the budget is spent.
    pub fn after(&mut self, error: Error) -> Result<Duration> {
        let delay = self.next_delay(error).map_err(|error| error.with_attempts(self.made))?;
        self.made += 1;
        Ok(delay)
    }

    fn next_delay(&mut self, error: Error) -> Result<Duration> {
        let transient = match error.kind() {
            // Content may have been damaged in transit, or come from a bad mirror.
            ErrorKind::Corrupt if self.corruptions < self.policy.corruptions => {
                self.corruptions += 1;
                true
            }
            kind => kind.is_retryable(),
        };
        let retries = match error.kind() {
            ErrorKind::ConnectionRefused => self.policy.retries.min(self.policy.refused_retries),
            _ => self.policy.retries,
        };
        if !transient || self.failures >= retries {
            return Err(error);
        }
        let requested = error.retry_after().unwrap_or_default();
        if requested > self.policy.max_retry_after {
            return Err(error);
        }
        let doubled = self.policy.first_delay.saturating_mul(1 << self.failures.min(20));
        let ceiling = doubled.min(self.policy.max_delay);
        self.failures += 1;
        // Jitter keeps many tasks from retrying at the same moment.
        Ok(requested + ceiling.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

/// Detects streams below the policy's minimum throughput.
#[derive(Debug)]
pub struct ThroughputCheck<'a> {
    policy: &'a RetryPolicy,
    since: Instant,
    bytes: u64,
}

impl<'a> ThroughputCheck<'a> {
    /// Starts measuring now.
    #[must_use]
    pub fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, since: Instant::now(), bytes: 0 }
    }

    /// Excludes `time` that was spent on our own side.
    pub fn excuse(&mut self, time: Duration) {
        self.since += time;
    }

    /// Counts `bytes`; returns whether the stream is too slow.
    pub fn is_too_slow(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        if self.since.elapsed() < self.policy.slow_window {
            return false;
        }
        let slow = self.bytes < self.policy.slow_bytes;
        *self = Self::new(self.policy);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "x", "y")
    }

    #[test]
    fn permanent_failures_and_spent_budgets_end_the_retries() {
        let policy = RetryPolicy { retries: 2, ..RetryPolicy::default() };
        let mut attempts = Attempts::new(&policy);
        assert!(attempts.next_delay(error(ErrorKind::NotFound)).is_err());
        assert!(attempts.next_delay(error(ErrorKind::Unavailable)).is_ok());
        assert!(attempts.next_delay(error(ErrorKind::RateLimited)).is_ok());
        assert!(attempts.next_delay(error(ErrorKind::Unavailable)).is_err());
        attempts.progress();
        assert!(attempts.next_delay(error(ErrorKind::Unavailable)).is_ok());
    }

    #[test]
    fn refused_connections_have_their_own_limit() {
        for (retries, refused_retries, expected) in [(7, 1, 1), (2, 7, 2), (7, 0, 0)] {
            let policy = RetryPolicy { retries, refused_retries, ..RetryPolicy::default() };
            let mut attempts = Attempts::new(&policy);
            let mut made = 0;
            while attempts.next_delay(error(ErrorKind::ConnectionRefused)).is_ok() {
                made += 1;
            }
            assert_eq!(made, expected, "{policy:?}");
        }
    }

    #[test]
    fn slow_stream_is_detected() {
        let mut policy = RetryPolicy { slow_bytes: 100, ..RetryPolicy::default() };
        assert!(!ThroughputCheck::new(&policy).is_too_slow(1), "the window has not ended");
        policy.slow_window = Duration::ZERO;
        assert!(ThroughputCheck::new(&policy).is_too_slow(99));
        assert!(!ThroughputCheck::new(&policy).is_too_slow(100));
    }

    #[test]
    fn delays_double_and_honour_retry_after() {
        let policy = RetryPolicy::default();
        let mut attempts = Attempts::new(&policy);
        for ceiling in [200, 400, 800, 1600] {
            let delay = attempts.next_delay(error(ErrorKind::Unavailable)).unwrap().as_millis();
            assert!(delay >= ceiling / 2 && delay <= ceiling, "{delay} of {ceiling}");
        }
        let asked = error(ErrorKind::RateLimited).with_retry_after(Duration::from_secs(60));
        assert!(attempts.next_delay(asked).unwrap() >= Duration::from_secs(60));
        let too_long = error(ErrorKind::RateLimited).with_retry_after(Duration::from_secs(3600));
        assert!(attempts.next_delay(too_long).is_err());
    }
}
