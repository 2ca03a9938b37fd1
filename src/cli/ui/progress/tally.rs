//! The counts behind what is shown: pure, and given the time.

use crate::cli::ui::failures::is_given_up;
use crate::cli::ui::output::clean;
use crate::oci::{Digest, Reference};
use crate::transfer::{ArchiveStep, Event, Status};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// After this many images are planned, the rest is taken to be like them.
const ENOUGH: usize = 8;

/// A rate that follows the last few seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    last: Option<(Instant, u64)>,
    per_second: Option<f64>,
}

impl Rate {
    /// How fast an older rate is forgotten.
    const MEMORY: f64 = 3.0;

    /// Notes that `total` was reached at `now`.
    fn sample(&mut self, total: u64, now: Instant) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, total));
            return;
        };
        let passed = now.saturating_duration_since(then).as_secs_f64();
        if passed < 0.05 {
            return;
        }
        let current = total.saturating_sub(before) as f64 / passed;
        let keep = (-passed / Self::MEMORY).exp();
        self.per_second = Some(self.per_second.map_or(current, |rate| rate * keep + current * (1.0 - keep)));
        self.last = Some((now, total));
    }

    /// Notes that the total has become `bytes` more (or less) without any having come.
    fn skip(&mut self, forth: u64, back: u64) {
        if let Some((_, total)) = &mut self.last {
            *total = (*total + forth).saturating_sub(back);
        }
    }

    /// Bytes in a second, once something is known of it.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.per_second
    }
}

/// A blob that is coming.
#[derive(Clone, Debug)]
pub(super) struct Active {
    /// The image it is fetched for, by the last part of its name and its tag.
    pub(super) image: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) at: u64,
    pub(super) rate: Rate,
}

/// A step of making an archive.
#[derive(Clone, Debug)]
pub(super) struct Making {
    /// `checking`, `writing`.
    pub(super) word: &'static str,
    step: ArchiveStep,
    pub(super) size: u64,
    pub(super) at: u64,
    pub(super) rate: Rate,
}

/// What has happened so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) images: usize,
    planned: usize,
    /// Images that are planned and have not ended; one that ends without being here was never planned.
    in_hand: HashMap<Reference, usize>,
    ended_unplanned: usize,
    ended: [usize; 4],
    /// Bytes that have to come, as far as images are planned.
    pub(super) to_fetch: u64,
    /// Bytes of them that are there, those of earlier runs included.
    pub(super) fetched: u64,
    pub(super) active: Vec<Active>,
    /// The archive that is being made of it all.
    pub(super) making: Option<Making>,
    pub(super) rate: Rate,
    pub(super) retries: usize,
    trouble: Option<(Instant, Trouble)>,
    /// When a line was last printed.
    pub(super) spoke: Option<Instant>,
    /// Whether a signal has asked to stop.
    pub(super) stopping: bool,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            images: 0,
            planned: 0,
            in_hand: HashMap::new(),
            ended_unplanned: 0,
            ended: [0; 4],
            to_fetch: 0,
            fetched: 0,
            active: Vec::new(),
            making: None,
            rate: Rate::default(),
            retries: 0,
            trouble: None,
            spoke: None,
            stopping: false,
        }
    }

    /// Takes note of `event`.
    pub(super) fn note(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::RunStarted { images } => self.images = *images,
            Event::ImagePlanned { reference, fetch_bytes, .. } => {
                self.planned += 1;
                *self.in_hand.entry((*reference).clone()).or_default() += 1;
                self.to_fetch = self.to_fetch.saturating_add(*fetch_bytes);
            }
            Event::BlobStarted { reference, digest, size, resumed } => {
                self.active.retain(|blob| blob.digest != *digest);
                self.fetched += resumed;
                self.rate.skip(*resumed, 0);
                let rate = Rate { last: Some((now, *resumed)), per_second: None };
                self.active.push(Active {
                    image: short_name(reference),
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
                // What is there of it counts again when it goes on.
                if let Some(blob) = ended.filter(|_| !complete) {
                    self.fetched = self.fetched.saturating_sub(blob.at);
                    self.rate.skip(0, blob.at);
                }
            }
            Event::Retrying { subject, error, .. } => {
                self.retries += 1;
                let whole = error.to_string();
                let text = if whole.starts_with(subject) { whole } else { format!("{subject}: {whole}") };
                let (text, reason) = (clean(&text).into_owned(), clean(error.message()).into_owned());
                self.trouble = Some((now, Trouble { text, reason }));
            }
            Event::ImageFinished { image } => {
                // An image that the run's end took with it has not ended.
                if !is_given_up(image.error.as_ref()) {
                    self.ended[slot(image.status)] += 1;
                }
                match self.in_hand.get_mut(&image.reference) {
                    Some(1) => drop(self.in_hand.remove(&image.reference)),
                    Some(more) => *more -= 1,
                    None => self.ended_unplanned += 1,
                }
            }
            Event::ArchiveStarted { step, bytes } => {
                let word = match step {
                    ArchiveStep::Checking => "checking",
                    ArchiveStep::Writing => "writing",
                };
                let rate = Rate { last: Some((now, 0)), per_second: None };
                self.making = Some(Making { word, step: *step, size: *bytes, at: 0, rate });
            }
            Event::ArchiveAdvanced { step, bytes } => {
                if let Some(making) = self.making.as_mut().filter(|making| making.step == *step) {
                    making.at += bytes;
                }
            }
            Event::ArchiveFinished { .. } => self.making = None,
            Event::Warning { .. } => {}
        }
    }

    /// Brings the rates up to `now`.
    pub(super) fn sample(&mut self, now: Instant) {
        self.rate.sample(self.fetched, now);
        for blob in &mut self.active {
            blob.rate.sample(blob.at, now);
        }
        if let Some(making) = &mut self.making {
            making.rate.sample(making.at, now);
        }
    }

    pub(super) fn images_done(&self) -> usize {
        self.ended.iter().sum()
    }

    pub(super) fn count(&self, status: Status) -> usize {
        self.ended[slot(status)]
    }

    /// How many bytes have to come in all, and whether that is sure: while images are not planned yet,
    /// they are taken to be like those that are.
    pub(super) fn expected(&self) -> Option<(u64, bool)> {
        let known = self.planned + self.ended_unplanned;
        if self.images > 0 && known >= self.images {
            return Some((self.to_fetch, true));
        }
        if known < ENOUGH {
            return None;
        }
        let guess = u128::from(self.to_fetch) * self.images as u128 / known as u128;
        Some((u64::try_from(guess).unwrap_or(u64::MAX), false))
    }

    /// How long the rest will take, where that can be said.
    pub(super) fn eta(&self) -> Option<Duration> {
        let (left, rate) = match &self.making {
            Some(making) => (making.size.saturating_sub(making.at), &making.rate),
            None => (self.expected()?.0.saturating_sub(self.fetched), &self.rate),
        };
        let rate = rate.per_second().filter(|rate| *rate >= 1.0)?;
        if left == 0 {
            return None;
        }
        Duration::try_from_secs_f64(left as f64 / rate).ok().filter(|eta| eta.as_secs() < 100 * 3600)
    }

    /// What was last tried again and why, if that was in the last `within`.
    pub(super) fn trouble(&self, now: Instant, within: Duration) -> Option<&Trouble> {
        let (when, trouble) = self.trouble.as_ref()?;
        (now.saturating_duration_since(*when) <= within).then_some(trouble)
    }
}

/// A try that failed.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    text: String,
    reason: String,
}

impl Trouble {
    /// What was tried, and why it failed.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Why it failed, without the addresses and digests that fill a line.
    pub(super) fn short(&self) -> &str {
        &self.reason
    }
}

/// `nginx:1.27` of `registry.example.com/library/nginx:1.27`.
fn short_name(reference: &Reference) -> String {
    let repository = reference.repository.as_str();
    let name = repository.rsplit('/').next().unwrap_or(repository);
    match &reference.tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
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
    fn counts_bytes_images_and_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut tally = Tally::new();
        let reference = Reference::parse("nginx").unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        tally.note(&Event::RunStarted { images: 2 }, start);
        tally.note(&Event::ImagePlanned { reference: &reference, fetch_bytes: 1000, reuse_bytes: 1 }, start);
        assert_eq!(tally.expected(), None);
        tally.note(&Event::ImagePlanned { reference: &reference, fetch_bytes: 1000, reuse_bytes: 0 }, start);
        tally.note(&Event::BlobStarted { reference: &reference, digest: a, size: 1000, resumed: 200 }, start);
        tally.note(&Event::BlobStarted { reference: &reference, digest: b, size: 1000, resumed: 0 }, start);
        tally.sample(start);
        assert_eq!(tally.eta(), None);
        tally.note(&Event::BlobAdvanced { digest: a, bytes: 400 }, after(1));
        tally.note(&Event::BlobAdvanced { digest: b, bytes: 100 }, after(1));
        tally.sample(after(1));
        assert_eq!((tally.fetched, tally.active.len()), (700, 2));
        assert_eq!(tally.rate.per_second(), Some(500.0));
        assert_eq!(tally.active[0].rate.per_second(), Some(400.0));
        assert_eq!(tally.eta(), Some(Duration::from_millis(2600)));
        tally.note(&Event::BlobFinished { digest: a, size: 1000, complete: true }, after(2));
        assert_eq!(tally.active.len(), 1);
        let error = Error::new(ErrorKind::Unavailable, "a.io", "cut \x1b[2J");
        tally.note(&Event::Retrying { subject: "blob", attempts: 1, error: &error }, after(2));
        let trouble = tally.trouble(after(3), Duration::from_secs(5)).unwrap();
        assert_eq!((trouble.text(), trouble.short()), ("blob: a.io: cut \\u{1b}[2J", "cut \\u{1b}[2J"));
        assert!(tally.trouble(after(30), Duration::from_secs(5)).is_none());
    }

    #[test]
    fn what_was_there_before_is_no_speed() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut tally = Tally::new();
        let reference = Reference::parse("nginx").unwrap();
        let digest = Digest::of(b"a");
        let began = |resumed| Event::BlobStarted { reference: &reference, digest, size: 1000, resumed };
        tally.sample(start);
        tally.note(&began(900), after(1));
        tally.note(&Event::BlobAdvanced { digest, bytes: 10 }, after(1));
        tally.sample(after(1));
        assert_eq!((tally.fetched, tally.rate.per_second()), (910, Some(10.0)));
        // It is given up, and another image goes on with it.
        tally.note(&Event::BlobFinished { digest, size: 1000, complete: false }, after(1));
        tally.note(&began(910), after(1));
        tally.sample(after(2));
        assert_eq!(tally.fetched, 910);
        assert!(tally.rate.per_second().unwrap() < 10.0);
    }

    #[test]
    fn what_is_not_planned_yet_is_estimated() {
        let now = Instant::now();
        let mut tally = Tally::new();
        tally.note(&Event::RunStarted { images: 100 }, now);
        for number in 0..10 {
            let reference = Reference::parse(&format!("image{number}")).unwrap();
            tally.note(&Event::ImagePlanned { reference: &reference, fetch_bytes: 50, reuse_bytes: 0 }, now);
        }
        assert_eq!(tally.expected(), Some((5000, false)));
        for number in 10..100 {
            let reference = Reference::parse(&format!("image{number}")).unwrap();
            let event = Event::ImagePlanned { reference: &reference, fetch_bytes: 0, reuse_bytes: 9 };
            tally.note(&event, now);
        }
        assert_eq!(tally.expected(), Some((500, true)));
    }
}
