//! Exit codes.

use crate::error::{Error, ErrorKind};
use crate::transfer::{Report, Status};
use std::io;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// Some images failed, or the directory has problems; the other images are saved.
    SomeFailed,
    /// The command line, the configuration or a list is wrong; nothing was downloaded.
    Usage,
    /// The run could not continue: disk full, permission denied, directory locked, time limit; or an internal error.
    Stopped,
    /// Interrupted by a signal.
    Interrupted,
}

impl Exit {
    /// The code, as documented in the help.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed => 1,
            Self::Usage => 2,
            Self::Stopped => 3,
            Self::Interrupted => 130,
        }
    }

    /// The exit code for an error that ended a command: the only place where a kind becomes a code.
    #[must_use]
    pub fn of_error(error: &Error) -> Self {
        match error.io_kind() {
            // A path on the command line. What vanishes during a run is in its report.
            Some(io::ErrorKind::NotFound) => Self::Usage,
            _ => Self::of_kind(error.kind()),
        }
    }

    fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput | ErrorKind::Unsupported => Self::Usage,
            ErrorKind::Storage | ErrorKind::Internal => Self::Stopped,
            ErrorKind::Cancelled => Self::Interrupted,
            ErrorKind::NotFound
            | ErrorKind::PlatformNotFound
            | ErrorKind::UnknownHost
            | ErrorKind::ConnectionRefused
            | ErrorKind::Certificate
            | ErrorKind::Unauthorized
            | ErrorKind::RateLimited
            | ErrorKind::Unavailable
            | ErrorKind::TooLarge
            | ErrorKind::Corrupt
            | ErrorKind::Drift
            | ErrorKind::Untrusted => Self::SomeFailed,
        }
    }

    /// The exit code for the report of a run.
    #[must_use]
    pub fn of_report(report: &Report) -> Self {
        match &report.aborted {
            Some(failure) if failure.kind == ErrorKind::Storage => Self::Stopped,
            Some(failure) if failure.kind == ErrorKind::Cancelled => Self::Interrupted,
            // --fail-fast: the first failure, whatever it was.
            Some(_) => Self::SomeFailed,
            None if report.count(Status::Failed) > 0 => Self::SomeFailed,
            None => Self::Done,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorReport;

    #[test]
    fn kinds_have_exit_codes() {
        for (kind, code) in [
            (ErrorKind::InvalidInput, 2),
            (ErrorKind::Unsupported, 2),
            (ErrorKind::Storage, 3),
            (ErrorKind::Internal, 3),
            (ErrorKind::Cancelled, 130),
            (ErrorKind::NotFound, 1),
            (ErrorKind::Corrupt, 1),
        ] {
            let error = Error::new(kind, "x", "y");
            assert_eq!(Exit::of_error(&error).code(), code, "{kind}");
            let report = Report {
                schema: Report::SCHEMA,
                images: Vec::new(),
                bytes_fetched: 0,
                bytes_reused: 0,
                seconds: 0.0,
                aborted: Some(ErrorReport::from(&error)),
            };
            // In a report an image's own failure, which --fail-fast made the run's, is one that failed.
            let own = code == 2 || kind == ErrorKind::Internal;
            let expected = if own { 1 } else { code };
            assert_eq!(Exit::of_report(&report).code(), expected, "{kind}");
        }
    }

    #[test]
    fn paths_that_do_not_exist_are_usage_errors() {
        for (cause, code) in [
            (io::ErrorKind::NotFound, 2),
            (io::ErrorKind::NotADirectory, 3),
            (io::ErrorKind::PermissionDenied, 3),
            (io::ErrorKind::StorageFull, 3),
        ] {
            let error = Error::storage("x", "open the directory", cause.into());
            assert_eq!(Exit::of_error(&error).code(), code, "{cause}");
        }
    }
}
