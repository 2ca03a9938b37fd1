//! The state of a run behind its display: pure, and given the time.

use crate::cli::ui::failures::is_unfinished;
use crate::cli::ui::output::clean;
use crate::oci::{Digest, Reference, Tag};
use crate::transfer::{ArchiveStep, Event, Status};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The total is estimated from at least this many planned images.
const MIN_SAMPLE: usize = 8;
/// Nothing is estimated before a run is this old: the first rates and totals say little.
const FIRST_ESTIMATE: Duration = Duration::from_secs(5);

/// A rate over the last few seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    last: Option<(Instant, u64)>,
    per_second: Option<f64>,
}

impl Rate {
    /// The time constant of the moving average, in seconds.
    const MEMORY: f64 = 3.0;
    /// The first rate needs this many seconds: a shorter time measures bursts.
    const FIRST: f64 = 1.0;

    /// Records that `total` was reached at `now`.
    fn sample(&mut self, total: u64, now: Instant) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, total));
            return;
        };
        let passed = now.saturating_duration_since(then).as_secs_f64();
        let shortest = if self.per_second.is_none() { Self::FIRST } else { 0.05 };
        if passed < shortest {
            return;
        }
        let current = total.saturating_sub(before) as f64 / passed;
        let keep = (-passed / Self::MEMORY).exp();
        self.per_second = Some(self.per_second.map_or(current, |rate| rate * keep + current * (1.0 - keep)));
        self.last = Some((now, total));
    }

    /// Records that the total grew or shrank without a transfer.
    fn skip(&mut self, added: u64, removed: u64) {
        if let Some((_, total)) = &mut self.last {
            *total = (*total + added).saturating_sub(removed);
        }
    }

    /// Bytes per second, once measured.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.per_second
    }
}

/// A blob in transfer.
#[derive(Clone, Debug)]
pub(crate) struct ActiveBlob {
    /// The image that it belongs to.
    pub(super) repository: String,
    pub(super) tag: Option<Tag>,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) at: u64,
    pub(super) rate: Rate,
}

/// A step of making an archive, or of hashing a directory.
#[derive(Clone, Debug)]
pub(crate) struct ActiveStep {
    /// `checking`, `writing`, `hashing`.
    pub(super) label: &'static str,
    step: Option<ArchiveStep>,
    pub(super) size: u64,
    pub(super) at: u64,
    pub(super) rate: Rate,
}

/// The state of a run.
#[derive(Debug)]
pub(crate) struct RunState {
    started: Instant,
    pub(super) images: usize,
    planned: usize,
    /// Images that are planned and not finished, with how often each is listed.
    in_progress: HashMap<Reference, usize>,
    finished_unplanned: usize,
    finished: [usize; 4],
    /// Bytes that have to be transferred for the images that are planned.
    pub(super) to_fetch: u64,
    /// How many of them are transferred, those of earlier runs included.
    pub(super) fetched: u64,
    pub(super) active: Vec<ActiveBlob>,
    /// The step that works on all images at once.
    pub(super) archive: Option<ActiveStep>,
    pub(super) rate: Rate,
    pub(super) retries: usize,
    latest_retry: Option<(Instant, Retry)>,
    /// When a line was last printed.
    pub(super) last_line: Option<Instant>,
    /// Whether the run is being stopped.
    pub(super) is_stopping: bool,
}

impl RunState {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            images: 0,
            planned: 0,
            in_progress: HashMap::new(),
            finished_unplanned: 0,
            finished: [0; 4],
            to_fetch: 0,
            fetched: 0,
            active: Vec::new(),
            archive: None,
            rate: Rate::default(),
            retries: 0,
            latest_retry: None,
            last_line: None,
            is_stopping: false,
        }
    }

    /// Applies `event`.
    pub(super) fn note(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::RunStarted { images } => self.images = *images,
            Event::ImagePlanned { reference, fetch_bytes, .. } => {
                self.planned += 1;
                *self.in_progress.entry((*reference).clone()).or_default() += 1;
                self.to_fetch = self.to_fetch.saturating_add(*fetch_bytes);
            }
            Event::BlobStarted { reference, digest, size, resumed } => {
                self.active.retain(|blob| blob.digest != *digest);
                self.fetched += resumed;
                self.rate.skip(*resumed, 0);
                let rate = Rate { last: Some((now, *resumed)), per_second: None };
                self.active.push(ActiveBlob {
                    repository: reference.repository.as_str().to_owned(),
                    tag: reference.tag.clone(),
                    digest: *digest,
                    size: *size,
                    at: *resumed,
                    rate,
                });
            }
            Event::BlobAdvanced { digest, bytes } => {
                self.fetched += bytes;
                if let Some(blob) = self.active.iter_mut().find(|blob| blob.digest == *digest) {
                    blob.at += bytes;
                }
            }
            Event::BlobFinished { digest, complete, .. } => {
                let ended = self.active.iter().position(|blob| blob.digest == *digest);
                let ended = ended.map(|place| self.active.remove(place));
                // Its bytes are counted again when it is resumed.
                if let Some(blob) = ended.filter(|_| !complete) {
                    self.fetched = self.fetched.saturating_sub(blob.at);
                    self.rate.skip(0, blob.at);
                }
            }
            Event::Retrying { subject, error, .. } => {
                self.retries += 1;
                let whole = error.to_string();
                let text = if whole.starts_with(subject) { whole } else { format!("{subject}: {whole}") };
                let text = clean(&text).into_owned();
                let reason = clean(error.message()).into_owned();
                self.latest_retry = Some((now, Retry { text, reason }));
            }
            Event::ImageFinished { image } => {
                // An image that was cancelled with the run is not finished.
                if !is_unfinished(image.error.as_ref()) {
                    self.finished[slot(image.status)] += 1;
                }
                match self.in_progress.get_mut(&image.reference) {
                    Some(1) => drop(self.in_progress.remove(&image.reference)),
                    Some(more) => *more -= 1,
                    None => self.finished_unplanned += 1,
                }
            }
            Event::ArchiveStarted { step, bytes } => {
                let label = match step {
                    ArchiveStep::Checking => "checking",
                    ArchiveStep::Writing => "writing",
                };
                let rate = Rate { last: Some((now, 0)), per_second: None };
                self.archive = Some(ActiveStep { label, step: Some(*step), size: *bytes, at: 0, rate });
            }
            Event::ArchiveAdvanced { step, bytes } => {
                let archive = self.archive.as_mut().filter(|archive| archive.step == Some(*step));
                if let Some(archive) = archive {
                    archive.at += bytes;
                }
            }
            Event::ArchiveFinished { .. } => self.archive = None,
            Event::Warning { .. } => {}
        }
    }

    /// Updates the rates.
    pub(super) fn sample(&mut self, now: Instant) {
        self.rate.sample(self.fetched, now);
        for blob in &mut self.active {
            blob.rate.sample(blob.at, now);
        }
        if let Some(archive) = &mut self.archive {
            archive.rate.sample(archive.at, now);
        }
    }

    pub(super) fn images_done(&self) -> usize {
        self.finished.iter().sum()
    }

    pub(super) fn count(&self, status: Status) -> usize {
        self.finished[slot(status)]
    }

    /// Starts a step of `size` bytes that belongs to no archive.
    pub(super) fn start_step(&mut self, label: &'static str, size: u64, now: Instant) {
        let rate = Rate { last: Some((now, 0)), per_second: None };
        self.archive = Some(ActiveStep { label, step: None, size, at: 0, rate });
    }

    /// Whether there is a step to show.
    pub(super) fn has_step(&self) -> bool {
        self.archive.is_some()
    }

    /// Records that the current step advanced.
    pub(super) fn advance_step(&mut self, bytes: u64) {
        if let Some(archive) = &mut self.archive {
            archive.at += bytes;
        }
    }

    /// How many bytes have to be transferred in total, and whether that is exact: images that are not planned yet are assumed
    /// to be like the others.
    pub(super) fn expected(&self, now: Instant) -> Option<(u64, bool)> {
        let known = self.planned + self.finished_unplanned;
        if self.images > 0 && known >= self.images {
            return Some((self.to_fetch, true));
        }
        if known < MIN_SAMPLE || self.is_young(now) {
            return None;
        }
        let estimate = u128::from(self.to_fetch) * self.images as u128 / known as u128;
        Some((u64::try_from(estimate).unwrap_or(u64::MAX), false))
    }

    /// Whether it is too early for estimates.
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < FIRST_ESTIMATE
    }

    /// How long the rest will take, as far as that can be estimated.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        if self.is_young(now) {
            return None;
        }
        let (left, rate) = match &self.archive {
            Some(archive) => (archive.size.saturating_sub(archive.at), &archive.rate),
            None => (self.expected(now)?.0.saturating_sub(self.fetched), &self.rate),
        };
        let rate = rate.per_second().filter(|rate| *rate >= 1.0)?;
        if left == 0 {
            return None;
        }
        Duration::try_from_secs_f64(left as f64 / rate).ok().filter(|time| time.as_secs() < 100 * 3600)
    }

    /// The latest retry, if it was in the last `within`.
    pub(super) fn latest_retry(&self, now: Instant, within: Duration) -> Option<&Retry> {
        let (when, retry) = self.latest_retry.as_ref()?;
        (now.saturating_duration_since(*when) <= within).then_some(retry)
    }
}

/// A failed attempt that is retried.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    text: String,
    reason: String,
}

impl Retry {
    /// What is retried, and why.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Why, without the addresses and digests that would fill a line.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

fn slot(status: Status) -> usize {
    match status {
        status if status.is_done() || status.is_planned() => 0,
        Status::Unchanged => 1,
        Status::Skipped => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn bytes_images_and_time_are_counted() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut state = RunState::new(start);
        let reference = Reference::parse("nginx").unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        state.note(&Event::RunStarted { images: 2 }, start);
        state.note(
            &Event::ImagePlanned { reference: &reference, fetch_bytes: 1000, reuse_bytes: 1, omitted: &[] },
            start,
        );
        assert_eq!(state.expected(start), None);
        state.note(
            &Event::ImagePlanned { reference: &reference, fetch_bytes: 1000, reuse_bytes: 0, omitted: &[] },
            start,
        );
        state.note(&Event::BlobStarted { reference: &reference, digest: a, size: 1000, resumed: 200 }, start);
        state.note(&Event::BlobStarted { reference: &reference, digest: b, size: 1000, resumed: 0 }, start);
        state.sample(start);
        assert_eq!(state.remaining(start), None);
        state.note(&Event::BlobAdvanced { digest: a, bytes: 400 }, after(1));
        state.note(&Event::BlobAdvanced { digest: b, bytes: 100 }, after(1));
        state.sample(after(1));
        assert_eq!((state.fetched, state.active.len()), (700, 2));
        assert_eq!(state.rate.per_second(), Some(500.0));
        assert_eq!(state.active[0].rate.per_second(), Some(400.0));
        assert_eq!(state.remaining(after(1)), None, "too early");
        assert_eq!(state.remaining(after(5)), Some(Duration::from_millis(2600)));
        state.note(&Event::BlobFinished { digest: a, size: 1000, complete: true }, after(2));
        assert_eq!(state.active.len(), 1);
        let error = Error::new(ErrorKind::Unavailable, "a.io", "cut \x1b[2J");
        state.note(&Event::Retrying { subject: "blob", attempts: 1, error: &error }, after(2));
        let retry = state.latest_retry(after(3), Duration::from_secs(5)).unwrap();
        assert_eq!((retry.text(), retry.reason()), ("blob: a.io: cut \\u{1b}[2J", "cut \\u{1b}[2J"));
        assert!(state.latest_retry(after(30), Duration::from_secs(5)).is_none());
    }

    #[test]
    fn resumed_bytes_do_not_count_as_rate() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut state = RunState::new(start);
        let reference = Reference::parse("nginx").unwrap();
        let digest = Digest::of(b"a");
        let began = |resumed| Event::BlobStarted { reference: &reference, digest, size: 1000, resumed };
        state.sample(start);
        state.note(&began(900), after(1));
        state.note(&Event::BlobAdvanced { digest, bytes: 10 }, after(1));
        state.sample(after(1));
        assert_eq!((state.fetched, state.rate.per_second()), (910, Some(10.0)));
        // It is abandoned, and resumed for another image.
        state.note(&Event::BlobFinished { digest, size: 1000, complete: false }, after(1));
        state.note(&began(910), after(1));
        state.sample(after(2));
        assert_eq!(state.fetched, 910);
        assert!(state.rate.per_second().unwrap() < 10.0);
    }

    #[test]
    fn unplanned_images_are_estimated() {
        let start = Instant::now();
        let mut state = RunState::new(start);
        state.note(&Event::RunStarted { images: 100 }, start);
        for number in 0..10 {
            let reference = Reference::parse(&format!("image{number}")).unwrap();
            state.note(
                &Event::ImagePlanned { reference: &reference, fetch_bytes: 50, reuse_bytes: 0, omitted: &[] },
                start,
            );
        }
        assert_eq!(state.expected(start), None);
        assert_eq!(state.expected(start + FIRST_ESTIMATE), Some((5000, false)));
        for number in 10..100 {
            let reference = Reference::parse(&format!("image{number}")).unwrap();
            let event =
                Event::ImagePlanned { reference: &reference, fetch_bytes: 0, reuse_bytes: 9, omitted: &[] };
            state.note(&event, start);
        }
        assert_eq!(state.expected(start), Some((500, true)));
    }
}
