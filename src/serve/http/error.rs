//! Error responses (OCI distribution-spec, "Error Codes").

use crate::error::{Error, ErrorKind};
use hyper::StatusCode;
use serde::Serialize;

/// An error response: a status, a code of the specification, and text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) detail: String,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: &str, detail: impl ToString) -> Self {
        Self { status, code, message: message.to_owned(), detail: detail.to_string() }
    }

    /// The path is not an endpoint.
    pub(super) fn no_such_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such endpoint", "")
    }

    /// The request has no valid credentials.
    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required", "")
    }

    /// The directory is missing or not a tree. The paths stay in the log, which clients do not see.
    pub(super) fn unavailable(error: &Error) -> Self {
        tracing::warn!(%error, "the directory is not available");
        let message = "the registry's directory is not available";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message, "")
    }

    /// The server is shutting down.
    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the registry is shutting down", "")
    }

    /// The method would change something.
    pub(super) fn read_only(method: &hyper::Method) -> Self {
        let detail = format!("{method} is not supported");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only", detail)
    }

    pub(super) fn name_invalid(why: &Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid repository name", why)
    }

    pub(super) fn path_invalid(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid path", why)
    }

    pub(super) fn digest_invalid(why: &Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "invalid digest", why)
    }

    pub(super) fn page_invalid(why: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "invalid page", why)
    }

    pub(super) fn name_unknown(repository: impl ToString) -> Self {
        let message = "repository name not known to registry";
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message, repository)
    }

    pub(super) fn manifest_unknown(detail: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown", detail)
    }

    pub(super) fn blob_unknown(detail: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry", detail)
    }

    /// The blob has no byte of the range (RFC 9110, 15.5.17).
    pub(super) fn range_unsatisfiable(size: u64) -> Self {
        let detail = format!("the blob has {size} bytes");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "range not satisfiable", detail)
    }

    /// The tree cannot be read, or content is corrupt. The paths stay in the log, which clients do not see.
    pub(super) fn of_store(error: &Error) -> Self {
        tracing::warn!(%error, "cannot read the directory");
        let message = match error.kind() {
            ErrorKind::Corrupt => "stored content is corrupt",
            _ => "cannot read stored content",
        };
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message, "")
    }

    /// The response body: `{"errors":[{code, message, detail}]}`.
    pub(super) fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Document<'a> {
            errors: [ErrorEntry<'a>; 1],
        }
        #[derive(Serialize)]
        struct ErrorEntry<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            detail: &'a str,
        }
        let entry = ErrorEntry { code: self.code, message: &self.message, detail: &self.detail };
        serde_json::to_vec(&Document { errors: [entry] }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_has_form_of_specification() {
        let error = ApiError::blob_unknown("sha256:\"x\"\u{1b}");
        assert_eq!(
            String::from_utf8(error.body()).unwrap(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry","detail":"sha256:\"x\"\u001b"}]}"#
        );
        assert!(!String::from_utf8(ApiError::no_such_endpoint().body()).unwrap().contains("detail"));
    }

    #[test]
    fn store_error_reveals_no_path() {
        let error = Error::storage("/srv/secret/docker", "read", std::io::ErrorKind::PermissionDenied.into());
        let body = String::from_utf8(ApiError::of_store(&error).body()).unwrap();
        assert!(!body.contains("/srv"), "{body}");
    }
}
