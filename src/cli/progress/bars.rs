//! Bars at the foot of a terminal: one for each blob that is coming, up to a handful, and one for all.

use super::tally::{Active, Tally};
use crate::cli::output::{self, Paint};
use crate::cli::screen::Screen;
use crate::copy::Status;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// At most this many blobs have a bar.
const SHOWN: usize = 8;
/// Drawn at most this often in a second.
const HERTZ: u8 = 10;
/// A line with nothing in it; indicatif would leave an empty one out.
const EMPTY: &str = " ";
/// Characters of a bar.
const WIDTH: usize = 24;

/// The bars. Lines are only added while a run goes on, so that the display does not jump.
pub(super) struct Bars {
    all: MultiProgress,
    /// A blank line above. indicatif leaves the cursor at the right edge, so that the `^C` a terminal shows
    /// begins a new line and the topmost line is not cleared: it should be this one.
    blank: ProgressBar,
    blobs: Vec<ProgressBar>,
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
        screen.set_bars(Some(all.clone()));
        Self { all, blank, blobs: Vec::new(), total }
    }

    /// Draws how things stand.
    pub(super) fn draw(&mut self, tally: &mut Tally, paint: Paint) {
        let now = Instant::now();
        tally.sample(now);
        let width =
            rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col));
        let fit = |line: String| fit(&line, width);
        while self.blobs.len() < tally.active.len().min(SHOWN) {
            self.blobs.push(self.all.insert_before(&self.total, line()));
        }
        self.blank.set_message(EMPTY);
        for (index, bar) in self.blobs.iter().enumerate() {
            let line =
                tally.active.get(index).map_or_else(|| EMPTY.to_owned(), |blob| blob_line(blob, paint));
            bar.set_message(fit(line));
        }
        self.total.set_message(fit(total_line(tally, now, paint)));
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
        column += if c.is_ascii() || matches!(c, '━' | '─') { 1 } else { 2 };
        if column <= width {
            fitted.push(c);
        }
    }
    fitted
}

/// `━━━───` of `at` out of `of`.
fn bar(at: u64, of: u64) -> String {
    let filled = if of == 0 { WIDTH } else { (at.min(of) as u128 * WIDTH as u128 / of as u128) as usize };
    format!("{}{}", "━".repeat(filled), "─".repeat(WIDTH - filled))
}

fn rate(per_second: Option<f64>) -> String {
    per_second.map(|rate| format!("{}/s", output::size(rate as u64))).unwrap_or_default()
}

fn blob_line(blob: &Active, paint: Paint) -> String {
    let digest = paint.dim(&blob.digest.short());
    let sizes = format!("{} / {}", output::size(blob.at), output::size(blob.size));
    format!("  {digest} {} {sizes:<21} {}", bar(blob.at, blob.size), rate(blob.rate.per_second()))
}

fn total_line(tally: &Tally, now: Instant, paint: Paint) -> String {
    let images = paint.bold(&format!("{}/{} images", tally.images_done(), tally.images));
    let mut text = match tally.expected() {
        Some((total, sure)) if total > 0 => {
            let (at, about) = (tally.fetched.min(total), if sure { "" } else { "~" });
            format!("{images}  {} {} / {about}{}", bar(at, total), output::size(at), output::size(total))
        }
        _ => format!("{images}  {}", output::size(tally.fetched)),
    };
    if let Some(per_second) = tally.rate.per_second() {
        text.push_str(&format!("  {}/s", output::size(per_second as u64)));
    }
    if let Some(eta) = tally.eta() {
        text.push_str(&format!("  {} left", output::time(eta)));
    }
    if tally.active.len() > SHOWN {
        text.push_str(&format!("  + {} more", tally.active.len() - SHOWN));
    }
    if tally.count(Status::Failed) > 0 {
        text.push_str(&paint.red(&format!("  {} failed", tally.count(Status::Failed))));
    }
    match tally.trouble(now, Duration::from_secs(10)) {
        Some(trouble) => text.push_str(&paint.yellow(&format!("  trying again: {trouble}"))),
        None if tally.retries > 0 => text.push_str(&paint.dim(&format!("  {} retries", tally.retries))),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Event;
    use crate::oci::{Digest, Reference};

    #[test]
    fn a_bar_is_never_longer_than_its_place() {
        for (at, of, filled) in
            [(0, 10, 0), (5, 10, 12), (10, 10, 24), (99, 10, 24), (0, 0, 24), (u64::MAX, u64::MAX, 24)]
        {
            let bar = bar(at, of);
            assert_eq!((bar.chars().count(), bar.matches('━').count()), (WIDTH, filled), "{at}/{of}");
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

    #[test]
    fn the_lines_tell_how_things_stand() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut tally = Tally::new();
        let reference = Reference::parse("nginx").unwrap();
        tally.note(&Event::RunStarted { images: 1 }, start);
        tally.sample(start);
        assert_eq!(total_line(&tally, start, Paint(false)), "0/1 images  0 B");
        tally.note(
            &Event::ImagePlanned { reference: &reference, fetch_bytes: 10_000_000, reuse_bytes: 0 },
            start,
        );
        for n in 0..10_u8 {
            tally.note(&Event::BlobStarted { digest: Digest::of(&[n]), size: 1_000_000, resumed: 0 }, start);
        }
        let first = tally.active[0].digest;
        tally.note(&Event::BlobAdvanced { digest: first, bytes: 500_000 }, later);
        tally.sample(later);
        assert_eq!(
            blob_line(&tally.active[0], Paint(false)),
            format!(
                "  {} {}{} 500 kB / 1.00 MB      500 kB/s",
                first.short(),
                "━".repeat(12),
                "─".repeat(12)
            )
        );
        let total = total_line(&tally, later, Paint(false));
        assert!(total.ends_with(" 500 kB / 10.0 MB  500 kB/s  19s left  + 2 more"), "{total}");
    }
}
