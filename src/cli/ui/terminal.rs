//! The one way to stderr while a run goes on, so that lines, logs and bars do not run into each other.

use crate::cli::args::LogFormat;
use crate::cli::ui::output::{self, Paint};
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, filter, fmt};

/// Stderr, with or without bars at its foot.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    bars: Mutex<Option<MultiProgress>>,
    /// Whether what is printed may have colours.
    colours: bool,
}

impl Screen {
    pub(crate) fn new(colours: bool) -> Arc<Self> {
        Arc::new(Self { bars: Mutex::default(), colours })
    }

    pub(crate) fn paint(&self) -> Paint {
        Paint(self.colours)
    }

    fn bars(&self) -> MutexGuard<'_, Option<MultiProgress>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows bars from now on.
    pub(crate) fn set_bars(&self, bars: MultiProgress) {
        *self.bars() = Some(bars);
    }

    /// Takes the bars away for good.
    pub(crate) fn end_bars(&self) {
        if let Some(bars) = self.bars().take() {
            // A terminal that is gone needs no clearing.
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Writes whole lines, above the bars if there are any.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let bars = self.bars().clone();
        let print = || io::stderr().lock().write_all(bytes);
        match bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// Prints a line. What it holds of others' text must be clean already.
    pub(crate) fn line(&self, line: &str) {
        // There is nobody to tell when stderr is gone.
        let _ = self.write(format!("{line}\n").as_bytes());
    }
}

/// Sends the log to `screen`: warnings, and with `verbose` what saver itself does. Only its own targets
/// are ever logged: those of the HTTP libraries may print headers, and headers hold credentials.
pub(crate) fn start_log(screen: &Arc<Screen>, verbose: u8, format: LogFormat) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let own = filter::Targets::new().with_target("saver", level);
    let writer = LogWriter { screen: screen.clone(), format };
    let layer = match format {
        LogFormat::Text => fmt::layer().with_ansi(false).with_target(false).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer().json().with_writer(writer).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(own));
    // A second log in one process (a test) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct LogWriter {
    screen: Arc<Screen>,
    format: LogFormat,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(self)
    }
}

struct LogLine<'a>(&'a LogWriter);

impl Write for LogLine<'_> {
    /// A log line comes in one piece.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\n');
        match self.0.format {
            LogFormat::Text => self.0.screen.line(&output::clean(text)),
            LogFormat::Json => self.0.screen.line(&output::clean_json(text)),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
