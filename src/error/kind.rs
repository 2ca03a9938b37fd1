//! What went wrong, as far as a caller can act on it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The category of an [`Error`](super::Error).
///
/// A kind exists because a caller acts on it: the retry policy asks [`is_retryable`](Self::is_retryable), and the command
/// line maps it to an exit code. In JSON it is its [name](Self::as_str).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A reference, list, option or document is invalid.
    InvalidInput,
    /// The image, repository, tag, manifest or blob does not exist.
    NotFound,
    /// The image exists, but not for a requested platform.
    PlatformNotFound,
    /// The registry requires other credentials, or denies access (401, 403).
    Unauthorized,
    /// The registry limits the request rate (429).
    RateLimited,
    /// A transient failure: a timeout, a connection that was closed, or a server error (5xx).
    Unavailable,
    /// The host name does not exist in DNS.
    UnknownHost,
    /// No process accepts connections at the address.
    ConnectionRefused,
    /// The server's TLS certificate is not trusted, has expired, or is not valid for the host.
    Certificate,
    /// Content does not match its digest or size.
    Corrupt,
    /// The registry's content differs from what a lock file pins.
    Drift,
    /// The signature policy does not accept the image.
    Untrusted,
    /// Content exceeds a limit or the available disk space.
    TooLarge,
    /// A format, protocol or operation is not supported by saver or by the registry.
    Unsupported,
    /// A local file operation failed: disk full, read-only, permission denied, locked.
    Storage,
    /// The operation was cancelled: an interrupt, `--fail-fast`, or a dropped future.
    Cancelled,
    /// A bug in saver: one of its tasks or threads panicked.
    Internal,
}

impl ErrorKind {
    /// Whether the same request may succeed when it is repeated later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::ConnectionRefused | Self::RateLimited)
    }

    /// The stable name that reports and events use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid-input",
            Self::NotFound => "not-found",
            Self::PlatformNotFound => "platform-not-found",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate-limited",
            Self::Unavailable => "unavailable",
            Self::UnknownHost => "unknown-host",
            Self::ConnectionRefused => "connection-refused",
            Self::Certificate => "certificate",
            Self::Corrupt => "corrupt",
            Self::Drift => "drift",
            Self::Untrusted => "untrusted",
            Self::TooLarge => "too-large",
            Self::Unsupported => "unsupported",
            Self::Storage => "storage",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_name_is_the_display_name() {
        for kind in [
            ErrorKind::InvalidInput,
            ErrorKind::NotFound,
            ErrorKind::PlatformNotFound,
            ErrorKind::Unauthorized,
            ErrorKind::RateLimited,
            ErrorKind::Unavailable,
            ErrorKind::UnknownHost,
            ErrorKind::ConnectionRefused,
            ErrorKind::Certificate,
            ErrorKind::Corrupt,
            ErrorKind::Drift,
            ErrorKind::Untrusted,
            ErrorKind::TooLarge,
            ErrorKind::Unsupported,
            ErrorKind::Storage,
            ErrorKind::Cancelled,
            ErrorKind::Internal,
        ] {
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, kind.as_str());
            assert_eq!(serde_json::from_value::<ErrorKind>(json).unwrap(), kind);
        }
    }
}
