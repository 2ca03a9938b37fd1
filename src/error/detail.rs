//! The facts behind an error, as data. Callers decide by these, never by the text.

use serde::{Deserialize, Serialize};
use std::io;

/// The facts behind an [`Error`](super::Error).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Detail {
    /// An HTTP request failed, or was answered with an error status.
    Http {
        /// The URL that was requested, without user, password, query and fragment, which may hold secrets.
        url: String,
        /// How far the exchange came.
        phase: Phase,
        /// The response's status; `None` when there was no response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// The errors that the response's body lists.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        errors: Vec<RegistryError>,
        /// Whether the response was a web page: a proxy, captive portal or login page sent it, not a registry.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        web_page: bool,
    },
    /// Content differs from what was announced: two digests, or two sizes in bytes.
    Mismatch {
        /// The digest or size that was announced or requested.
        expected: String,
        /// The digest or size of what was received.
        actual: String,
    },
    /// An image lacks requested platforms.
    Platform {
        /// The requested platforms that are missing.
        wanted: Vec<String>,
        /// The platforms that the image has.
        available: Vec<String>,
    },
    /// A tag of the directory holds an image from another source.
    SourceConflict {
        /// The tag: `repository:tag`.
        place: String,
        /// Where its image comes from.
        recorded: String,
        /// The image that was to replace it.
        requested: String,
    },
    /// None of an image's signatures is accepted.
    Signatures {
        /// The digest that must be signed.
        digest: String,
        /// Why each signature is not accepted; empty if there is none.
        rejected: Vec<String>,
    },
    /// A local file operation failed.
    Io {
        /// The file or directory.
        path: String,
        /// What was attempted: "write", "create the directory".
        operation: String,
        /// The reason that the operating system gave.
        reason: String,
        /// The operating system's error number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        os_error: Option<i32>,
        /// The standard library's classification of the failure.
        #[serde(skip, default = "unknown_io_kind")]
        io_kind: io::ErrorKind,
    },
}

fn unknown_io_kind() -> io::ErrorKind {
    io::ErrorKind::Other
}

impl Detail {
    /// A file operation that failed with `cause`.
    pub(super) fn io(path: String, operation: &str, cause: &io::Error) -> Self {
        Self::Io {
            path,
            operation: operation.to_owned(),
            reason: cause.to_string(),
            os_error: cause.raw_os_error(),
            io_kind: cause.kind(),
        }
    }

    /// The HTTP status, where there was a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Http { status, .. } => *status,
            _ => None,
        }
    }

    /// What the operating system reported, where a file operation failed.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { io_kind: io::ErrorKind::Other, os_error: Some(code), .. } => {
                Some(io::Error::from_raw_os_error(*code).kind())
            }
            Self::Io { io_kind, .. } => Some(*io_kind),
            _ => None,
        }
    }

    /// The errors that the response's body lists.
    #[must_use]
    pub fn registry_errors(&self) -> &[RegistryError] {
        match self {
            Self::Http { errors, .. } => errors,
            _ => &[],
        }
    }
}

/// How far an HTTP exchange came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Resolving the name and connecting, through a proxy where one is configured.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Sending the request and receiving the status and headers.
    Headers,
    /// Receiving or sending the body.
    Body,
}

/// One error from a response's body (distribution-spec "Error Codes"; the XML of object storage is read too).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegistryError {
    /// The code: `MANIFEST_UNKNOWN`, `DENIED`. Empty when the response names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The server's message. Empty when the response has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
