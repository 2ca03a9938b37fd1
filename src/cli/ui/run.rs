//! What is shown of a run, from its beginning to its exit code, whatever the verb.

use crate::cli::args::{GlobalArgs, ProgressMode};
use crate::cli::interrupt::Interrupt;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::failures;
use crate::cli::ui::output;
use crate::cli::ui::output_files::Files;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::tables;
use crate::cli::ui::terminal::Screen;
use crate::cli::ui::wording::Words;
use crate::error::{Error, ErrorKind, Result};
use crate::store::FreeSpace;
use crate::transfer::{Observer, Plan, Report, Status};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A run that is shown.
pub(crate) struct Showing<'a> {
    words: Words,
    progress: Progress,
    interrupt: Interrupt,
    files: Files,
    screen: &'a Screen,
    /// Whether stdout is to have no table.
    no_table: bool,
    /// Whether only failures are to be told.
    quiet: bool,
}

impl<'a> Showing<'a> {
    /// Begins. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when the signals can't be had.
    pub(crate) fn start(
        words: Words,
        mode: ProgressMode,
        files: Files,
        global: &GlobalArgs,
        screen: &'a Arc<Screen>,
    ) -> Result<Self> {
        let progress = Progress::of(words, mode, global.quiet, screen.clone());
        let interrupt = Interrupt::listen(progress.on_interrupt())?;
        let no_table = global.quiet || mode == ProgressMode::Json;
        Ok(Self { words, progress, interrupt, files, screen, no_table, quiet: global.quiet })
    }

    /// Who is to be told of the run's events.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        self.progress.observer()
    }

    /// Cancelled when the user interrupts the run.
    pub(crate) fn cancel(&self) -> CancellationToken {
        self.interrupt.token()
    }

    /// Tells what a dry run found; `free` is the room that there is, where that matters, `failed` the failed list.
    ///
    /// # Errors
    /// `Storage` when the report or the failed list can't be written.
    pub(crate) fn planned(
        self,
        plan: &Plan,
        free: Option<FreeSpace>,
        failed: Option<String>,
    ) -> Result<Exit> {
        self.progress.stop_planning(plan);
        if !self.no_table {
            let table = tables::of_plan(plan, self.words, free, output::columns(std::io::stdout()));
            let _ = output::stdout(table.as_bytes());
        }
        output::stderr_text(&failures::of_plan(plan, self.quiet, self.screen.paint()));
        let full = free.and_then(|free| no_room(plan, free));
        if let Some(error) = &full {
            output::failure(error);
        }
        self.files.write(plan, failed.as_deref())?;
        let failed = plan.images.iter().any(|image| image.status == Status::Failed);
        Ok(match (self.interrupt.was_asked(), full.is_some(), failed) {
            (true, _, _) => Exit::Interrupted,
            (_, true, _) => Exit::Stopped,
            (_, _, true) => Exit::SomeFailed,
            _ => Exit::Done,
        })
    }

    /// Tells what became of a run, with the closing table.
    ///
    /// # Errors
    /// `Storage` when the report or the failed list can't be written.
    pub(crate) fn finished(self, report: &Report, failed: Option<String>) -> Result<Exit> {
        let words = self.words;
        let table = || {
            let _ = output::stdout(tables::of_report(report, words).as_bytes());
        };
        self.finished_with(report, failed, table)
    }

    /// As `finished`, with what `tell` says in place of the table.
    ///
    /// # Errors
    /// As `finished`.
    pub(crate) fn finished_with(
        self,
        report: &Report,
        failed: Option<String>,
        tell: impl FnOnce(),
    ) -> Result<Exit> {
        self.progress.stop(report);
        output::stderr_text(&failures::of_report(report, self.quiet, self.screen.paint()));
        if !self.no_table {
            tell();
        }
        output::stderr_text(&failures::last_words(report, self.words, self.screen.paint()));
        self.files.write(report, failed.as_deref())?;
        Ok(match Exit::of_report(report) {
            Exit::SomeFailed if self.interrupt.was_asked() => Exit::Interrupted,
            exit => exit,
        })
    }
}

/// Why what is planned does not fit, if it is known not to: bytes of manifests are not counted, nor files of images.
fn no_room(plan: &Plan, free: FreeSpace) -> Option<Error> {
    // Content and link, each in a directory of its own.
    let files = plan.fetch_blobs.saturating_mul(4);
    let (why, hint) = if free.bytes < plan.fetch_bytes {
        let (fetched, free) = (output::size(plan.fetch_bytes), output::size(free.bytes));
        (format!("{fetched} would be fetched, and {free} are free"), "free some space")
    } else {
        let free = free.inodes.filter(|inodes| *inodes < files)?;
        let why = format!(
            "at least {files} files and directories would be made, and {free} are free on this file system"
        );
        (why, "remove some files (df -i tells where they are)")
    };
    let error = Error::new(ErrorKind::Storage, "", why);
    Some(error.with_hint(format!("{hint} or save into another directory")))
}
