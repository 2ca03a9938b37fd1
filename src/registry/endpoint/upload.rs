//! The requests of blob uploads (distribution-spec "Pushing blobs").

use super::{Answer, Endpoint, Request, drain};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Registry, Repository};
use crate::registry::CredentialSource;
use crate::registry::auth::{Auth, AuthContext, Rights};
use crate::registry::error;
use crate::registry::limiter::{Permit, Priority};
use crate::registry::message::failure;
use crate::registry::options::SessionOptions;
use crate::registry::push::location;
use crate::registry::redirect;
use crate::registry::retry_after::retry_after;
use crate::registry::transport::Purpose;
use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use url::Url;

/// The result of a request to start an upload.
pub(in crate::registry) enum UploadStart {
    /// The registry has mounted the blob from another repository.
    Mounted,
    /// The blob is to be sent to this URL, in chunks of at least `min_chunk` bytes if it is sent in chunks.
    Location { url: Url, min_chunk: u64 },
}

/// The part of a blob that one request sends: the bytes from `from` up to but excluding `to`.
#[derive(Clone, Copy, Debug)]
pub(in crate::registry) struct UploadRange {
    pub(in crate::registry) from: u64,
    pub(in crate::registry) to: u64,
    /// Whether it is one chunk of several.
    pub(in crate::registry) is_chunk: bool,
}

/// The least size of chunks that a registry accepts (distribution-spec "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// An empty body, with the Content-Length that HTTP/1.1 requires for it.
fn empty_body() -> (Vec<(HeaderName, HeaderValue)>, Option<Bytes>) {
    (vec![(CONTENT_LENGTH, HeaderValue::from_static("0"))], Some(Bytes::new()))
}

impl Endpoint {
    /// The registry itself, for reading and writing.
    ///
    /// # Errors
    /// As [`Endpoint::origin`].
    pub(in crate::registry) fn writable(
        registry: &Registry,
        credentials: Arc<dyn CredentialSource>,
        options: SessionOptions,
    ) -> Result<Self> {
        let auth = Auth::new(registry.clone(), credentials.clone(), Rights::Write);
        Ok(Self { auth, ..Self::origin(registry, credentials, Arc::new(options))? })
    }

    /// Whether `repository` has the blob with its size.
    pub(in crate::registry) async fn has_blob(
        &self,
        subject: &str,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<bool> {
        let found = self.blob_size(subject, repository, &blob.digest).await?;
        Ok(found.is_some_and(|size| size.is_none_or(|size| size == blob.size)))
    }

    /// The size of the blob, `Some(None)` if the registry does not say; `None` if `repository` does not have it.
    pub(in crate::registry) async fn blob_size(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>> {
        let path = format!("blobs/{digest}");
        let response = self.head(Request::new(subject, repository, Method::HEAD, &path)).await?;
        match response.status() {
            StatusCode::OK => {
                let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
                Ok(Some(length.and_then(|length| length.parse().ok())))
            }
            status if status == StatusCode::UNAUTHORIZED || status.is_server_error() => {
                Err(self.status_error(subject, repository, response).await)
            }
            // Whatever else it means, the request to write will fail with an error message.
            _ => Ok(None),
        }
    }

    /// Starts an upload; or mounts the blob from `from`, if that has it.
    pub(in crate::registry) async fn begin_upload(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<UploadStart> {
        let path = match from {
            Some(from) => format!("blobs/uploads/?mount={digest}&from={}", self.name(from)?),
            None => "blobs/uploads/".to_owned(),
        };
        let (headers, body) = empty_body();
        let request = Request::new(subject, repository, Method::POST, &path);
        let answer = self.send(Request { headers, body, beside: from, ..request }).await?;
        match answer.response.status() {
            StatusCode::CREATED => {
                answer.permit.record_success();
                Ok(UploadStart::Mounted)
            }
            StatusCode::ACCEPTED => {
                answer.permit.record_success();
                let url = self.location(subject, &answer.response)?;
                let header = answer.response.headers().get(CHUNK_MIN_LENGTH);
                let min_chunk =
                    header.and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
                drain(answer.response).await;
                Ok(UploadStart::Location { url, min_chunk })
            }
            _ => Err(self.status_error(subject, repository, answer.response).await),
        }
    }

    /// How many bytes the registry has of the upload, and where it continues; `None` when it does not know.
    pub(in crate::registry) async fn upload_status(
        &self,
        subject: &str,
        repository: &Repository,
        at: &Url,
    ) -> Result<Option<(u64, Url)>> {
        let request = Request::new(subject, repository, Method::GET, "blobs/uploads/");
        let answer = self.send(Request { instead: Some(at.clone()), ..request }).await?;
        let status = answer.response.status();
        if !status.is_success() {
            if status == StatusCode::UNAUTHORIZED || status.is_server_error() {
                return Err(self.status_error(subject, repository, answer.response).await);
            }
            return Ok(None);
        }
        answer.permit.record_success();
        let range = answer.response.headers().get(RANGE).and_then(|value| value.to_str().ok());
        let Some(held) = range.and_then(location::held) else { return Ok(None) };
        let next = if answer.response.headers().contains_key(LOCATION) {
            self.location(subject, &answer.response)?
        } else {
            at.clone()
        };
        drain(answer.response).await;
        Ok(Some((held, next)))
    }

    /// Sends the bytes of `range`. The caller judges the response.
    pub(in crate::registry) async fn send_upload(
        &self,
        subject: &str,
        repository: &Repository,
        at: &Url,
        range: UploadRange,
        body: reqwest::Body,
    ) -> Result<Response> {
        let UploadRange { from, to, .. } = range;
        let base = self.base(subject).await?;
        let name = self.name(repository)?;
        let context = AuthContext {
            transport: &self.transport,
            base: &base,
            subject,
            repository: &name,
            beside: None,
            is_catalog: false,
        };
        let own = redirect::same_origin(at, &base);
        let authorization = if own { self.auth.authorization(context).await? } else { None };
        let mut request = self
            .transport
            .client(Purpose::Upload, at)?
            .patch(at.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, to - from)
            .body(body);
        if range.is_chunk || from > 0 {
            request = request.header(CONTENT_RANGE, format!("{from}-{}", to - 1));
        }
        if let Some(authorization) = &authorization {
            request = request.header(AUTHORIZATION, authorization.value.clone());
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let sent = request.send().await;
        let status = sent.as_ref().ok().map(|response| response.status().as_u16());
        tracing::debug!(method = "PATCH", url = %error::shown_url(at), from, to, status, "request");
        let response = sent.map_err(|error| self.transport.transport_error(subject, at, error))?;
        // The body has been consumed; the next attempt uses another token.
        if response.status() == StatusCode::UNAUTHORIZED
            && own
            && self.auth.refused(context, authorization.as_ref(), response.headers()).await?
        {
            return Err(failure(ErrorKind::Unavailable, subject, "the token expired during the upload"));
        }
        Ok(response)
    }

    /// Completes the upload; with `body`, this is the whole blob.
    pub(in crate::registry) async fn finish_upload(
        &self,
        subject: &str,
        repository: &Repository,
        at: &Url,
        digest: &Digest,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let mut url = at.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let (headers, body) = match body {
            Some(body) => {
                (vec![(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))], Some(body))
            }
            None => empty_body(),
        };
        let purpose = Purpose::Upload;
        let request = Request::new(subject, repository, Method::PUT, "blobs/uploads/");
        self.send(Request { purpose, headers, body, instead: Some(url), ..request }).await
    }

    /// Waits for a permit to send a blob.
    pub(in crate::registry) async fn admit_upload(&self, subject: &str) -> Result<Permit> {
        self.admit(Purpose::Upload, Priority::Continuation, subject).await
    }

    /// The error of a response. Closes the gate for other requests if it has a Retry-After.
    pub(in crate::registry) async fn refusal(
        &self,
        subject: &str,
        repository: &Repository,
        response: Response,
    ) -> Error {
        let status = response.status();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            && let Some(wait) = retry_after(response.headers(), SystemTime::now())
        {
            self.gate.close_for(wait);
        }
        let error = self.status_error(subject, repository, response).await;
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => error.with_hint(
                "the registry or a proxy in front of it limits the size of requests: raise that limit (nginx: client_max_body_size 0)",
            ),
            _ => error,
        }
    }

    /// Where a response says that the upload continues.
    pub(in crate::registry) fn location(&self, subject: &str, response: &Response) -> Result<Url> {
        let said = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let refuse = |why: String| {
            let message = format!("{} returned {why} for the upload", error::shown_url(response.url()));
            failure(ErrorKind::Unsupported, subject, message)
        };
        let location = said.ok_or_else(|| refuse("no Location header".into()))?;
        location::target(response.url(), location, self.transport.peers()).map_err(refuse)
    }
}
