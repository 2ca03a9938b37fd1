//! Printing: the streams, and the forms of text, sizes and times.

use super::exit::Exit;
use crate::error::Error;
use crate::store::inventory::{FileCount, InternalFiles};
use std::borrow::Cow;
use std::io::{ErrorKind as IoError, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Text from elsewhere, safe to print: characters that move the cursor, colour, hide or reorder text are shown as
/// `\u{..}`. Registries choose much of what ends up in messages.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => cleaned.push(' '),
            c if is_unsafe(c) => cleaned.extend(c.escape_unicode()),
            c => cleaned.push(c),
        }
    }
    Cow::Owned(cleaned)
}

/// A value as indented JSON that is safe to print, with a line break at its end. The only writer of JSON documents.
pub(crate) fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Serialising the types of this crate to memory does not fail.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let lines: String = text.split('\n').map(|line| format!("{}\n", clean_json(line))).collect();
    lines.into_bytes()
}

/// JSON that is safe to print and still the same document: such characters occur only in strings, where they may be written
/// as `\uXXXX` (RFC 8259, 7). There is no line break in it.
pub(crate) fn clean_json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            let mut units = [0; 2];
            cleaned.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{00ad}' | '\u{034f}' | '\u{115f}' | '\u{1160}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether output to stdout was lost.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Writes to stdout. A reader that closes the pipe is not an error.
pub(crate) fn stdout(bytes: &[u8]) -> Exit {
    let mut stdout = std::io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// The exit code after a write to stdout. Only the first failure is printed.
pub(crate) fn written(outcome: std::io::Result<()>) -> Exit {
    match outcome {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == IoError::BrokenPipe => Exit::Done,
        Err(error) => {
            if !IS_LOST.swap(true, Ordering::Relaxed) {
                failure(&Error::storage("stdout", "write", error), Paint::Plain);
            }
            Exit::Stopped
        }
    }
}

/// The exit code of a command, which is not success if its output was lost.
pub(crate) fn unless_lost(exit: Exit) -> Exit {
    match exit {
        Exit::Done if IS_LOST.load(Ordering::Relaxed) => Exit::Stopped,
        exit => exit,
    }
}

/// Writes a line to stderr; there is nowhere to report a failure.
pub(crate) fn stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes text to stderr that is safe to print.
pub(crate) fn stderr_text(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints an error, and its hint on a line of its own.
pub(crate) fn failure(error: &Error, paint: Paint) {
    let mut text = clean(&error.to_string()).into_owned();
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\n  hint: {}", clean(hint)));
    }
    stderr_text(&paint.message(Label::Error, &text));
}

/// A workflow command of GitHub Actions, on a line of its own.
pub(crate) fn github_command(command: &str, text: &str) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    format!("::{command} title=saver::{text}\n")
}

/// Lines about the files that saver keeps outside the tree; empty if there are none.
pub(crate) fn internal_files(internal: &InternalFiles) -> String {
    let line = |what: &str, count: &FileCount, advice: &str| match count.files {
        0 => String::new(),
        files => {
            let files = self::count(usize::try_from(files).unwrap_or(usize::MAX), "file");
            format!("{what}: {files}, {}; {advice}\n", size(count.bytes))
        }
    };
    let partial = line(
        "interrupted downloads in .saver/partial",
        &internal.partial,
        "saving the same images resumes them",
    );
    let damaged =
        line("files moved to .saver/damaged by a repair", &internal.damaged, "saver gc removes them");
    partial + &damaged
}

/// Bytes with three significant digits, in powers of ten: `1.23 GB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match (unit, value) {
        ("B", _) => format!("{bytes} B"),
        (_, value) if value < 9.995 => format!("{value:.2} {unit}"),
        (_, value) if value < 99.95 => format!("{value:.1} {unit}"),
        (_, value) => format!("{value:.0} {unit}"),
    }
}

/// A duration: `0.4s`, `12s`, `3m05s`, `2h07m`.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 image`, `2 images`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `text` in at most `room` characters, shortened in the middle.
pub(crate) fn shortened(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    let head: String = text.chars().take(kept / 2).collect();
    let tail: String = text.chars().skip(length - (kept - kept / 2)).collect();
    format!("{head}…{tail}")
}

/// The columns that `text` takes. Escape sequences take none; characters that may be wide count as two.
pub(crate) fn width_of(text: &str) -> usize {
    let mut width = 0;
    let mut is_escape = false;
    for c in text.chars() {
        if is_escape || c == '\u{1b}' {
            is_escape = c != 'm';
        } else {
            width += if c.is_ascii() || matches!(c, '━' | '─' | '…' | '→') { 1 } else { 2 };
        }
    }
    width
}

/// The size of the terminal that `stream` is connected to, if any.
pub(crate) fn terminal_size(stream: impl std::os::fd::AsFd) -> Option<TerminalSize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    let size = TerminalSize { columns: size.ws_col.into(), rows: size.ws_row.into() };
    Some(size).filter(|size| size.columns > 0 && size.rows > 0)
}

/// The width of the terminal that `stream` is connected to, if any.
pub(crate) fn columns(stream: impl std::os::fd::AsFd) -> Option<usize> {
    terminal_size(stream).map(|size| size.columns)
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// How messages are marked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Paint {
    /// By words alone.
    #[default]
    Plain,
    /// By words and colours.
    Color,
    /// As workflow commands of GitHub Actions, which shows them as annotations.
    Github,
}

/// What a message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Error,
    Failed,
    Unfinished,
    Warning,
    Note,
}

impl Label {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error:",
            Self::Failed => "failed:",
            Self::Unfinished => "not finished:",
            Self::Warning => "warning:",
            Self::Note => "note:",
        }
    }

    /// The workflow command of GitHub Actions.
    fn command(self) -> &'static str {
        match self {
            Self::Error | Self::Failed => "error",
            Self::Unfinished | Self::Warning => "warning",
            Self::Note => "notice",
        }
    }
}

impl Paint {
    /// A message of one or more lines, with a line break at its end. Text from elsewhere must be clean already.
    pub(crate) fn message(self, label: Label, text: &str) -> String {
        let text = text.trim_end_matches('\n');
        match (self, label) {
            (Self::Github, _) => github_command(label.command(), text),
            (_, Label::Error | Label::Failed) => format!("{} {text}\n", self.red(label.word())),
            (_, Label::Unfinished | Label::Warning) => format!("{} {text}\n", self.yellow(label.word())),
            (_, Label::Note) => format!("{} {text}\n", self.dim(label.word())),
        }
    }

    fn code(self, code: &str, text: &str) -> String {
        match self {
            Self::Color => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain | Self::Github => text.to_owned(),
        }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.code("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.code("31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.code("33", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.code("2", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.code("1", text)
    }
}

/// Columns of text: each as wide as its widest cell, numbers to the right.
pub(crate) fn table(heads: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = heads.iter().map(|head| width(head)).collect();
    for row in rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths.get(index).copied().unwrap_or(0).saturating_sub(width(cell)));
            match right.get(index) {
                Some(true) => line.push_str(&format!("{pad}{cell}  ")),
                _ => line.push_str(&format!("{cell}{pad}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        for (text, expect) in [
            ("plain ünïcode 日本", "plain ünïcode 日本"),
            ("\x1b[31mred\x1b]0;title\x07", "\\u{1b}[31mred\\u{1b}]0;title\\u{7}"),
            ("a\u{202e}gpj.exe", "a\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{200b}c\u{feff}", "a\\u{2066}b\\u{200b}c\\u{feff}"),
            ("line\r\nbreak\ttab", "line  break tab"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
            ("back\u{8}space\0", "back\\u{8}space\\u{0}"),
            ("tag \u{e0041}", "tag \\u{e0041}"),
        ] {
            assert_eq!(clean(text), expect);
        }
    }

    #[test]
    fn cleaned_json_is_the_same_document() {
        let value = serde_json::json!({"message": "a\u{202e}b\u{e0041}\u{1b}\u{7f}c"});
        let text = value.to_string();
        let cleaned = clean_json(&text);
        assert!(!cleaned.chars().any(is_unsafe), "{cleaned}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(), value);
        let document = String::from_utf8(json(&value)).unwrap();
        assert!(!document.chars().any(|c| c != '\n' && is_unsafe(c)), "{document}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&document).unwrap(), value);
        assert_eq!(document.lines().count(), 3);
    }

    #[test]
    fn sizes_and_durations_are_short() {
        for (bytes, expect) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (999_499, "999 kB"),
            (999_999, "1.00 MB"),
            (1_234_567_890, "1.23 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), expect);
        }
        for (ms, expect) in
            [(0, "0.0s"), (940, "0.9s"), (12_900, "12s"), (185_000, "3m05s"), (7_620_000, "2h07m")]
        {
            assert_eq!(time(Duration::from_millis(ms)), expect);
        }
    }

    #[test]
    fn shortened_text_keeps_both_ends() {
        for (text, room, expect) in [
            ("abc", 3, "abc"),
            ("abcdef", 5, "ab…ef"),
            ("abcdef", 4, "a…ef"),
            ("日本語日本", 3, "日…本"),
            ("ab", 1, "…"),
        ] {
            assert_eq!(shortened(text, room), expect);
        }
    }

    #[test]
    fn table_columns_are_aligned() {
        let rows = [vec!["a".into(), "1".into()], vec!["long name".into(), "1000".into()]];
        assert_eq!(
            table(&["name", "size"], &[false, true], &rows),
            "name       size\na             1\nlong name  1000\n"
        );
    }
}
