//! Standard error, as lines above a footer that is redrawn in place, so that messages, logs and bars do not mix.

use super::output::{self, Paint, TerminalSize, width_of};
use crate::cli::args::output::LogFormat;
use parking_lot::{Mutex, MutexGuard};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, filter, fmt};

/// Standard error.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    /// The footer as it was drawn; the cursor is below it.
    footer: Mutex<Vec<String>>,
    paint: Paint,
}

impl Terminal {
    pub(crate) fn new(paint: Paint) -> Arc<Self> {
        Arc::new(Self { footer: Mutex::default(), paint })
    }

    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    fn footer(&self) -> MutexGuard<'_, Vec<String>> {
        self.footer.lock()
    }

    /// Prints a line above the footer. Text from elsewhere must be clean already.
    pub(crate) fn line(&self, line: &str) {
        let footer = self.footer();
        let mut text = erase(&footer, columns());
        text.push_str(line);
        text.push('\n');
        text.push_str(&lines(&footer));
        write(&text);
    }

    /// Replaces the footer. What does not fit on the screen is left out: it could not be erased again.
    pub(crate) fn draw_footer(&self, mut new: Vec<String>, size: TerminalSize) {
        new.drain(..new.len().saturating_sub(size.rows.saturating_sub(1)));
        let mut footer = self.footer();
        let mut text = erase(&footer, size.columns);
        text.push_str(&lines(&new));
        *footer = new;
        write(&text);
    }

    /// Erases the footer.
    pub(crate) fn clear_footer(&self) {
        let mut footer = self.footer();
        if !footer.is_empty() {
            write(&erase(&footer, columns()));
            footer.clear();
        }
    }
}

fn columns() -> usize {
    output::columns(io::stderr()).unwrap_or(80)
}

/// Moves the cursor to the first row of `footer`, and erases from there. A terminal that became narrower has wrapped the lines that
/// no longer fit.
fn erase(footer: &[String], columns: usize) -> String {
    let rows: usize = footer.iter().map(|line| width_of(line).div_ceil(columns.max(1)).max(1)).sum();
    match rows {
        0 => String::new(),
        rows => format!("\r\x1b[{rows}A\x1b[J"),
    }
}

fn lines(footer: &[String]) -> String {
    footer.iter().fold(String::new(), |mut text, line| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
        text
    })
}

/// Writes in one call, so that a frame is never seen in part. There is nowhere to report a failure.
fn write(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Sends the log to `terminal`: warnings, and with `verbose` what saver does. Only targets of saver are logged: those of the HTTP
/// libraries may contain headers, and headers contain credentials.
pub(crate) fn start_log(terminal: &Arc<Terminal>, verbose: u8, format: LogFormat) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let own = filter::Targets::new().with_target("saver", level);
    let writer = LogWriter { terminal: Arc::clone(terminal), format };
    let layer = match format {
        LogFormat::Text => fmt::layer().with_ansi(false).with_target(false).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer().json().with_writer(writer).boxed(),
        LogFormat::Github => {
            let layer = fmt::layer().with_ansi(false).with_target(false).with_level(false).without_time();
            layer.with_writer(writer).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(own));
    // A second log in one process (a test) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The workflow command of GitHub Actions for log lines of this level.
fn github_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "debug",
    }
}

struct LogWriter {
    terminal: Arc<Terminal>,
    format: LogFormat,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine { writer: self, level: Level::WARN }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LogLine<'a> {
        LogLine { writer: self, level: *metadata.level() }
    }
}

struct LogLine<'a> {
    writer: &'a LogWriter,
    level: Level,
}

impl Write for LogLine<'_> {
    /// A log line is written in one call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\n');
        let terminal = &self.writer.terminal;
        match self.writer.format {
            LogFormat::Text => terminal.line(&output::clean(text)),
            LogFormat::Json => terminal.line(&output::clean_json(text)),
            LogFormat::Github => {
                let line = output::github_command(github_level(self.level), &output::clean(text));
                terminal.line(line.trim_end());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_are_erased_whole() {
        let footer = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        for (lines, columns, expected) in [
            (&[][..], 80, ""),
            (&["a", ""], 80, "\r\x1b[2A\x1b[J"),
            (&["0123456789", "\x1b[2mab\x1b[0m"], 10, "\r\x1b[2A\x1b[J"),
            (&["0123456789", "ab"], 4, "\r\x1b[4A\x1b[J"),
            (&["0123456789"], 0, "\r\x1b[10A\x1b[J"),
        ] {
            assert_eq!(erase(&footer(lines), columns), expected, "{lines:?} at {columns}");
        }
    }
}
