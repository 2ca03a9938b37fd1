//! What a request that is not granted is told (OCI distribution-spec, "Error Codes").

use crate::error::{Error, ErrorKind};
use hyper::StatusCode;
use serde::Serialize;

/// A status, one of the specification's codes, and words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) detail: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: &str, detail: impl ToString) -> Self {
        Self { status, code, message: message.to_owned(), detail: detail.to_string() }
    }

    /// A path that is none of the specification's endpoints.
    pub(super) fn no_such_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "there is no such endpoint", "")
    }

    /// A method that would change something.
    pub(super) fn read_only(method: &hyper::Method) -> Self {
        let detail = format!("{method} is not possible");
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

    /// A Range of which the blob has no byte (RFC 9110, 15.5.17).
    pub(super) fn range_unsatisfiable(size: u64) -> Self {
        let detail = format!("the blob has {size} bytes");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "no such range", detail)
    }

    /// A tree that can't be read or is damaged. The client is not told paths of this machine: the log is.
    pub(super) fn of_store(error: &Error) -> Self {
        tracing::warn!(%error, "the store could not answer");
        let message = match error.kind() {
            ErrorKind::Corrupt => "the stored content is damaged",
            _ => "the store can't be read",
        };
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message, "")
    }

    /// The body: `{"errors":[{code, message, detail}]}`.
    pub(super) fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Document<'a> {
            errors: [Entry<'a>; 1],
        }
        #[derive(Serialize)]
        struct Entry<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            detail: &'a str,
        }
        let entry = Entry { code: self.code, message: &self.message, detail: &self.detail };
        serde_json::to_vec(&Document { errors: [entry] }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_form_of_the_specification() {
        let refusal = Refusal::blob_unknown("sha256:\"x\"\u{1b}");
        assert_eq!(
            String::from_utf8(refusal.body()).unwrap(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry","detail":"sha256:\"x\"\u001b"}]}"#
        );
        assert!(!String::from_utf8(Refusal::no_such_endpoint().body()).unwrap().contains("detail"));
    }

    #[test]
    fn a_store_error_tells_no_path() {
        let error = Error::storage("/srv/secret/docker", "read", std::io::ErrorKind::PermissionDenied.into());
        let body = String::from_utf8(Refusal::of_store(&error).body()).unwrap();
        assert!(!body.contains("/srv"), "{body}");
    }
}
