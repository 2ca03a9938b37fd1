//! One error type for the whole library.
//!
//! An [`ErrorKind`] exists because some caller acts on it: the retry policy asks
//! [`ErrorKind::is_retryable`], the command line maps it to an exit code and a hint.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller needs to know to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, list, option or document that cannot be right however often it is tried.
    InvalidInput,
    /// The thing asked for is not there: a repository, tag, manifest, blob or platform.
    NotFound,
    /// The registry wants (other) credentials: status 401 or 403.
    Unauthorized,
    /// The registry asks for fewer requests: status 429.
    RateLimited,
    /// A passing fault: a connection that failed, fell silent or was cut, or status 5xx.
    Unavailable,
    /// Bytes that are not what their digest or size says.
    Corrupt,
    /// Content larger than what is accepted, or than what the disk has room for.
    TooLarge,
    /// A format or protocol that saver does not handle, named in the message.
    Unsupported,
    /// The local disk refused: full, read-only, no permission, locked. The run cannot go on.
    Storage,
    /// The caller gave up (Ctrl-C, a dropped future, `--fail-fast`).
    Cancelled,
    /// saver itself failed: a thread or task of it panicked.
    Defect,
}

impl ErrorKind {
    /// Whether trying the same again may succeed. The retry policy is its only user.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::RateLimited)
    }

    /// The kind's stable name, as reports carry it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid-input",
            Self::NotFound => "not-found",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate-limited",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too-large",
            Self::Unsupported => "unsupported",
            Self::Storage => "storage",
            Self::Cancelled => "cancelled",
            Self::Defect => "defect",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which end of a copy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where content comes from.
    Source,
    /// Where content goes.
    Sink,
}

/// A failure: what failed, on what subject, why, and what to try.
///
/// `Display` prints `subject: message`; the hint is separate, so that a table can put it
/// on a line of its own. Secrets never enter any field.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    side: Option<Side>,
    subject: String,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
    source: Option<std::sync::Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` about `subject` (a reference, digest, path or address).
    pub fn new(kind: ErrorKind, subject: impl fmt::Display, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            side: None,
            subject: subject.to_string(),
            message: message.into(),
            hint: None,
            retry_after: None,
            source: None,
        }))
    }

    /// A local file operation that failed on `path`; `doing` reads like "write" or "create the directory".
    pub fn storage(path: impl fmt::Display, doing: &str, cause: std::io::Error) -> Self {
        let hint = match cause.kind() {
            std::io::ErrorKind::StorageFull => {
                Some("free some space and run the same command again: what is saved is kept")
            }
            std::io::ErrorKind::QuotaExceeded => {
                Some("raise the quota and run the same command again: what is saved is kept")
            }
            std::io::ErrorKind::PermissionDenied => {
                Some("run as a user who may write there, or choose another directory")
            }
            std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("mount the file system read-write, or choose another directory")
            }
            std::io::ErrorKind::NotADirectory => {
                Some("a file stands where a directory is needed: move it away")
            }
            std::io::ErrorKind::FileTooLarge => Some(
                "raise the file size limit (ulimit -f), or choose a file system that takes files of this size",
            ),
            _ if cause.raw_os_error() == Some(libc::EMFILE) => {
                Some("raise the open files limit (ulimit -n) or lower --jobs")
            }
            _ => None,
        };
        let error = Self::new(ErrorKind::Storage, path, format!("cannot {doing}: {cause}"))
            .with_source(cause)
            .on(Side::Sink);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// saver's own failure while it worked on `subject`: what is told where a panic ended the work.
    pub fn defect(subject: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Defect, subject, "saver itself failed")
            .with_hint("this is a defect: please report it with the output of -vv")
    }

    /// The same error with advice on what to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error, said of one end of the copy.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.0.side = Some(side);
        self
    }

    /// The same error with its cause kept for `source()`.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(std::sync::Arc::new(source));
        self
    }

    /// The same error, not to be retried before `delay` has passed (a Retry-After header).
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The same error with more said at the end of its message.
    #[must_use]
    pub fn adding(mut self, more: &str) -> Self {
        self.0.message.push_str(more);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Which end failed, where that is known.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        self.0.side
    }

    /// What it failed on: a reference, digest, path or address.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What happened and why, without the subject.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to try, where there is advice to give.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// What the operating system said, where a file operation failed: a full disk, a lock that another has (`WouldBlock`).
    #[must_use]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        self.0.source.as_deref()?.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
    }

    /// How long the other side asked to wait before another try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subject.is_empty() {
            f.write_str(&self.0.message)
        } else {
            write!(f, "{}: {}", self.0.subject, self.0.message)
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("side", &self.0.side)
            .field("subject", &self.0.subject)
            .field("message", &self.0.message)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}
