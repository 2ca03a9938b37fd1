//! The library's error type.
//!
//! An [`Error`] has a [kind](ErrorKind) that callers act on, a subject, structured [detail](Detail) and, where there is
//! advice, a hint. Its text is rendered in one place (`render.rs`); no decision depends on that text.

mod detail;
mod kind;
mod render;
mod report;

pub use detail::{Detail, Phase, RegistryError};
pub use kind::ErrorKind;
pub use report::ErrorReport;

use serde::{Deserialize, Serialize};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which end of a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Where content comes from.
    Source,
    /// Where content goes.
    Sink,
}

/// A failure: its kind, what it concerns, why it happened and what to try.
///
/// `Display` prints `subject: message` on one line, followed by the number of attempts and earlier causes; the hint is
/// separate. No field holds secrets.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    side: Option<Side>,
    subject: String,
    summary: String,
    detail: Option<Detail>,
    /// `summary` and `detail` as text.
    message: String,
    hint: Option<String>,
    attempts: u32,
    causes: Vec<Error>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl Error {
    /// An error of `kind` about `subject` (a reference, digest, path or address).
    pub fn new(kind: ErrorKind, subject: impl fmt::Display, message: impl Into<String>) -> Self {
        let summary = message.into();
        Self(Box::new(Inner {
            kind,
            side: None,
            subject: subject.to_string(),
            message: summary.clone(),
            summary,
            detail: None,
            hint: None,
            attempts: 1,
            causes: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// An error whose message is the text of `detail`.
    pub fn from_detail(kind: ErrorKind, subject: impl fmt::Display, detail: Detail) -> Self {
        Self::new(kind, subject, "").with_detail(detail)
    }

    /// A local file operation that failed on `path`; `operation` reads like "write" or "create the directory".
    pub fn storage(path: impl fmt::Display, operation: &str, cause: io::Error) -> Self {
        let path = path.to_string();
        let detail = Detail::io(path.clone(), operation, &cause);
        let error = Self::from_detail(ErrorKind::Storage, path, detail).on(Side::Sink);
        let error = match storage_hint(&cause) {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        error.with_source(cause)
    }

    /// A bug in saver that was met while it worked on `subject`: a task or thread panicked.
    pub fn internal(subject: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, subject, "internal error")
            .with_hint("this is a bug in saver: please report it with the output of -vv")
    }

    /// Replaces the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Replaces the subject: for a failure of a part that is reported for the whole.
    #[must_use]
    pub fn with_subject(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject = subject.to_string();
        self
    }

    /// Puts `context` in front of the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.summary = if self.0.summary.is_empty() {
            context.to_string()
        } else {
            format!("{context}: {}", self.0.summary)
        };
        self.rendered()
    }

    /// Adds the facts behind the failure, which the message then includes.
    #[must_use]
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.0.detail = Some(detail);
        self.rendered()
    }

    fn rendered(mut self) -> Self {
        self.0.message = render::message(&self.0.summary, self.0.detail.as_ref());
        self
    }

    /// Adds advice on what to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says which end of the transfer failed.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.0.side = Some(side);
        self
    }

    /// Says how many times the request was made.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts.max(1);
        self
    }

    /// Adds a failure that came before this one.
    #[must_use]
    pub fn with_cause(mut self, cause: Self) -> Self {
        self.0.causes.push(cause);
        self
    }

    /// Keeps the underlying error for `source()`.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Forbids a retry before `delay` has passed (a Retry-After header).
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The category.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Which end failed, where that is known.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        self.0.side
    }

    /// What it concerns: a reference, digest, path or address.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What happened and why, without the subject.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message without the text of [`detail`](Self::detail). May be empty.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.0.summary
    }

    /// The facts behind the failure.
    #[must_use]
    pub fn detail(&self) -> Option<&Detail> {
        self.0.detail.as_ref()
    }

    /// What to try, where there is advice to give.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How many times the request was made; 1 when it was not repeated.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Failures that came before this one, such as each mirror that was tried.
    #[must_use]
    pub fn causes(&self) -> &[Self] {
        &self.0.causes
    }

    /// The HTTP status of the response that failed, where there was one.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        self.detail().and_then(Detail::status)
    }

    /// Whether the registry's response lists an error of this code (`MANIFEST_UNKNOWN`).
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.detail().is_some_and(|detail| detail.registry_errors().iter().any(|error| error.code == code))
    }

    /// What the operating system reported, where a file operation failed: a full disk, a lock that another process
    /// holds (`WouldBlock`).
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let source = self.0.source.as_deref().and_then(|source| source.downcast_ref::<io::Error>());
        source.map(io::Error::kind).or_else(|| self.detail().and_then(Detail::io_kind))
    }

    /// How long the server asked to wait before another attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

/// What to try after a file operation failed with `cause`.
fn storage_hint(cause: &io::Error) -> Option<&'static str> {
    match cause.kind() {
        io::ErrorKind::StorageFull => {
            Some("free some space and run the same command again: finished downloads are kept")
        }
        io::ErrorKind::QuotaExceeded => {
            Some("raise the quota and run the same command again: finished downloads are kept")
        }
        io::ErrorKind::PermissionDenied => {
            Some("run as a user with write permission, or choose another directory")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("mount the file system read-write, or choose another directory")
        }
        io::ErrorKind::NotADirectory => {
            Some("a file exists where a directory is needed: move it or choose another directory")
        }
        io::ErrorKind::FileTooLarge => Some(
            "raise the file size limit (ulimit -f), or choose a file system that supports files of this size",
        ),
        _ if cause.raw_os_error() == Some(libc::EMFILE) => {
            Some("raise the open files limit (ulimit -n) or lower --jobs")
        }
        _ => None,
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("side", &self.0.side)
            .field("subject", &self.0.subject)
            .field("message", &self.0.message)
            .field("attempts", &self.0.attempts)
            .field("causes", &self.0.causes)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}
