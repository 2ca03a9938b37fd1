//! Over how many connections to one source it pays to spread big blobs.
//!
//! Whole blobs may use all the slots there are; further parts of a blob use slots that lie idle, and only as many as have been
//! seen to help: the number grows by leaps as long as more comes in a second for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many streams are tried at first, and by how much the number grows when that has helped.
const LEAP: usize = 4;
/// How much more must come in a second for a leap to have helped.
const GROWTH: f64 = 1.2;
/// How long what comes is counted, once there are as many streams as there may be.
const MEASURED: Duration = Duration::from_millis(300);
/// After how long a leap that did not help is tried again.
const RETRIED: Duration = Duration::from_secs(10);
/// After so many parts that came as whole blobs no more are asked for: one content server's bad moment is no reason.
const MAX_REFUSALS: u32 = 3;
/// How long no further stream is begun after the source has failed one.
const REST: Duration = Duration::from_secs(1);
/// The longest such rest: it doubles with each failure.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What has been learned of one source in one run.
#[derive(Debug)]
pub(crate) struct Spread(Mutex<State>);

#[derive(Debug)]
struct State {
    /// As many streams as there may be.
    ceiling: usize,
    /// The leap to be judged: the ceiling before it, and bytes a second then.
    leap: Option<(usize, f64)>,
    /// Since when what comes is counted, and what had come by then.
    counting: Option<(Instant, u64)>,
    /// No leap before then.
    held: Option<Instant>,
    /// No stream before then.
    resting: Option<Instant>,
    rest: Duration,
    /// How often the source had no part to give.
    refusals: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self(Mutex::new(State {
            ceiling: LEAP,
            leap: None,
            counting: None,
            held: None,
            resting: None,
            rest: REST,
            refusals: 0,
        }))
    }
}

impl Spread {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more stream may be begun beside `streams`, of `most` that there are slots for, when `fetched` bytes in all
    /// have come by `now`.
    pub(crate) fn allows_one_more(&self, streams: usize, most: usize, fetched: u64, now: Instant) -> bool {
        let mut state = self.state();
        if state.refusals >= MAX_REFUSALS || state.resting.is_some_and(|until| now < until) {
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

    /// The source sent a whole blob where a part was asked for.
    pub(crate) fn refused(&self) {
        self.state().refusals += 1;
    }

    /// The source has failed a stream: fewer of them, and none for a while.
    pub(crate) fn back_off(&self, streams: usize, now: Instant) {
        let mut state = self.state();
        state.ceiling = (streams / 2).max(1);
        (state.leap, state.counting) = (None, None);
        state.resting = Some(now + state.rest);
        state.held = state.resting;
        state.rest = (state.rest * 2).min(LONGEST_REST);
    }

    /// A part came as it should.
    pub(crate) fn came(&self) {
        self.state().rest = REST;
    }
}

impl State {
    /// What the last leap has brought, now that `rate` bytes come in a second over `streams`; whether to leap on.
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
        // Whole blobs may have taken more slots: so many are no harm.
        let now_good = self.ceiling.max(streams);
        self.leap = Some((now_good, rate));
        self.ceiling = (now_good * LEAP).min(most.max(LEAP));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks ten times a second for so long, with as many streams as allowed up to `most`; `rate` says what so
    /// many bring in a second. Answers how many there are at the end.
    struct Link<F: Fn(usize) -> u64> {
        spread: Spread,
        now: Instant,
        fetched: u64,
        streams: usize,
        most: usize,
        rate: F,
    }

    impl<F: Fn(usize) -> u64> Link<F> {
        fn new(most: usize, rate: F) -> Self {
            Self { spread: Spread::default(), now: Instant::now(), fetched: 0, streams: 1, most, rate }
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
    fn more_streams_are_begun_while_they_bring_more() {
        let mut link = Link::new(16, |streams| 8_000_000 * (streams as u64).min(8));
        assert_eq!(link.run(0.1), 4, "a few are tried at once");
        assert_eq!(link.run(1.0), 16);
    }

    #[test]
    fn a_link_that_is_full_is_left_at_what_filled_it() {
        let mut link = Link::new(16, |streams| 8_000_000 * (streams as u64).min(3));
        link.run(2.0);
        link.streams = 2;
        assert_eq!(link.run(2.0), 4, "the leap to sixteen did not help: it is taken back");
    }

    #[test]
    fn a_source_that_fails_streams_is_asked_for_fewer_and_comes_back() {
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
