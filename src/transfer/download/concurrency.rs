//! Limits the number of streams from one source that large blobs are split into.
//!
//! Whole blobs may use all slots. Further ranges of a blob use idle slots only, and only as many as have improved throughput: the
//! number grows in steps as long as each step pays off.

use parking_lot::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The initial number of streams, and the factor by which it grows.
const LEAP: usize = 4;
/// The factor by which throughput must rise for a step to have paid off.
const GROWTH: f64 = 1.2;
/// How long throughput is measured, once the limit is reached.
const MEASURED: Duration = Duration::from_millis(300);
/// How long to wait before a step that did not pay off is tried again.
const RETRIED: Duration = Duration::from_secs(10);
/// The number of range requests that may be answered with the whole blob before no more are made. More than one: it may be a
/// single misbehaving server behind the registry's name.
const MAX_REFUSALS: u32 = 3;
/// How long no stream is added after the source has failed one.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The maximum of that time; it doubles with each failure.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The limit for one source in one run.
#[derive(Debug)]
pub(crate) struct StreamLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The current limit.
    ceiling: usize,
    /// The step being judged: the limit before it, and the throughput then in bytes per second.
    leap: Option<(usize, f64)>,
    /// The start of the measurement, and the bytes received by then.
    counting: Option<(Instant, u64)>,
    /// No step before then.
    held: Option<Instant>,
    /// No further stream before then.
    backoff_until: Option<Instant>,
    backoff: Duration,
    /// The number of range requests that were answered with the whole blob.
    refusals: u32,
}

impl Default for StreamLimit {
    fn default() -> Self {
        Self(Mutex::new(State {
            ceiling: LEAP,
            leap: None,
            counting: None,
            held: None,
            backoff_until: None,
            backoff: MIN_BACKOFF,
            refusals: 0,
        }))
    }
}

impl StreamLimit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Whether one more stream may be added to `streams`, with slots for `most`, when `fetched` bytes have been received in total
    /// by `now`.
    pub(crate) fn allows_one_more(&self, streams: usize, most: usize, fetched: u64, now: Instant) -> bool {
        let mut state = self.state();
        if state.refusals >= MAX_REFUSALS || state.backoff_until.is_some_and(|until| now < until) {
            return false;
        }
        if streams < state.ceiling.min(most) {
            state.counting = None;
            return true;
        }
        let Some((since, before)) = state.counting else {
            state.counting = Some((now, fetched));
            return false;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < MEASURED {
            return false;
        }
        state.counting = None;
        state.judge(streams, (fetched - before) as f64 / elapsed.as_secs_f64(), most, now) && streams < most
    }

    /// Records that the source answered a range request with the whole blob.
    pub(crate) fn refused(&self) {
        self.state().refusals += 1;
    }

    /// Records that the source failed a stream: halves the limit, and adds no stream for a while.
    pub(crate) fn back_off(&self, streams: usize, now: Instant) {
        let mut state = self.state();
        state.ceiling = (streams / 2).max(1);
        (state.leap, state.counting) = (None, None);
        state.backoff_until = Some(now + state.backoff);
        state.held = state.backoff_until;
        state.backoff = (state.backoff * 2).min(MAX_BACKOFF);
    }

    /// Records that a range was received.
    pub(crate) fn came(&self) {
        self.state().backoff = MIN_BACKOFF;
    }
}

impl State {
    /// Judges the last step by the throughput `rate` over `streams`; returns whether to take another one.
    fn judge(&mut self, streams: usize, rate: f64, most: usize, now: Instant) -> bool {
        if let Some((before, rate_before)) = self.leap.take()
            && (rate < rate_before * GROWTH || rate == 0.0)
        {
            self.ceiling = before;
            self.held = Some(now + RETRIED);
            return false;
        }
        if self.held.is_some_and(|until| now < until) {
            return false;
        }
        // Whole blobs may use more slots than the limit; that many do no harm.
        let now_good = self.ceiling.max(streams);
        self.leap = Some((now_good, rate));
        self.ceiling = (now_good * LEAP).min(most.max(LEAP));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Considers adding streams ten times a second, up to `most`; `rate` is the throughput of so many streams. Returns the number
    /// at the end.
    struct Link<F: Fn(usize) -> u64> {
        spread: StreamLimit,
        now: Instant,
        fetched: u64,
        streams: usize,
        most: usize,
        rate: F,
    }

    impl<F: Fn(usize) -> u64> Link<F> {
        fn new(most: usize, rate: F) -> Self {
            Self { spread: StreamLimit::default(), now: Instant::now(), fetched: 0, streams: 1, most, rate }
        }

        fn run(&mut self, seconds: f64) -> usize {
            for _ in 0..(seconds * 10.0) as usize {
                self.now += Duration::from_millis(100);
                self.fetched += (self.rate)(self.streams) / 10;
                while self.spread.allows_one_more(self.streams, self.most, self.fetched, self.now) {
                    self.streams += 1;
                }
            }
            self.streams
        }
    }

    #[test]
    fn streams_are_added_while_throughput_grows() {
        let mut link = Link::new(16, |streams| 8_000_000 * (streams as u64).min(8));
        assert_eq!(link.run(0.1), 4, "a few are tried at once");
        assert_eq!(link.run(1.0), 16);
    }

    #[test]
    fn saturated_link_keeps_its_stream_count() {
        let mut link = Link::new(16, |streams| 8_000_000 * (streams as u64).min(3));
        link.run(2.0);
        link.streams = 2;
        assert_eq!(link.run(2.0), 4, "the leap to sixteen did not help: it is taken back");
    }

    #[test]
    fn failing_source_gets_fewer_streams_for_a_while() {
        let mut link = Link::new(16, |streams| 8_000_000 * streams as u64);
        assert_eq!(link.run(1.5), 16);
        link.spread.back_off(16, link.now);
        link.streams = 3;
        assert_eq!(link.run(0.9), 3, "it rests");
        assert_eq!(link.run(0.3), 8);
        assert_eq!(link.run(2.0), 16);
        for _ in 0..10 {
            link.spread.back_off(2, link.now);
        }
        link.streams = 1;
        assert_eq!(link.run(29.0), 1, "a source that fails again and again rests longer");
        (0..MAX_REFUSALS).for_each(|_| link.spread.refused());
        assert_eq!(link.run(1000.0), 1, "a source without parts is not asked for them");
    }
}
