//! One blob on its way to a registry.
//!
//! A large one is one request (PATCH) whose body comes as it is written, and one that says that this was all
//! (PUT). A small one is a PUT alone.

use super::{Inner, of_sink};
use crate::content::BlobUpload;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Repository};
use crate::registry::endpoint::Begun;
use crate::registry::error::failure;
use crate::registry::limiter::Permit;
use crate::registry::manifest::content_digest;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::{Response, StatusCode};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use url::Url;

/// Blobs up to this many bytes are sent in one request.
const SMALL: u64 = 256 << 10;
/// Pieces that are written and not yet taken by the connection.
const AHEAD: usize = 4;
/// Registries read the whole blob again before they answer the last request: how fast that surely is, in bytes a second.
const DIGESTED: u64 = 10 << 20;

/// One blob on its way.
pub struct Upload {
    inner: Arc<Inner>,
    subject: String,
    repository: Repository,
    blob: Descriptor,
    /// Where it goes.
    at: Url,
    /// How many bytes the registry had when it was last asked.
    held: u64,
    /// Whether something was sent since.
    touched: bool,
    /// Whether the registry has the blob, and nothing is left to do.
    done: bool,
    /// Whether the registry is known to have forgotten the upload.
    lost: bool,
    /// A small blob, until it is sent.
    whole: BytesMut,
    stream: Option<Streaming>,
}

/// A request under way, whose body comes piece by piece.
struct Streaming {
    answer: BoxFuture<'static, Result<Response>>,
    pieces: mpsc::Sender<Bytes>,
    permit: Permit,
}

impl Upload {
    pub(super) fn new(inner: Arc<Inner>, repository: &Repository, blob: &Descriptor, at: Url) -> Self {
        Self {
            subject: inner.subject(repository, blob.digest),
            inner,
            repository: repository.clone(),
            blob: blob.clone(),
            at,
            held: 0,
            touched: false,
            done: false,
            lost: false,
            whole: BytesMut::new(),
            stream: None,
        }
    }

    fn is_small(&self) -> bool {
        self.blob.size <= SMALL
    }

    /// Asks the registry where the upload is; begins anew where it does not know.
    async fn ask(&mut self) -> Result<u64> {
        let (endpoint, subject, repository) = (&self.inner.endpoint, &self.subject, &self.repository);
        if !self.lost
            && !self.is_small()
            && let Some((held, at)) = endpoint.upload_status(subject, repository, &self.at).await?
        {
            self.at = at;
            return Ok(held);
        }
        // It may be that it is forgotten because it is complete, and only the answer was lost.
        if endpoint.has_blob(subject, repository, &self.blob).await? {
            self.done = true;
            return Ok(self.blob.size);
        }
        match endpoint.begin_upload(subject, repository, &self.blob.digest, None).await? {
            Begun::Mounted => {
                self.done = true;
                Ok(self.blob.size)
            }
            Begun::At(at) => {
                (self.at, self.lost) = (at, false);
                Ok(0)
            }
        }
    }

    async fn start(&mut self) -> Result<Streaming> {
        let permit = self.inner.endpoint.admit_upload(&self.subject).await?;
        let (pieces, coming) = mpsc::channel::<Bytes>(AHEAD);
        let body = futures::stream::unfold(coming, |mut coming| async move {
            coming.recv().await.map(|piece| (Ok::<_, Infallible>(piece), coming))
        });
        let body = reqwest::Body::wrap_stream(body);
        let (inner, subject, repository) =
            (self.inner.clone(), self.subject.clone(), self.repository.clone());
        let (at, range) = (self.at.clone(), (self.held, self.blob.size));
        let answer =
            Box::pin(
                async move { inner.endpoint.send_upload(&subject, &repository, &at, range, body).await },
            );
        Ok(Streaming { answer, pieces, permit })
    }

    /// Reads the answer to what was streamed.
    async fn judge(&mut self, answer: Result<Response>, permit: &Permit) -> Result<()> {
        let response = answer.inspect_err(|_| permit.overloaded())?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                permit.succeeded();
                if response.headers().contains_key(reqwest::header::LOCATION) {
                    self.at = self.inner.endpoint.location(&self.subject, &response)?;
                }
                Ok(())
            }
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Err(self.forgotten()),
            status => {
                if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                    permit.overloaded();
                }
                Err(self.inner.endpoint.refusal(&self.subject, &self.repository, response).await)
            }
        }
    }

    fn forgotten(&mut self) -> Error {
        self.lost = true;
        failure(ErrorKind::Unavailable, &self.subject, "the registry has forgotten the upload")
    }

    fn silent(&self, wait: Duration) -> Error {
        let registry = &self.inner.endpoint.registry;
        let message = format!("{registry} took no bytes and said nothing for {} s", wait.as_secs());
        failure(ErrorKind::Unavailable, &self.subject, message)
    }

    async fn write_piece(&mut self, bytes: Bytes) -> Result<()> {
        self.touched = true;
        if self.is_small() {
            self.whole.extend_from_slice(&bytes);
            return Ok(());
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.start().await?,
        };
        let wait = self.inner.endpoint.options.idle_timeout;
        let early = tokio::select! {
            biased;
            answer = &mut stream.answer => Some(answer),
            sent = tokio::time::timeout(wait, stream.pieces.send(bytes)) => match sent {
                Ok(Ok(())) => None,
                // The connection wants no more: its answer tells why.
                Ok(Err(_)) => Some(self.answer_within(wait, &mut stream.answer).await),
                Err(_) => {
                    stream.permit.overloaded();
                    return Err(self.silent(wait));
                }
            },
        };
        let Some(answer) = early else {
            self.stream = Some(stream);
            return Ok(());
        };
        self.judge(answer, &stream.permit).await?;
        let message = "the registry answered before all was sent";
        Err(failure(ErrorKind::Unavailable, &self.subject, message))
    }

    async fn answer_within(
        &mut self,
        wait: Duration,
        answer: &mut BoxFuture<'static, Result<Response>>,
    ) -> Result<Response> {
        tokio::time::timeout(wait, answer).await.unwrap_or_else(|_| Err(self.silent(wait)))
    }

    async fn finish(&mut self, digest: &Digest) -> Result<()> {
        self.touched = true;
        if self.done {
            return Ok(());
        }
        let patience = self.inner.endpoint.options.request_timeout;
        if let Some(Streaming { mut answer, pieces, permit }) = self.stream.take() {
            drop(pieces);
            let answer = self.answer_within(patience, &mut answer).await;
            self.judge(answer, &permit).await?;
        }
        let body = self.is_small().then(|| self.whole.split().freeze());
        let (endpoint, subject, repository) = (&self.inner.endpoint, &self.subject, &self.repository);
        let request = endpoint.finish_upload(subject, repository, &self.at, digest, body);
        let wait = patience + Duration::from_secs(self.blob.size / DIGESTED);
        let answer = tokio::time::timeout(wait, request).await.unwrap_or_else(|_| Err(self.silent(wait)))?;
        match answer.response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {
                answer.permit.succeeded();
                match content_digest(answer.response.headers()).filter(|kept| kept != digest) {
                    None => Ok(()),
                    Some(kept) => {
                        self.lost = true;
                        let message = format!("the registry keeps it as {kept}: it has other bytes");
                        Err(failure(ErrorKind::Corrupt, subject, message))
                    }
                }
            }
            StatusCode::NOT_FOUND => Err(self.forgotten()),
            _ => {
                let error = endpoint.refusal(subject, repository, answer.response).await;
                // One that is refused for good is not gone on with.
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

impl BlobUpload for Upload {
    async fn received(&mut self) -> Result<u64> {
        if self.touched {
            self.stream = None;
            self.whole.clear();
            self.held = self.ask().await.map_err(of_sink)?;
            self.touched = false;
        }
        Ok(self.held)
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
