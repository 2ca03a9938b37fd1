//! The one retry policy: what is tried again, how often, and how long to wait.

use crate::error::{Error, ErrorKind, Result};
use std::time::{Duration, Instant};

/// How failures that may pass are tried again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many times one request is tried again without any progress in between.
    pub retries: u32,
    /// How many times wrong bytes are asked for again.
    pub corruptions: u32,
    /// The wait before the first further try; it doubles each time.
    pub first_delay: Duration,
    /// The longest wait of saver's own; a Retry-After may ask for more.
    pub max_delay: Duration,
    /// The longest Retry-After that is honoured; a longer one ends the image.
    pub max_retry_after: Duration,
    /// A stream that brings fewer bytes than this in `slow_window` is given up and asked for again.
    pub slow_bytes: u64,
    /// Over what time a stream's bytes are counted.
    pub slow_window: Duration,
}

impl RetryPolicy {
    /// For sources on a disk: what they answer once they answer every time.
    #[must_use]
    pub fn local() -> Self {
        Self { retries: 0, corruptions: 0, ..Self::default() }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 7,
            corruptions: 2,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(600),
            slow_bytes: 600 << 10,
            slow_window: Duration::from_secs(60),
        }
    }
}

/// The tries of one piece of work: counts them and waits between them.
#[derive(Debug)]
pub struct Attempts<'a> {
    policy: &'a RetryPolicy,
    /// Failures since the last progress.
    failures: u32,
    /// Wrong bytes received so far.
    corruptions: u32,
    /// All tries made, the first included.
    made: u32,
}

impl<'a> Attempts<'a> {
    /// Tries under `policy`, none made yet.
    #[must_use]
    pub fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, failures: 0, corruptions: 0, made: 1 }
    }

    /// How many tries were made.
    #[must_use]
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Bytes came: the budget is whole again.
    pub fn progress(&mut self) {
        self.failures = 0;
    }

    /// How long to wait before the next try.
    ///
    /// # Errors
    /// `error` itself, when it can't pass or the budget is spent.
    pub fn after(&mut self, error: Error) -> Result<Duration> {
        let delay = self.next_delay(error).map_err(|error| error.with_attempts(self.made))?;
        self.made += 1;
        Ok(delay)
    }

    fn next_delay(&mut self, error: Error) -> Result<Duration> {
        let passing = match error.kind() {
            // Wrong bytes may have been damaged on the way, or come from a mirror that lies.
            ErrorKind::Corrupt if self.corruptions < self.policy.corruptions => {
                self.corruptions += 1;
                true
            }
            kind => kind.is_retryable(),
        };
        if !passing || self.failures >= self.policy.retries {
            return Err(error);
        }
        let asked = error.retry_after().unwrap_or_default();
        if asked > self.policy.max_retry_after {
            return Err(error);
        }
        let doubled = self.policy.first_delay.saturating_mul(1 << self.failures.min(20));
        let ceiling = doubled.min(self.policy.max_delay);
        self.failures += 1;
        // Jitter between half and whole keeps many tasks from coming back at the same moment.
        Ok(asked + ceiling.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

/// Watches a stream for trickling: bytes that come, but too few to ever be done.
#[derive(Debug)]
pub struct Trickle<'a> {
    policy: &'a RetryPolicy,
    since: Instant,
    bytes: u64,
}

impl<'a> Trickle<'a> {
    /// Begins to count now.
    #[must_use]
    pub fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, since: Instant::now(), bytes: 0 }
    }

    /// Leaves out `time` that was spent on our own side.
    pub fn excuse(&mut self, time: Duration) {
        self.since += time;
    }

    /// Counts `bytes` that came; answers whether the stream is too slow to wait for.
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
    fn gives_up_on_what_cannot_pass_and_when_the_budget_is_spent() {
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
    fn a_trickle_is_told_from_a_stream() {
        let mut policy = RetryPolicy { slow_bytes: 100, ..RetryPolicy::default() };
        assert!(!Trickle::new(&policy).is_too_slow(1), "the window is not over");
        policy.slow_window = Duration::ZERO;
        assert!(Trickle::new(&policy).is_too_slow(99));
        assert!(!Trickle::new(&policy).is_too_slow(100));
    }

    #[test]
    fn waits_longer_each_time_and_as_long_as_asked() {
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
