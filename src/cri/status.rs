//! Converts errors to gRPC statuses.

use crate::error::{Error, ErrorKind};
use std::io;
use tonic::{Code, Status};

/// The length limit of a message in bytes: it is sent as a header, whose size clients limit.
const MAX_MESSAGE: usize = 2048;

/// The status for `error`: the code of its kind, the message and the hint.
pub(super) fn of(error: &Error) -> Status {
    let mut message = match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    };
    let end = (0..=MAX_MESSAGE.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or_default());
    Status::new(code(error), message)
}

fn code(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::NotFound | ErrorKind::PlatformNotFound => Code::NotFound,
        ErrorKind::Unauthorized => Code::Unauthenticated,
        ErrorKind::RateLimited | ErrorKind::TooLarge => Code::ResourceExhausted,
        ErrorKind::Unavailable | ErrorKind::UnknownHost | ErrorKind::ConnectionRefused => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        // Not Unimplemented, which clients take for a service of another version.
        ErrorKind::Unsupported | ErrorKind::Certificate | ErrorKind::Drift | ErrorKind::Untrusted => {
            Code::FailedPrecondition
        }
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Storage => match error.io_kind() {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Code::ResourceExhausted,
            // Another process holds the lock.
            Some(io::ErrorKind::WouldBlock) => Code::Unavailable,
            _ => Code::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_map_to_codes() {
        let storage = |kind| Error::storage("/x", "write", io::Error::from(kind));
        for (error, expect) in [
            (Error::new(ErrorKind::RateLimited, "a", "b"), Code::ResourceExhausted),
            (Error::new(ErrorKind::Unauthorized, "a", "b"), Code::Unauthenticated),
            (Error::new(ErrorKind::Unsupported, "a", "b"), Code::FailedPrecondition),
            (storage(io::ErrorKind::StorageFull), Code::ResourceExhausted),
            (storage(io::ErrorKind::WouldBlock), Code::Unavailable),
            (storage(io::ErrorKind::PermissionDenied), Code::Internal),
        ] {
            assert_eq!(code(&error), expect, "{error}");
        }
        let status = of(&Error::new(ErrorKind::NotFound, "a", "is gone").with_hint("look"));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "a: is gone (look)"));
    }
}
