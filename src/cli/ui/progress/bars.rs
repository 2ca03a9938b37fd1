//! Bars at the foot of a terminal: one for each blob that is coming, up to a handful, and one for all.

use super::tally::{Active, Tally};
use crate::cli::ui::output::{self, Paint};
use crate::cli::ui::terminal::Screen;
use crate::transfer::Status;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// At most this many blobs have a bar.
const SHOWN: usize = 8;
/// Drawn at most this often in a second.
const HERTZ: u8 = 10;
/// A line with nothing in it; indicatif would leave an empty one out.
const EMPTY: &str = " ";
/// Characters of a bar, where there is room, and of the shortest that is drawn.
const WIDTH: usize = 24;
const SHORTEST: usize = 6;
/// Characters of a blob's image, sizes and rate.
const NAME: usize = 20;
const SIZES: usize = 17;
const RATE: usize = 9;
/// A failed try is told for this long.
const TROUBLE: Duration = Duration::from_secs(10);

/// The bars. Lines are only added while a run goes on, so that the display does not jump.
pub(super) struct Bars {
    all: MultiProgress,
    /// A blank line above. indicatif leaves the cursor at the right edge, so that the `^C` a terminal shows
    /// begins a new line and the topmost line is not cleared: it should be this one.
    blank: ProgressBar,
    blobs: Vec<ProgressBar>,
    /// What the other lines have no room for, once there is such a thing.
    note: Option<ProgressBar>,
    total: ProgressBar,
}

fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

impl Bars {
    pub(super) fn new(screen: &Screen) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(HERTZ));
        let blank = all.add(line());
        let total = all.add(line());
        screen.set_bars(all.clone());
        Self { all, blank, blobs: Vec::new(), note: None, total }
    }

    /// Draws how things stand.
    pub(super) fn draw(&mut self, tally: &mut Tally, paint: Paint) {
        let now = Instant::now();
        tally.sample(now);
        let width = output::columns(std::io::stderr()).unwrap_or(80);
        let fit = |line: String| fit(&line, width);
        let above = self.note.as_ref().unwrap_or(&self.total);
        while self.blobs.len() < tally.active.len().min(SHOWN) {
            self.blobs.push(self.all.insert_before(above, line()));
        }
        self.blank.set_message(EMPTY);
        for (index, bar) in self.blobs.iter().enumerate() {
            let line = tally
                .active
                .get(index)
                .map_or_else(|| EMPTY.to_owned(), |blob| blob_line(blob, width, paint));
            bar.set_message(fit(line));
        }
        let note = note_line(tally, now, paint);
        if self.note.is_none() && note.is_some() {
            self.note = Some(self.all.insert_before(&self.total, line()));
        }
        if let Some(bar) = &self.note {
            bar.set_message(fit(note.unwrap_or_else(|| EMPTY.to_owned())));
        }
        self.total.set_message(fit(total_line(tally, width, paint)));
    }

    /// Takes all bars away.
    pub(super) fn clear(&mut self) {
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

/// As much of `line` as has room in `width` columns. Colours take none; what may be wide counts as two.
fn fit(line: &str, width: usize) -> String {
    let mut fitted = String::with_capacity(line.len());
    let (mut column, mut escape) = (0, false);
    for c in line.chars() {
        if escape || c == '\u{1b}' {
            escape = c != 'm';
            fitted.push(c);
            continue;
        }
        column += if c.is_ascii() || matches!(c, '━' | '─' | '…') { 1 } else { 2 };
        if column <= width {
            fitted.push(c);
        }
    }
    fitted
}

/// `━━━─── ` of `at` out of `of`, in what `width` leaves beside `taken` columns; nothing where that is too little.
fn bar(at: u64, of: u64, width: usize, taken: usize) -> String {
    let length = width.saturating_sub(taken + 1).min(WIDTH);
    if length < SHORTEST {
        return String::new();
    }
    let filled = if of == 0 { length } else { (at.min(of) as u128 * length as u128 / of as u128) as usize };
    format!("{}{} ", "━".repeat(filled), "─".repeat(length - filled))
}

fn rate(per_second: Option<f64>) -> String {
    per_second.map(|rate| format!("{}/s", output::size(rate as u64))).unwrap_or_default()
}

/// The image, the digest where there is room, and how far the blob is.
fn blob_line(blob: &Active, width: usize, paint: Paint) -> String {
    let name = format!("{:<NAME$}", output::shortened(&blob.image, NAME));
    let sizes = format!("{} / {}", output::size(blob.at), output::size(blob.size));
    let digest = blob.digest.short();
    let most = 2 + NAME + 1 + digest.len() + 1 + SIZES + 1 + RATE;
    let (digest, taken) = match width {
        _ if width > most + WIDTH => (format!("{} ", paint.dim(&digest)), most),
        _ => (String::new(), most - digest.len() - 1),
    };
    let bar = bar(blob.at, blob.size, width, taken);
    format!("  {name} {digest}{bar}{sizes:<SIZES$} {}", rate(blob.rate.per_second()))
}

/// How many blobs come beside those that are shown, and what had to be tried again.
fn note_line(tally: &Tally, now: Instant, paint: Paint) -> Option<String> {
    let mut parts = Vec::new();
    if tally.active.len() > SHOWN {
        parts.push(format!("+ {} more", tally.active.len() - SHOWN));
    }
    match tally.trouble(now, TROUBLE) {
        Some(trouble) => parts.push(paint.yellow(&format!("trying again: {}", trouble.short()))),
        None if tally.retries > 0 => {
            parts.push(paint.dim(&output::count(tally.retries, "retry").replace("retrys", "retries")));
        }
        None => {}
    }
    (!parts.is_empty()).then(|| format!("  {}", parts.join("  ")))
}

/// How far the run is. What matters least gives way first: the bar, then the time that is left.
fn total_line(tally: &Tally, width: usize, paint: Paint) -> String {
    let (images, at, expected, rate) = match &tally.making {
        Some(making) => {
            let what = format!("{:<8}", making.word);
            (what, making.at, Some((making.size, true)).filter(|(size, _)| *size > 0), &making.rate)
        }
        None => {
            let images = format!("{}/{} images", tally.images_done(), tally.images);
            (images, tally.fetched, tally.expected().filter(|(total, _)| *total > 0), &tally.rate)
        }
    };
    let mut text = output::size(at);
    if let Some((total, sure)) = expected {
        let about = if sure { "" } else { "~" };
        text = format!("{} / {about}{}", output::size(at.min(total)), output::size(total));
    }
    if let Some(per_second) = rate.per_second() {
        text.push_str(&format!("  {}/s", output::size(per_second as u64)));
    }
    let failed = match tally.count(Status::Failed) {
        0 => String::new(),
        failed => format!("  {failed} failed"),
    };
    let taken = |text: &str| images.len() + 2 + text.chars().count() + failed.len();
    if let Some(eta) = tally.eta() {
        let eta = format!("  {} left", output::time(eta));
        if taken(&text) + eta.len() <= width {
            text.push_str(&eta);
        }
    }
    let bar = expected.map(|(total, _)| bar(at, total, width, taken(&text))).unwrap_or_default();
    format!("{}  {bar}{text}{}", paint.bold(&images), paint.red(&failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::oci::{Digest, Reference};
    use crate::transfer::Event;

    #[test]
    fn a_bar_is_never_longer_than_its_place() {
        for (at, of, width, length, filled) in [
            (0, 10, 80, 24, 0),
            (5, 10, 80, 24, 12),
            (10, 10, 80, 24, 24),
            (99, 10, 80, 24, 24),
            (0, 0, 80, 24, 24),
            (u64::MAX, u64::MAX, 80, 24, 24),
            (5, 10, 61, 10, 5),
            (5, 10, 56, 0, 0),
            (5, 10, 1, 0, 0),
        ] {
            let bar = bar(at, of, width, 50);
            assert_eq!(
                (bar.trim_end().chars().count(), bar.matches('━').count()),
                (length, filled),
                "{at}/{of}"
            );
        }
    }

    #[test]
    fn a_line_is_cut_but_its_colours_are_closed() {
        for (line, width, expect) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc"),
            ("\u{1b}[2mabcd\u{1b}[0m", 2, "\u{1b}[2mab\u{1b}[0m"),
            ("━日本", 4, "━日"),
        ] {
            assert_eq!(fit(line, width), expect);
        }
    }

    /// Ten blobs of an image, the first half there, one second into a run.
    fn under_way() -> (Tally, Instant) {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut tally = Tally::new();
        let reference = Reference::parse("registry.example.com/team/application:1.2.3-debian").unwrap();
        tally.note(&Event::RunStarted { images: 1 }, start);
        tally.sample(start);
        assert_eq!(total_line(&tally, 80, Paint(false)), "0/1 images  0 B");
        let planned = Event::ImagePlanned { reference: &reference, fetch_bytes: 10_000_000, reuse_bytes: 0 };
        tally.note(&planned, start);
        for n in 0..10_u8 {
            let digest = Digest::of(&[n]);
            let started = Event::BlobStarted { reference: &reference, digest, size: 1_000_000, resumed: 0 };
            tally.note(&started, start);
        }
        let first = tally.active[0].digest;
        tally.note(&Event::BlobAdvanced { digest: first, bytes: 500_000 }, later);
        tally.sample(later);
        (tally, later)
    }

    #[test]
    fn the_lines_tell_how_things_stand() {
        let (mut tally, later) = under_way();
        let digest = tally.active[0].digest.short();
        let bar = |half| format!("{}{}", "━".repeat(half), "─".repeat(half));
        for (width, expect) in [
            (120, format!("  applicati…2.3-debian {digest} {} 500 kB / 1.00 MB  500 kB/s", bar(12))),
            (80, format!("  applicati…2.3-debian {} 500 kB / 1.00 MB  500 kB/s", bar(12))),
            (50, "  applicati…2.3-debian 500 kB / 1.00 MB  500 kB/s".to_owned()),
        ] {
            assert_eq!(blob_line(&tally.active[0], width, Paint(false)), expect);
        }
        for (width, expect) in [
            (80, format!("0/1 images  ━{} 500 kB / 10.0 MB  500 kB/s  19s left", "─".repeat(23))),
            (60, format!("0/1 images  {} 500 kB / 10.0 MB  500 kB/s  19s left", "─".repeat(11))),
            (48, "0/1 images  500 kB / 10.0 MB  500 kB/s  19s left".to_owned()),
            (40, "0/1 images  500 kB / 10.0 MB  500 kB/s".to_owned()),
        ] {
            assert_eq!(total_line(&tally, width, Paint(false)), expect, "{width}");
        }
        assert_eq!(note_line(&tally, later, Paint(false)).as_deref(), Some("  + 2 more"));
        let error = Error::new(ErrorKind::Unavailable, "http://a.io/v2/x/blobs/y", "status 503");
        tally.note(&Event::Retrying { subject: "sha256:0011", attempts: 1, error: &error }, later);
        let note = note_line(&tally, later, Paint(false)).unwrap();
        assert_eq!(note, "  + 2 more  trying again: status 503");
        assert_eq!(
            note_line(&tally, later + Duration::from_secs(11), Paint(false)).unwrap(),
            "  + 2 more  1 retry"
        );
    }
}
