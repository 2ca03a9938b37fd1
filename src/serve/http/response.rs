//! Builds the responses that several handlers need.

use super::body::Body;
use super::error::ApiError;
use crate::error::{Error, ErrorKind};
use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) type HandlerResult = Result<Response<Body>, ApiError>;

/// A JSON document, with a `Link` header if there is more.
pub(super) fn list(body: &impl Serialize, link: Option<String>) -> HandlerResult {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = document(StatusCode::OK, JSON, bytes.into());
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, header_value(&link)?);
    }
    Ok(response)
}

/// A header value. Media types come from documents, and must not inject headers.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text).map_err(|_| {
        ApiError::of_store(&Error::new(ErrorKind::Corrupt, format!("{text:?}"), "not a valid header value"))
    })
}

pub(super) fn of_store(error: Error) -> ApiError {
    ApiError::of_store(&error)
}

/// A response with a document. The length is set here and not by the body, which a response to HEAD does not have.
pub(super) fn document(status: StatusCode, content_type: HeaderValue, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(Body::document(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}
