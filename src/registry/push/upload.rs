//! The upload of one blob.
//!
//! A large blob is one request (PATCH) whose body is streamed, or several requests of one chunk each where the registry or a
//! proxy in front of it limits the size of requests; then a request (PUT) that completes it. A small blob is a single PUT.

use super::{Inner, of_sink};
use crate::content::BlobUpload;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Repository};
use crate::registry::endpoint::{UploadRange, UploadStart};
use crate::registry::limiter::Permit;
use crate::registry::manifest::content_digest;
use crate::registry::message::failure;
use crate::registry::redirect::is_redirect;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::{Response, StatusCode};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use url::Url;

/// Blobs up to this size, in bytes, are sent in one request.
const SMALL: u64 = 256 << 10;
/// The chunk sizes to try, in bytes, after a request was refused as too large: S3's minimum for a part, nginx's default limit,
/// and less.
const CHUNK_SIZES: [u64; 4] = [5 << 20, 1 << 20, 256 << 10, 64 << 10];
/// How many pieces are buffered ahead of the connection.
const BUFFERED_PIECES: usize = 4;
/// Registries read the whole blob again before they complete an upload. The least speed of that, in bytes a second.
const MIN_VERIFY_SPEED: u64 = 10 << 20;

/// The upload of one blob.
pub struct Upload {
    inner: Arc<Inner>,
    subject: String,
    repository: Repository,
    blob: Descriptor,
    /// Where the next request goes.
    url: Url,
    /// The least size of a chunk that the registry accepts.
    min_chunk: u64,
    /// How many bytes the registry had when it was last asked, or took in complete chunks since.
    received: u64,
    /// Whether something was sent since.
    dirty: bool,
    /// Whether the registry has the blob, and nothing is left to do.
    complete: bool,
    /// Whether the registry no longer knows the upload.
    lost: bool,
    /// Whether the blob is sent in the request that completes the upload.
    is_small: bool,
    /// A small blob, until it is sent.
    small: BytesMut,
    request: Option<StreamingRequest>,
}

/// A request in progress, whose body is streamed.
struct StreamingRequest {
    response: BoxFuture<'static, Result<Response>>,
    pieces: mpsc::Sender<Bytes>,
    permit: Permit,
    range: UploadRange,
    /// How many bytes of its body are still to be written.
    left: u64,
}

impl Upload {
    pub(super) fn new(
        inner: Arc<Inner>,
        repository: &Repository,
        blob: &Descriptor,
        url: Url,
        min_chunk: u64,
    ) -> Self {
        Self {
            subject: inner.subject(repository, blob.digest),
            is_small: is_small(&inner, blob),
            inner,
            repository: repository.clone(),
            blob: blob.clone(),
            url,
            min_chunk,
            received: 0,
            dirty: false,
            complete: false,
            lost: false,
            small: BytesMut::new(),
            request: None,
        }
    }

    /// The size of chunks, where this blob is sent in chunks.
    fn chunk_size(&self) -> Option<u64> {
        let size = self.inner.chunk_size.load(Ordering::Relaxed);
        (size > 0).then(|| size.max(self.min_chunk))
    }

    /// Asks the registry how much it has of the upload; starts a new one where it does not know it.
    async fn resume(&mut self) -> Result<u64> {
        let (endpoint, subject, repository) = (&self.inner.endpoint, &self.subject, &self.repository);
        if !self.lost
            && !self.is_small
            && let Some((received, url)) = endpoint.upload_status(subject, repository, &self.url).await?
        {
            self.url = url;
            return Ok(received);
        }
        // The registry may have completed the upload, and only its response was lost.
        if endpoint.has_blob(subject, repository, &self.blob).await? {
            self.complete = true;
            return Ok(self.blob.size);
        }
        match endpoint.begin_upload(subject, repository, &self.blob.digest, None).await? {
            UploadStart::Mounted => {
                self.complete = true;
                Ok(self.blob.size)
            }
            UploadStart::Location { url, min_chunk } => {
                self.url = url;
                self.min_chunk = min_chunk;
                self.lost = false;
                Ok(0)
            }
        }
    }

    async fn start_request(&mut self) -> Result<StreamingRequest> {
        let permit = self.inner.endpoint.admit_upload(&self.subject).await?;
        let (pieces, receiver) = mpsc::channel::<Bytes>(BUFFERED_PIECES);
        let body = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (Ok::<_, Infallible>(piece), receiver))
        });
        let body = reqwest::Body::wrap_stream(body);
        let from = self.received;
        let to =
            self.chunk_size().map_or(self.blob.size, |size| from.saturating_add(size).min(self.blob.size));
        let range = UploadRange { from, to, is_chunk: from > 0 || to < self.blob.size };
        let inner = Arc::clone(&self.inner);
        let subject = self.subject.clone();
        let repository = self.repository.clone();
        let url = self.url.clone();
        let response =
            Box::pin(
                async move { inner.endpoint.send_upload(&subject, &repository, &url, range, body).await },
            );
        Ok(StreamingRequest { response, pieces, permit, range, left: to - from })
    }

    /// Judges the response to a streamed request.
    async fn judge(&mut self, response: Result<Response>, permit: &Permit, range: UploadRange) -> Result<()> {
        let response = response.inspect_err(|_| permit.record_overload())?;
        match response.status() {
            // 202 by the specification; others are in use.
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {
                permit.record_success();
                if response.headers().contains_key(reqwest::header::LOCATION) {
                    self.url = self.inner.endpoint.location(&self.subject, &response)?;
                }
                Ok(())
            }
            _ if is_redirect(&response) => {
                // The body has been consumed: the same bytes are sent to the new location by the next attempt.
                self.url = self.inner.endpoint.location(&self.subject, &response)?;
                self.received = range.from;
                self.dirty = false;
                let message = "the registry redirected the upload";
                Err(failure(ErrorKind::Unavailable, &self.subject, message))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.forgotten()),
            status => {
                if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                    permit.record_overload();
                }
                let error = self.inner.endpoint.refusal(&self.subject, &self.repository, response).await;
                Err(match status {
                    StatusCode::NOT_FOUND if is_unknown_upload(&error) => self.forgotten(),
                    StatusCode::PAYLOAD_TOO_LARGE => self.too_large(error, range.to - range.from),
                    _ => error,
                })
            }
        }
    }

    /// A request with a body of `size` bytes was refused as too large: the next are smaller, if the registry accepts that.
    fn too_large(&mut self, error: Error, size: u64) -> Error {
        let smaller = CHUNK_SIZES.into_iter().find(|chunk| *chunk < size && *chunk >= self.min_chunk);
        let Some(chunk) = smaller else { return error };
        self.inner.chunk_size.store(chunk, Ordering::Relaxed);
        tracing::debug!(subject = %self.subject, size, chunk, "request too large: uploading in smaller chunks");
        error.with_kind(ErrorKind::Unavailable)
    }

    fn forgotten(&mut self) -> Error {
        self.lost = true;
        failure(ErrorKind::Unavailable, &self.subject, "the registry no longer knows the upload")
    }

    fn timed_out(&self, wait: Duration) -> Error {
        let registry = &self.inner.endpoint.registry;
        let message = format!("{registry} accepted no data and sent no response for {} s", wait.as_secs());
        failure(ErrorKind::Unavailable, &self.subject, message)
    }

    async fn write_piece(&mut self, mut bytes: Bytes) -> Result<()> {
        if let Some(limit) = &self.inner.endpoint.options.rate_limit {
            limit.take(bytes.len()).await;
        }
        self.dirty = true;
        if self.is_small {
            self.small.extend_from_slice(&bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            let mut request = match self.request.take() {
                Some(request) => request,
                None => self.start_request().await?,
            };
            let length = usize::try_from(request.left).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.split_to(length);
            self.send_piece(&mut request, piece).await?;
            request.left -= length as u64;
            // The last request is completed by `finish`.
            if request.left == 0 && request.range.to < self.blob.size {
                self.complete_request(request).await?;
            } else {
                self.request = Some(request);
            }
        }
        Ok(())
    }

    async fn send_piece(&mut self, request: &mut StreamingRequest, piece: Bytes) -> Result<()> {
        let wait = self.inner.endpoint.options.idle_timeout;
        let early = tokio::select! {
            biased;
            response = &mut request.response => response,
            sent = tokio::time::timeout(wait, request.pieces.send(piece)) => match sent {
                Ok(Ok(())) => return Ok(()),
                // The connection takes no more: the response says why.
                Ok(Err(_)) => self.response_within(wait, &mut request.response).await,
                Err(_) => {
                    request.permit.record_overload();
                    return Err(self.timed_out(wait));
                }
            },
        };
        self.judge(early, &request.permit, request.range).await?;
        let message = "the registry responded before the whole body was sent";
        Err(failure(ErrorKind::Unavailable, &self.subject, message))
    }

    /// Ends a request's body and waits for the response.
    async fn complete_request(&mut self, request: StreamingRequest) -> Result<()> {
        let StreamingRequest { mut response, pieces, permit, range, .. } = request;
        drop(pieces);
        let timeout = self.inner.endpoint.options.request_timeout;
        let response = self.response_within(timeout, &mut response).await;
        self.judge(response, &permit, range).await?;
        self.received = range.to;
        Ok(())
    }

    async fn response_within(
        &mut self,
        timeout: Duration,
        response: &mut BoxFuture<'static, Result<Response>>,
    ) -> Result<Response> {
        tokio::time::timeout(timeout, response).await.unwrap_or_else(|_| Err(self.timed_out(timeout)))
    }

    async fn finish(&mut self, digest: &Digest) -> Result<()> {
        self.dirty = true;
        if self.complete {
            return Ok(());
        }
        if let Some(request) = self.request.take() {
            self.complete_request(request).await?;
        }
        let body = self.is_small.then(|| self.small.split().freeze());
        let (endpoint, subject, repository) = (&self.inner.endpoint, &self.subject, &self.repository);
        let request = endpoint.finish_upload(subject, repository, &self.url, digest, body);
        let timeout =
            endpoint.options.request_timeout + Duration::from_secs(self.blob.size / MIN_VERIFY_SPEED);
        let answer =
            tokio::time::timeout(timeout, request).await.unwrap_or_else(|_| Err(self.timed_out(timeout)))?;
        match answer.response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {
                answer.permit.record_success();
                match content_digest(answer.response.headers()).filter(|stored| stored != digest) {
                    None => Ok(()),
                    Some(stored) => {
                        self.lost = true;
                        let detail =
                            Detail::Mismatch { expected: digest.to_string(), actual: stored.to_string() };
                        let message = "the registry stored other content";
                        Err(failure(ErrorKind::Corrupt, subject, message).with_detail(detail))
                    }
                }
            }
            status => {
                let error = endpoint.refusal(subject, repository, answer.response).await;
                if status == StatusCode::NOT_FOUND && is_unknown_upload(&error) {
                    return Err(self.forgotten());
                }
                if status == StatusCode::PAYLOAD_TOO_LARGE && self.is_small {
                    return Err(self.too_large(error, self.blob.size));
                }
                // An upload that was refused permanently is not resumed.
                self.lost = !error.kind().is_retryable();
                Err(if error.has_code("DIGEST_INVALID") {
                    error.with_kind(ErrorKind::Corrupt)
                } else {
                    error
                })
            }
        }
    }
}

/// Whether a blob is small enough for one request.
fn is_small(inner: &Inner, blob: &Descriptor) -> bool {
    match inner.chunk_size.load(Ordering::Relaxed) {
        0 => blob.size <= SMALL,
        chunk => blob.size <= SMALL.min(chunk),
    }
}

/// Whether a 404 means that the registry does not know the upload. Codes vary; only those about the repository mean something
/// else, which a retry does not change.
fn is_unknown_upload(error: &Error) -> bool {
    !["NAME_UNKNOWN", "NAME_INVALID", "DENIED"].iter().any(|code| error.has_code(code))
}

impl BlobUpload for Upload {
    async fn received(&mut self) -> Result<u64> {
        self.request = None;
        if self.dirty {
            self.small.clear();
            self.received = self.resume().await.map_err(of_sink)?;
            self.dirty = false;
            self.is_small = is_small(&self.inner, &self.blob);
        }
        Ok(self.received)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.write_piece(bytes).await.map_err(of_sink)
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        self.finish(digest).await.map_err(of_sink)?;
        self.inner.note_blob(&self.repository, &self.blob);
        Ok(())
    }
}
