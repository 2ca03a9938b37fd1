//! Bars at the foot of a terminal: a row for each blob in transfer, as many as fit, and one for the run.

use super::state::{ActiveBlob, RunState};
use crate::cli::ui::output::{self, Paint, TerminalSize, width_of};
use crate::transfer::Status;
use std::time::{Duration, Instant};

/// Characters of a bar, and of the shortest that is drawn.
const BAR: usize = 24;
const MIN_BAR: usize = 8;
/// Characters of an image's name in a row.
const NAME: usize = 25;
const MAX_NAME: usize = 60;
/// Characters of a blob's sizes and rate.
const SIZES: usize = 17;
const RATE: usize = 9;
/// A failed attempt is shown for this long.
const RETRY_SHOWN: Duration = Duration::from_secs(10);

/// How many blobs have a row: a third of the screen, so that messages stay visible.
fn blob_rows(size: TerminalSize) -> usize {
    (size.rows / 3).clamp(1, 40)
}

/// The lines that show how far a run is. The number of rows only grows, so that the display does not jump; `rows` is how many there
/// were.
pub(crate) fn lines(
    state: &RunState,
    rows: &mut usize,
    size: TerminalSize,
    now: Instant,
    paint: Paint,
) -> Vec<String> {
    let shown = blob_rows(size);
    *rows = state.active.len().max(*rows).min(shown);
    let mut lines: Vec<String> =
        state.active.iter().take(*rows).map(|blob| blob_line(blob, size.columns, paint)).collect();
    lines.resize(*rows, String::new());
    lines.extend(note_line(state, shown, size.columns, now, paint));
    lines.push(total_line(state, size.columns, now, paint));
    lines
}

/// `text` in at most `width` columns, cut between words.
fn fit(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut fitted = String::new();
    for word in text.split(' ') {
        let space = usize::from(!fitted.is_empty());
        // One column is kept for the ellipsis.
        if width_of(&fitted) + space + width_of(word) + 2 > width {
            break;
        }
        if space == 1 {
            fitted.push(' ');
        }
        fitted.push_str(word);
    }
    if width > 0 {
        fitted.push_str(if fitted.is_empty() { "…" } else { " …" });
    }
    fitted
}

/// `━━━─── ` for `at` of `of` in `room` columns; nothing where that is too little.
pub(crate) fn bar(at: u64, of: u64, room: usize) -> String {
    let length = room.saturating_sub(1).min(BAR);
    if length < MIN_BAR {
        return String::new();
    }
    let filled = if of == 0 { length } else { (at.min(of) as u128 * length as u128 / of as u128) as usize };
    format!("{}{} ", "━".repeat(filled), "─".repeat(length - filled))
}

/// `repository:tag` in at most `room` characters. The tag tells more than the middle of the repository's name.
fn image_name(blob: &ActiveBlob, room: usize) -> String {
    let tag = blob.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
    let tag = output::shortened(&tag, room / 2);
    let repository = output::shortened(&blob.repository, room.saturating_sub(tag.chars().count()));
    format!("{repository}{tag}")
}

/// The image, the digest, and how far the blob is. On a narrow terminal the rate, the bar and the digest give way, in this order.
fn blob_line(blob: &ActiveBlob, width: usize, paint: Paint) -> String {
    let digest = blob.digest.short();
    let fixed = 2 + digest.len() + 2 + SIZES + 2;
    let full = fixed + NAME + 2 + MIN_BAR + 1 + RATE;
    if width >= full {
        let name_room = (NAME + (width - full) / 2).min(MAX_NAME);
        let name = format!("{:<name_room$}", image_name(blob, name_room));
        let bar = bar(blob.at, blob.size, width - (fixed + name_room + 2 + RATE));
        let line =
            format!("  {name}  {}  {bar}{:<SIZES$} {:>RATE$}", paint.dim(&digest), sizes(blob), rate(blob));
        return line.trim_end().to_owned();
    }
    let with_digest = fixed + NAME;
    if width >= with_digest {
        let name = format!("{:<NAME$}", image_name(blob, NAME));
        return format!("  {name}  {}  {}", paint.dim(&digest), sizes(blob));
    }
    let room = width.saturating_sub(2 + 2 + SIZES);
    if room >= MIN_BAR {
        return format!("  {:<room$}  {}", image_name(blob, room), sizes(blob));
    }
    fit(&format!("  {}", sizes(blob).trim_end()), width)
}

fn sizes(blob: &ActiveBlob) -> String {
    format!("{} / {}", output::size(blob.at), output::size(blob.size))
}

fn rate(blob: &ActiveBlob) -> String {
    blob.rate.per_second().map(per_second).unwrap_or_default()
}

fn per_second(rate: f64) -> String {
    format!("{}/s", output::size(rate as u64))
}

/// How many blobs have no row, and the latest retry.
fn note_line(state: &RunState, shown: usize, width: usize, now: Instant, paint: Paint) -> Option<String> {
    let mut parts = Vec::new();
    if state.active.len() > shown {
        parts.push(format!("+ {} more", state.active.len() - shown));
    }
    let is_recent = match state.latest_retry(now, RETRY_SHOWN) {
        Some(retry) => {
            parts.push(format!("retrying: {}", retry.reason()));
            true
        }
        None => {
            if state.retries > 0 {
                parts.push(if state.retries == 1 {
                    "1 retry".into()
                } else {
                    format!("{} retries", state.retries)
                });
            }
            false
        }
    };
    if parts.is_empty() {
        return None;
    }
    let text = fit(&format!("  {}", parts.join("  ")), width);
    Some(if is_recent { paint.yellow(&text) } else { paint.dim(&text) })
}

/// How far the run is. On a narrow terminal the remaining time, the bar and the rate give way, in this order.
fn total_line(state: &RunState, width: usize, now: Instant, paint: Paint) -> String {
    let (label, at, expected, rate) = match &state.archive {
        Some(archive) => {
            let expected = Some((archive.size, true)).filter(|(size, _)| *size > 0);
            (format!("{:<8}", archive.label), archive.at, expected, archive.rate.per_second())
        }
        None => {
            let expected = state.expected(now).filter(|(total, _)| *total > 0);
            let images = format!("{}/{} images", state.images_done(), state.images);
            (images, state.fetched, expected, state.rate.per_second())
        }
    };
    let failed = match state.count(Status::Failed) {
        0 => String::new(),
        failed => format!("  {failed} failed"),
    };
    let sizes = match expected {
        Some((total, is_exact)) => {
            let about = if is_exact { "" } else { "~" };
            format!("{} / {about}{}", output::size(at.min(total)), output::size(total))
        }
        None => output::size(at),
    };
    let mut text = sizes;
    let taken = |text: &str| width_of(&label) + 2 + width_of(text) + failed.len();
    let rate = rate.map(|rate| format!("  {}", per_second(rate))).unwrap_or_default();
    let remaining =
        state.remaining(now).map(|time| format!("  {} left", output::time(time))).unwrap_or_default();
    for part in [rate, remaining] {
        if taken(&text) + width_of(&part) <= width {
            text.push_str(&part);
        }
    }
    let bar =
        expected.map(|(total, _)| bar(at, total, width.saturating_sub(taken(&text)))).unwrap_or_default();
    if taken(&text) > width {
        return fit(&format!("{label}{failed}"), width);
    }
    format!("{}  {bar}{text}{}", paint.bold(&label), paint.red(&failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::oci::{Digest, Reference};
    use crate::transfer::Event;

    #[test]
    fn bar_is_never_longer_than_its_room() {
        for (at, of, room, length, filled) in [
            (0, 10, 30, 24, 0),
            (5, 10, 30, 24, 12),
            (10, 10, 30, 24, 24),
            (99, 10, 30, 24, 24),
            (0, 0, 30, 24, 24),
            (u64::MAX, u64::MAX, 30, 24, 24),
            (5, 10, 11, 10, 5),
            (5, 10, 8, 0, 0),
            (5, 10, 0, 0, 0),
        ] {
            let bar = bar(at, of, room);
            let drawn = (bar.trim_end().chars().count(), bar.matches('━').count());
            assert_eq!(drawn, (length, filled), "{at}/{of} in {room}");
        }
    }

    #[test]
    fn text_is_cut_between_words() {
        for (text, width, expected) in [
            ("one two three", 13, "one two three"),
            ("one two three", 12, "one two …"),
            ("one two three", 9, "one two …"),
            ("one two three", 8, "one …"),
            ("one two three", 2, "…"),
            ("one", 0, ""),
            ("日本 語", 7, "日本 語"),
            ("日本 語", 6, "日本 …"),
        ] {
            assert_eq!(fit(text, width), expected, "{width}");
            assert!(width_of(&fit(text, width)) <= width);
        }
    }

    /// Twelve blobs of an image, half of the first one downloaded, eight seconds into a run.
    fn in_progress() -> (RunState, Instant) {
        let start = Instant::now();
        let mut state = RunState::new(start);
        let reference =
            Reference::parse("registry.example.com/team/application-server:1.2.3-debian").unwrap();
        state.note(&Event::RunStarted { images: 3 }, start);
        state.sample(start);
        let planned = Event::ImagePlanned {
            reference: &reference,
            fetch_bytes: 12_000_000,
            reuse_bytes: 0,
            omitted: &[],
        };
        state.note(&planned, start);
        for other in ["nginx", "redis"] {
            let reference = Reference::parse(other).unwrap();
            state.note(
                &Event::ImagePlanned { reference: &reference, fetch_bytes: 0, reuse_bytes: 5, omitted: &[] },
                start,
            );
        }
        for n in 0..12_u8 {
            let digest = Digest::of(&[n]);
            let started = Event::BlobStarted { reference: &reference, digest, size: 1_000_000, resumed: 0 };
            state.note(&started, start);
        }
        let first = state.active[0].digest;
        state.note(&Event::BlobAdvanced { digest: first, bytes: 500_000 }, start);
        let now = start + Duration::from_secs(8);
        state.sample(now);
        (state, now)
    }

    #[test]
    fn frames_at_fixed_sizes() {
        use std::fmt::Write;
        let mut text = String::new();
        for (columns, rows) in [(160, 45), (120, 24), (80, 24), (60, 12), (40, 10), (24, 6)] {
            let (mut state, now) = in_progress();
            let mut shown = 0;
            writeln!(text, "{columns}x{rows}").unwrap();
            let size = TerminalSize { columns, rows };
            let mut frame = lines(&state, &mut shown, size, now, Paint::Plain);
            let error =
                Error::new(ErrorKind::Unavailable, "http://a.io/v2/x/blobs/y", "status 503, which passes");
            state.note(&Event::Retrying { subject: "sha256:0011", attempts: 1, error: &error }, now);
            frame.extend(lines(&state, &mut shown, size, now, Paint::Plain).into_iter().skip(shown));
            for line in frame {
                assert!(width_of(&line) <= columns, "{line}");
                writeln!(text, "|{line}").unwrap();
            }
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots"));
        settings.bind(|| insta::assert_snapshot!("bars", text));
    }

    #[test]
    fn first_seconds_have_no_estimate() {
        let start = Instant::now();
        let mut state = RunState::new(start);
        let reference = Reference::parse("nginx").unwrap();
        state.note(&Event::RunStarted { images: 1 }, start);
        state.note(
            &Event::ImagePlanned {
                reference: &reference,
                fetch_bytes: 9_000_000,
                reuse_bytes: 0,
                omitted: &[],
            },
            start,
        );
        let digest = Digest::of(b"a");
        let started = Event::BlobStarted { reference: &reference, digest, size: 9_000_000, resumed: 0 };
        state.note(&started, start);
        state.sample(start);
        for seconds in 1..10 {
            let now = start + Duration::from_secs(seconds);
            state.note(&Event::BlobAdvanced { digest, bytes: 100_000 }, now);
            state.sample(now);
            let line = total_line(&state, 120, now, Paint::Plain);
            assert_eq!(line.contains(" left"), seconds >= 5, "{seconds}: {line}");
        }
    }
}
