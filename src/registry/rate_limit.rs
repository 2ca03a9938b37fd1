//! A limit of the total throughput of all transfers that share it.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// For how long of idleness transfers may catch up: enough for the pauses between two chunks, so that the limit is reached.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket. Clones of the `Arc` around it share the rate.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: u64,
    /// When the bytes that were taken so far will have passed at this rate.
    passed: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// A limit of so many bytes per second, at least one.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), passed: Mutex::new(None) }
    }

    /// Waits until `bytes` more may have passed. Callers are served in the order in which they ask.
    pub(super) async fn take(&self, bytes: usize) {
        tokio::time::sleep_until(self.due(bytes, Instant::now())).await;
    }

    /// When `bytes` that are asked for at `now` may have passed.
    fn due(&self, bytes: usize, now: Instant) -> Instant {
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let mut passed = self.passed.lock();
        let due = passed.unwrap_or(now).max(earliest) + time;
        *passed = Some(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_share_the_rate_within_five_percent() {
        let limit = RateLimit::new(10 << 20);
        let begin = Instant::now();
        // The transfers, by when they ask for the next chunk: once the last one has passed and was written.
        let mut transfers: Vec<(Instant, usize)> = (0..16).map(|number| (begin, number)).collect();
        let mut bytes = 0;
        let mut end = begin;
        for _ in 0..2000 {
            transfers.sort();
            let (now, number) = transfers.remove(0);
            let chunk = (16 << 10) + number * 1000;
            bytes += chunk;
            end = limit.due(chunk, now);
            transfers.push((end.max(now) + Duration::from_micros(300 * number as u64), number));
        }
        let expected = bytes as f64 / f64::from(10 << 20);
        let took = (end - begin).as_secs_f64();
        assert!((took / expected - 1.0).abs() < 0.05, "{took} s instead of {expected} s");
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let limit = RateLimit::new(1000);
        let begin = Instant::now();
        assert_eq!(limit.due(1000, begin), begin + Duration::from_secs(1));
        let later = begin + Duration::from_secs(60);
        assert_eq!(limit.due(1000, later), later + Duration::from_secs(1) - BURST);
        assert_eq!(limit.due(1000, later), later + Duration::from_secs(2) - BURST);
    }
}
