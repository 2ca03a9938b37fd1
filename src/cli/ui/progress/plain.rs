//! Lines for logs: one for each finished image, and a status line where none was printed for a while.

use super::state::RunState;
use crate::cli::ui::output;
use std::time::{Duration, Instant};

/// A status line is printed after this long without a line.
const INTERVAL: Duration = Duration::from_secs(10);

/// Prints a status line now and then.
pub(super) struct StatusTimer {
    last: Instant,
}

impl StatusTimer {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now }
    }

    /// The status line, if it is due at `now`.
    pub(super) fn poll(&mut self, state: &mut RunState, now: Instant) -> Option<String> {
        state.sample(now);
        let since = state.last_line.map_or(self.last, |line| line.max(self.last));
        if now.saturating_duration_since(since) < INTERVAL {
            return None;
        }
        self.last = now;
        Some(status_line(state, now))
    }
}

fn status_line(state: &RunState, now: Instant) -> String {
    if let Some(archive) = &state.archive {
        let at = output::size(archive.at);
        let size = output::size(archive.size);
        let mut line = format!("{}: {at} of {size}", archive.label);
        if let Some(rate) = archive.rate.per_second() {
            line.push_str(&format!(", {}/s", output::size(rate as u64)));
        }
        if let Some(time) = state.remaining(now) {
            line.push_str(&format!(", {} left", output::time(time)));
        }
        return line;
    }
    let mut line =
        format!("{}/{} images, {}", state.images_done(), state.images, output::size(state.fetched));
    if let Some((total, is_exact)) = state.expected(now) {
        line.push_str(&format!(" of {}{}", if is_exact { "" } else { "about " }, output::size(total)));
    }
    if let Some(rate) = state.rate.per_second() {
        line.push_str(&format!(", {}/s", output::size(rate as u64)));
    }
    line.push_str(&format!(", {} in progress", output::count(state.active.len(), "blob")));
    if let Some(time) = state.remaining(now) {
        line.push_str(&format!(", {} left", output::time(time)));
    }
    if let Some(retry) = state.latest_retry(now, INTERVAL) {
        line.push_str(&format!("; retrying: {}", retry.text()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Reference};
    use crate::transfer::Event;

    #[test]
    fn status_line_is_printed_only_without_other_lines() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut state = RunState::new(start);
        state.note(&Event::RunStarted { images: 3 }, start);
        let reference = Reference::parse("nginx").unwrap();
        let digest = Digest::of(b"a");
        state.note(&Event::BlobStarted { reference: &reference, digest, size: 9_000_000, resumed: 0 }, start);
        let mut timer = StatusTimer::new(start);
        state.sample(start);
        assert_eq!(timer.poll(&mut state, after(9)), None);
        state.note(&Event::BlobAdvanced { digest: Digest::of(b"a"), bytes: 2_000_000 }, after(10));
        let line = timer.poll(&mut state, after(10)).unwrap();
        assert!(line.starts_with("0/3 images, 2.00 MB, "), "{line}");
        assert!(line.ends_with("/s, 1 blob in progress"), "{line}");
        state.last_line = Some(after(15));
        assert_eq!(timer.poll(&mut state, after(20)), None);
        assert!(timer.poll(&mut state, after(25)).is_some());
    }
}
