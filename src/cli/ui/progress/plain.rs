//! Lines for logs: an image that has ended is a line, and silence is broken now and then.

use super::tally::Tally;
use crate::cli::ui::output;
use std::time::{Duration, Instant};

/// After this long without a line, one tells how things stand.
const SILENCE: Duration = Duration::from_secs(10);

/// Tells how things stand when nothing else was printed.
pub(super) struct Pulse {
    last: Instant,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now }
    }

    /// The line that is due at `now`, if one is.
    pub(super) fn beat(&mut self, tally: &mut Tally, now: Instant) -> Option<String> {
        tally.sample(now);
        let quiet_since = tally.spoke.map_or(self.last, |spoke| spoke.max(self.last));
        if now.saturating_duration_since(quiet_since) < SILENCE {
            return None;
        }
        self.last = now;
        Some(standing(tally, now))
    }
}

fn standing(tally: &Tally, now: Instant) -> String {
    if let Some(making) = &tally.making {
        let (at, size) = (output::size(making.at), output::size(making.size));
        let mut line = format!("{} the archive: {at} of {size}", making.word);
        if let Some(rate) = making.rate.per_second() {
            line.push_str(&format!(", {}/s", output::size(rate as u64)));
        }
        if let Some(eta) = tally.eta() {
            line.push_str(&format!(", {} left", output::time(eta)));
        }
        return line;
    }
    let mut line =
        format!("{}/{} images, {}", tally.images_done(), tally.images, output::size(tally.fetched));
    if let Some((total, sure)) = tally.expected() {
        line.push_str(&format!(" of {}{}", if sure { "" } else { "about " }, output::size(total)));
    }
    if let Some(rate) = tally.rate.per_second() {
        line.push_str(&format!(", {}/s", output::size(rate as u64)));
    }
    line.push_str(&format!(", {} coming", output::count(tally.active.len(), "blob")));
    if let Some(eta) = tally.eta() {
        line.push_str(&format!(", {} left", output::time(eta)));
    }
    if let Some(trouble) = tally.trouble(now, SILENCE) {
        line.push_str(&format!("; trying again: {}", trouble.text()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Reference};
    use crate::transfer::Event;

    #[test]
    fn beats_only_in_silence() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut tally = Tally::new();
        tally.note(&Event::RunStarted { images: 3 }, start);
        let reference = Reference::parse("nginx").unwrap();
        let digest = Digest::of(b"a");
        tally.note(&Event::BlobStarted { reference: &reference, digest, size: 9_000_000, resumed: 0 }, start);
        let mut pulse = Pulse::new(start);
        tally.sample(start);
        assert_eq!(pulse.beat(&mut tally, after(9)), None);
        tally.note(&Event::BlobAdvanced { digest: Digest::of(b"a"), bytes: 2_000_000 }, after(10));
        let line = pulse.beat(&mut tally, after(10)).unwrap();
        assert!(line.starts_with("0/3 images, 2.00 MB, "), "{line}");
        assert!(line.ends_with("/s, 1 blob coming"), "{line}");
        tally.spoke = Some(after(15));
        assert_eq!(pulse.beat(&mut tally, after(20)), None);
        assert!(pulse.beat(&mut tally, after(25)).is_some());
    }
}
