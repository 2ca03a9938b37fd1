//! The display of a run, from its start to its exit code, whatever the command.

use super::exit::Exit;
use super::output_files::{OutputFiles, RunResult};
use super::progress::Progress;
use super::terminal::Terminal;
use super::wording::Wording;
use super::{failures, output, tables};
use crate::cli::args::output::ProgressMode;
use crate::cli::context::{Context, timed_out};
use crate::cli::interrupt::Interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use crate::store::FreeSpace;
use crate::transfer::{Observer, Plan, Report, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The display of a run.
pub(crate) struct RunDisplay {
    wording: Wording,
    progress: Progress,
    interrupt: Interrupt,
    cancel: CancellationToken,
    /// How long the run may take.
    limit: Option<Duration>,
    /// Whether it took longer.
    is_timed_out: Arc<AtomicBool>,
    files: OutputFiles,
    terminal: Arc<Terminal>,
    /// Whether a table is printed to stdout.
    has_table: bool,
    is_quiet: bool,
}

impl RunDisplay {
    /// Starts to show a run. Must be called on a runtime.
    ///
    /// # Errors
    /// `Storage` when signals cannot be received.
    pub(crate) fn start(
        wording: Wording,
        mode: ProgressMode,
        files: OutputFiles,
        limit: Option<Duration>,
        context: &Context<'_>,
    ) -> Result<Self> {
        let is_quiet = context.is_quiet();
        let progress = Progress::start(wording, mode, context);
        let interrupt = Interrupt::listen(progress.on_interrupt())?;
        let has_table = !is_quiet && mode != ProgressMode::Json;
        let terminal = Arc::clone(&context.terminal);
        let is_timed_out = Arc::<AtomicBool>::default();
        let cancel = interrupt.token().child_token();
        if let Some(limit) = limit {
            let cancel = cancel.clone();
            let is_timed_out = Arc::clone(&is_timed_out);
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                is_timed_out.store(true, Ordering::Release);
                cancel.cancel();
            });
        }
        Ok(Self {
            wording,
            progress,
            interrupt,
            cancel,
            limit,
            is_timed_out,
            files,
            terminal,
            has_table,
            is_quiet,
        })
    }

    /// Shows images by their names at `registry`, to which they are copied.
    pub(crate) fn to(self, registry: Registry) -> Self {
        self.progress.set_destination(registry);
        self
    }

    /// The observer of the run's events.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        self.progress.observer()
    }

    /// The token that a signal or the time limit cancels.
    pub(crate) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Shows the result of a dry run, with the free space of the disk where it matters, and writes the files.
    ///
    /// # Errors
    /// `Storage` when the report or the failed list cannot be written.
    pub(crate) fn planned(
        mut self,
        plan: &Plan,
        free: Option<FreeSpace>,
        failed_list: Option<String>,
    ) -> Result<Exit> {
        self.progress.stop_planning(plan);
        if self.has_table {
            let mut table = tables::of_plan(
                &self.progress.shown(plan),
                self.wording,
                free,
                output::columns(std::io::stdout()),
            );
            if !self.progress.has_noted_sparse() {
                table.push_str(&tables::note_of_plan(plan));
            }
            let _ = output::stdout(table.as_bytes());
        }
        let paint = self.terminal.paint();
        output::stderr_text(&failures::of_plan(plan, self.is_quiet, paint));
        let shortage = free.and_then(|free| shortage(plan, free));
        if let Some(error) = &shortage {
            output::failure(error, paint);
        }
        let result = RunResult::Plan(plan);
        std::mem::take(&mut self.files).write(result, self.wording, failed_list.as_deref())?;
        let has_failures = plan.images.iter().any(|image| image.status == Status::Failed);
        Ok(if self.interrupt.was_asked() {
            Exit::Interrupted
        } else if shortage.is_some() || self.report_timeout() {
            Exit::Stopped
        } else if has_failures {
            Exit::SomeFailed
        } else {
            Exit::Done
        })
    }

    /// Shows the result of a run with the closing table, and writes the files.
    ///
    /// # Errors
    /// `Storage` when the report or the failed list cannot be written.
    pub(crate) fn finished(self, report: &Report, failed_list: Option<String>) -> Result<Exit> {
        let wording = self.wording;
        let print_table = || {
            let _ = output::stdout(tables::of_report(report, wording).as_bytes());
        };
        self.finished_with(report, failed_list, print_table)
    }

    /// As `finished`, with what `print` prints instead of the table.
    ///
    /// # Errors
    /// As `finished`.
    pub(crate) fn finished_with(
        mut self,
        report: &Report,
        failed_list: Option<String>,
        print: impl FnOnce(),
    ) -> Result<Exit> {
        self.progress.stop(report);
        let paint = self.terminal.paint();
        output::stderr_text(&failures::of_report(report, self.is_quiet, paint));
        if self.has_table {
            print();
            if !self.wording.is_archive && !self.progress.has_noted_sparse() {
                let _ = output::stdout(tables::note_of_report(report).as_bytes());
            }
        }
        output::stderr_text(&failures::conclusion(report, self.wording, paint));
        let result = RunResult::Report(report);
        std::mem::take(&mut self.files).write(result, self.wording, failed_list.as_deref())?;
        Ok(match Exit::of_report(report) {
            Exit::Done => Exit::Done,
            Exit::SomeFailed | Exit::Interrupted if self.interrupt.was_asked() => Exit::Interrupted,
            exit => {
                if self.report_timeout() {
                    Exit::Stopped
                } else {
                    exit
                }
            }
        })
    }

    /// Prints that the time limit ended the run, if it did.
    fn report_timeout(&self) -> bool {
        let limit = self.limit.filter(|_| self.is_timed_out.load(Ordering::Acquire));
        if let Some(limit) = limit {
            output::failure(&timed_out(limit), self.terminal.paint());
        }
        limit.is_some()
    }
}

/// Why a plan does not fit on the disk, as far as that is known: bytes of manifests and files of tags are not counted.
fn shortage(plan: &Plan, free: FreeSpace) -> Option<Error> {
    // Content and link, each in a directory of its own.
    let files = plan.fetch_blobs.saturating_mul(4);
    let (why, hint) = if free.bytes < plan.fetch_bytes {
        let needed = output::size(plan.fetch_bytes);
        let available = output::size(free.bytes);
        (format!("not enough disk space: {needed} needed, {available} available"), "free some space")
    } else {
        let available = free.inodes.filter(|inodes| *inodes < files)?;
        let why = format!("not enough inodes: at least {files} needed, {available} available");
        (why, "remove some files (df -i shows the inodes)")
    };
    let error = Error::new(ErrorKind::Storage, "", why);
    Some(error.with_hint(format!("{hint}, or save into a directory on another file system")))
}
