//! What every command runs with, and the one place where commands start, log, colour and fail.

use crate::cli::args::output::{Color, GlobalArgs, LogFormat};
use crate::cli::config::Environment;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output::{self, Label, Paint, clean};
use crate::cli::ui::terminal::{self, Terminal};
use crate::error::{Error, ErrorKind, Result};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

/// What a command runs with.
pub(crate) struct Context<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) terminal: Arc<Terminal>,
    is_quiet: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &GlobalArgs, environment: &'a Environment) -> Self {
        let paint = match global.log_format {
            LogFormat::Github => Paint::Github,
            _ if uses_color(global.color, environment) => Paint::Color,
            _ => Paint::Plain,
        };
        let terminal = Terminal::new(paint);
        terminal::start_log(&terminal, global.verbose, global.log_format);
        Self { environment, terminal, is_quiet: global.quiet }
    }

    /// The same, as with `--quiet`.
    pub(crate) fn quietly(&self) -> Self {
        Self { environment: self.environment, terminal: Arc::clone(&self.terminal), is_quiet: true }
    }

    pub(crate) fn paint(&self) -> Paint {
        self.terminal.paint()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    fn print(&self, label: Label, text: &str) {
        self.terminal.line(self.paint().message(label, &clean(text)).trim_end());
    }

    /// Prints a warning, unless `--quiet` is given.
    pub(crate) fn warn(&self, text: &str) {
        if !self.is_quiet() {
            self.print(Label::Warning, text);
        }
    }

    /// Prints a note, unless `--quiet` is given.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_quiet() {
            self.print(Label::Note, text);
        }
    }

    /// Prints an error that ended the command; the exit code that goes with it.
    pub(crate) fn fail(&self, error: &Error) -> Exit {
        output::failure(error, self.paint());
        Exit::of_error(error)
    }
}

/// Whether messages on stderr are coloured.
fn uses_color(when: Color, environment: &Environment) -> bool {
    match when {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            let is_wanted = environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb");
            is_wanted && std::io::stderr().is_terminal()
        }
    }
}

/// Runs a command's `work` on a runtime of its own, to its exit code.
pub(crate) fn run(work: impl Future<Output = Exit>) -> Exit {
    raise_descriptor_limit();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(work);
            // A blocked file operation must not delay the exit.
            runtime.shutdown_background();
            exit
        }
        Err(cause) => {
            let error = Error::storage("runtime", "start the worker threads", cause);
            output::failure(&error, Paint::Plain);
            Exit::Stopped
        }
    }
}

/// Runs `work` within the time that `--timeout` allows.
///
/// # Errors
/// Those of `work`; `Storage`, which stops a command, when the time is up.
pub(crate) async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(timed_out(limit)))
}

/// The error of a command whose time was up.
pub(crate) fn timed_out(limit: Duration) -> Error {
    let why = format!("the time limit of {} was reached", output::time(limit));
    Error::new(ErrorKind::Storage, "--timeout", why)
}

/// Raises the soft limit of open files to the hard limit, which needs no permission. Connections and blobs take a descriptor or two
/// each, and a shell's usual soft limit is 1024. Failing to raise it is no error: what exceeds the limit fails by itself.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
