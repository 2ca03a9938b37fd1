//! Blobs and ranges of them (distribution-spec "Pulling blobs"; RFC 9110 14).

use super::endpoint::{Answer, Endpoint, Request};
use super::error::{self, failure};
use super::limiter::Permit;
use super::manifest::{encoded, foreign_encoding};
use super::range::{ContentRange, range_header};
use super::transport::Purpose;
use crate::content::BlobStream;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Repository};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, Response};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use url::Url;

/// How many redirected addresses are kept; beyond that all are forgotten, which costs a round trip each.
const MAX_KEPT: usize = 4096;

/// After so many wrong answers to ranges in a row no more of them are asked for: one content server's bad moment is no reason.
const MAX_WRONG_RANGES: u32 = 3;

/// So many bytes of an answer are as good a sign as a whole answer that more can be asked for at once.
const GOOD_SIGN: u64 = 2 << 20;

/// The part of a blob that is wanted.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    subject: &'a str,
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    from: u64,
    to: Option<u64>,
}

/// What an answer turned out to be.
enum Opened {
    Stream(BlobStream),
    /// The address that was kept is no longer good.
    Expired,
    /// The server can't do ranges.
    WrongRange,
}

impl Endpoint {
    /// Opens a blob from byte `from` up to but without byte `to`.
    pub(super) async fn blob(
        &self,
        subject: &str,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let to = to.filter(|to| *to < descriptor.size);
        let is_nothing = from >= to.unwrap_or(descriptor.size) && (from > 0 || to == Some(0));
        if is_nothing {
            return Ok(BlobStream { start: from, length: Some(0), chunks: futures::stream::empty().boxed() });
        }
        let mut wanted = Wanted { subject, repository, descriptor, from, to };
        if self.wrong_ranges.load(Ordering::Relaxed) >= MAX_WRONG_RANGES {
            (wanted.from, wanted.to) = (0, None);
        }
        let mut instead = self.kept_address(&descriptor.digest);
        loop {
            match self.open(wanted, instead.take()).await? {
                Opened::Stream(stream) => return Ok(stream),
                Opened::Expired => self.forget_address(&descriptor.digest),
                Opened::WrongRange => {
                    tracing::debug!(registry = %self.registry, "wrong answer to a range: asking for the whole blob");
                    self.wrong_ranges.fetch_add(1, Ordering::Relaxed);
                    (wanted.from, wanted.to) = (0, None);
                }
            }
        }
    }

    async fn open(&self, wanted: Wanted<'_>, instead: Option<Url>) -> Result<Opened> {
        let kept = instead.is_some();
        let path = format!("blobs/{}", wanted.descriptor.digest);
        let mut headers = vec![(ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        let range = range_header(wanted.from, wanted.to);
        if let Some(value) = range.as_deref().and_then(|range| HeaderValue::from_str(range).ok()) {
            headers.push((RANGE, value));
        }
        let request = Request {
            purpose: Purpose::Blob,
            headers,
            instead,
            ..Request::new(wanted.subject, wanted.repository, Method::GET, &path)
        };
        let answer = match self.send(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.forget_address(&wanted.descriptor.digest);
                return Err(error);
            }
        };
        match answer.response.status().as_u16() {
            200 => self.whole(wanted, answer).map(Opened::Stream),
            206 if range.is_some() => self.part(wanted, answer),
            416 if range.is_some() => unsatisfied(wanted, &answer.response),
            400 | 401 | 403 | 404 | 410 if kept => Ok(Opened::Expired),
            206 => Err(failure(
                ErrorKind::Unsupported,
                wanted.subject,
                "the server sent a part of the blob though the whole was asked for",
            )),
            _ => {
                self.forget_address(&wanted.descriptor.digest);
                Err(self.blob_status_error(wanted, answer).await)
            }
        }
    }

    async fn blob_status_error(&self, wanted: Wanted<'_>, answer: Answer) -> Error {
        if !answer.elsewhere {
            return self.status_error(wanted.subject, wanted.repository, answer.response).await;
        }
        error::from_response(wanted.subject, None, answer.response).await
    }

    fn whole(&self, wanted: Wanted<'_>, answer: Answer) -> Result<BlobStream> {
        let size = wanted.descriptor.size;
        check_length(wanted, &answer.response, size)?;
        Ok(self.stream(wanted, answer, 0, size))
    }

    fn part(&self, wanted: Wanted<'_>, answer: Answer) -> Result<Opened> {
        let size = wanted.descriptor.size;
        let value = answer.response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let range = value.and_then(ContentRange::parse);
        if !range.is_some_and(|range| range.answers(wanted.from, wanted.to, size)) {
            if let Some(ContentRange::Part { total: Some(total), .. }) = range
                && total != size
            {
                return Err(wrong_size(wanted, total));
            }
            return Ok(Opened::WrongRange);
        }
        self.wrong_ranges.store(0, Ordering::Relaxed);
        let length = wanted.to.unwrap_or(size) - wanted.from;
        check_length(wanted, &answer.response, length)?;
        Ok(Opened::Stream(self.stream(wanted, answer, wanted.from, length)))
    }

    fn stream(&self, wanted: Wanted<'_>, answer: Answer, start: u64, length: u64) -> BlobStream {
        if answer.elsewhere {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(wanted.descriptor.digest, answer.response.url().clone());
        }
        let announced = answer.response.content_length();
        let body = Body {
            subject: wanted.subject.to_owned(),
            url: answer.response.url().clone(),
            permit: answer.permit,
            left: length,
            since_sign: 0,
            chunks: answer.response.bytes_stream().boxed(),
        };
        BlobStream { start, length: announced, chunks: body.into_stream() }
    }
}

/// A body on its way: counts what comes, and holds the permit until it is done.
struct Body {
    subject: String,
    url: Url,
    permit: Permit,
    left: u64,
    since_sign: u64,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
}

impl Body {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(Some(chunk)) => {
                    body.since_sign += chunk.len() as u64;
                    // Here and not at the stream's end: who has all bytes need not ask for more.
                    if body.left == 0 || body.since_sign >= GOOD_SIGN {
                        body.since_sign = 0;
                        body.permit.succeeded();
                    }
                    Some((Ok(chunk), Some(body)))
                }
                Ok(None) => None,
                Err(error) => {
                    if error.kind() == ErrorKind::Unavailable {
                        body.permit.overloaded();
                    }
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.chunks.next().await {
            Some(Ok(chunk)) => {
                self.left = self.left.checked_sub(chunk.len() as u64).ok_or_else(|| {
                    let message =
                        format!("{} sends more bytes than the blob has", error::shown_url(&self.url));
                    failure(ErrorKind::Corrupt, &self.subject, message)
                })?;
                Ok(Some(chunk))
            }
            Some(Err(error)) => Err(error::from_transport(&self.subject, &self.url, error)),
            None if self.left > 0 => {
                let place = self.url.host_str().unwrap_or_default();
                let message = format!("{place} ended the answer {} bytes early", self.left);
                Err(failure(ErrorKind::Unavailable, &self.subject, message))
            }
            None => Ok(None),
        }
    }
}

/// Refuses an answer whose headers already say that it is not the blob.
fn check_length(wanted: Wanted<'_>, response: &Response, expected: u64) -> Result<()> {
    if let Some(encoding) = foreign_encoding(response.headers()) {
        return Err(encoded(wanted.subject, &encoding));
    }
    let announced = response.content_length();
    let is_wrong = announced.is_some_and(|length| length != expected);
    // A layer may be of any type, but a page of another length, or of none, is somebody's login page.
    if error::is_html(response.headers()) && (is_wrong || announced.is_none()) {
        return Err(error::web_page(wanted.subject, response.url()));
    }
    match announced {
        Some(length) if is_wrong => Err(wrong_size(wanted, length)),
        _ => Ok(()),
    }
}

fn wrong_size(wanted: Wanted<'_>, said: u64) -> Error {
    let detail = Detail::Mismatch {
        expected: format!("{} bytes", wanted.descriptor.size),
        actual: format!("{said} bytes"),
    };
    failure(ErrorKind::Corrupt, wanted.subject, "the blob's size differs from its descriptor")
        .with_detail(detail)
}

/// 416: the server believes the blob to end before what was asked for, or can't do ranges.
fn unsatisfied(wanted: Wanted<'_>, response: &Response) -> Result<Opened> {
    let value = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    match value.and_then(ContentRange::parse) {
        Some(ContentRange::Unsatisfied { total }) if total != wanted.descriptor.size => {
            Err(wrong_size(wanted, total))
        }
        _ => Ok(Opened::WrongRange),
    }
}
