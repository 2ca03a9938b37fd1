//! Retry-After: the header, and the gate that holds requests back until then.

use parking_lot::{Mutex, MutexGuard};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long a Retry-After header asks to wait: seconds or a date (RFC 9110 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Bounded, so that adding it to the current time can't overflow.
        return Some(Duration::from_secs(value.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Holds back the requests to an endpoint until the time that its Retry-After named.
#[derive(Debug, Default)]
pub(super) struct RetryAfterGate {
    backoff_until: Mutex<Option<Instant>>,
}

impl RetryAfterGate {
    /// Closes the gate for `delay` from now, unless it is closed for longer already.
    pub(super) fn close_for(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let mut backoff_until = self.backoff_until();
        if backoff_until.is_none_or(|known| known < until) {
            *backoff_until = Some(until);
        }
    }

    /// Waits until the gate opens.
    ///
    /// # Errors
    /// How long the gate stays closed, at once, when that is more than `timeout`.
    pub(super) async fn wait(&self, timeout: Duration) -> Result<(), Duration> {
        while let Some(left) = self.remaining() {
            if left > timeout {
                return Err(left);
            }
            tokio::time::sleep(left).await;
        }
        Ok(())
    }

    fn remaining(&self) -> Option<Duration> {
        let left = self.backoff_until().as_ref()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn backoff_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.backoff_until.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("9999999999999999999", Some(u64::from(u32::MAX))),
            ("99999999999999999999", Some(u64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), seconds, "{value}");
        }
    }

    #[tokio::test]
    async fn gate_stays_closed_until_the_latest_time() {
        let gate = RetryAfterGate::default();
        assert_eq!(gate.wait(Duration::ZERO).await, Ok(()), "open at first");
        gate.close_for(Duration::from_secs(100));
        gate.close_for(Duration::from_secs(5));
        let left = gate.wait(Duration::from_secs(60)).await.unwrap_err();
        assert!(left > Duration::from_secs(60), "a later, shorter wait does not open it: {left:?}");
        let brief = RetryAfterGate::default();
        brief.close_for(Duration::from_millis(30));
        let start = Instant::now();
        brief.wait(Duration::from_secs(60)).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(29));
    }
}
