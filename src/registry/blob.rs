//! Blobs and ranges of them (distribution-spec "Pulling blobs"; RFC 9110 14).

use super::encoding::{self, BlobDecoder, Encoding};
use super::endpoint::{Answer, Endpoint, Request};
use super::error;
use super::limiter::Permit;
use super::message::failure;
use super::range::{ContentRange, range_header};
use super::rate_limit::RateLimit;
use super::transport::Purpose;
use crate::content::BlobStream;
use crate::error::{Detail, Error, ErrorKind, Phase, Result};
use crate::oci::{Descriptor, Repository};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, Response};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use url::Url;

/// The most redirect targets that are remembered; beyond that all are forgotten, which costs a round trip each.
const MAX_BLOB_URLS: usize = 4096;

/// After so many failed ranges in a row, no more are requested from this endpoint.
const MAX_FAILED_RANGES: u32 = 3;

/// So many bytes of a response count as a success, like a whole short response.
const SUCCESS_BYTES: u64 = 2 << 20;

/// The part of a blob that was requested.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    subject: &'a str,
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    from: u64,
    to: Option<u64>,
}

/// What a response to a request for a blob turned out to be.
enum Opened {
    Stream(BlobStream),
    /// The redirect target that was used before has expired.
    Expired,
    /// The range was refused or not honoured.
    RangeFailed,
}

impl Endpoint {
    /// Opens a blob from byte `from` up to but excluding byte `to`.
    pub(super) async fn blob(
        &self,
        subject: &str,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let to = to.filter(|to| *to < descriptor.size);
        let is_empty = from >= to.unwrap_or(descriptor.size) && (from > 0 || to == Some(0));
        if is_empty {
            return Ok(BlobStream { start: from, length: Some(0), chunks: futures::stream::empty().boxed() });
        }
        let mut wanted = Wanted { subject, repository, descriptor, from, to };
        if self.failed_ranges.load(Ordering::Relaxed) >= MAX_FAILED_RANGES {
            (wanted.from, wanted.to) = (0, None);
        }
        let mut redirected = self.blob_url(&descriptor.digest);
        loop {
            match self.open(wanted, redirected.take()).await? {
                Opened::Stream(stream) => return Ok(stream),
                Opened::Expired => self.forget_blob_url(&descriptor.digest),
                Opened::RangeFailed => {
                    tracing::debug!(registry = %self.registry, "the range failed: requesting the whole blob");
                    self.failed_ranges.fetch_add(1, Ordering::Relaxed);
                    (wanted.from, wanted.to) = (0, None);
                }
            }
        }
    }

    async fn open(&self, wanted: Wanted<'_>, redirected: Option<Url>) -> Result<Opened> {
        let was_redirected = redirected.is_some();
        let path = format!("blobs/{}", wanted.descriptor.digest);
        let mut headers = vec![(ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        let range = range_header(wanted.from, wanted.to);
        if let Some(value) = range.as_deref().and_then(|range| HeaderValue::from_str(range).ok()) {
            headers.push((RANGE, value));
        }
        let request = Request {
            purpose: Purpose::Blob,
            headers,
            instead: redirected,
            ..Request::new(wanted.subject, wanted.repository, Method::GET, &path)
        };
        let answer = match self.send(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.forget_blob_url(&wanted.descriptor.digest);
                let is_server_error = error.http_status().is_some_and(|status| status >= 500);
                if range.is_some() && is_server_error && self.range_keeps_failing(wanted) {
                    return Ok(Opened::RangeFailed);
                }
                return Err(error);
            }
        };
        match answer.response.status().as_u16() {
            200 => self.whole(wanted, answer).map(Opened::Stream),
            206 if range.is_some() => self.part(wanted, answer),
            416 if range.is_some() => unsatisfied(wanted, &answer.response),
            400 | 401 | 403 | 404 | 410 if was_redirected => Ok(Opened::Expired),
            206 => Err(failure(
                ErrorKind::Unsupported,
                wanted.subject,
                "the server returned a part of the blob though the whole was requested",
            )),
            status => {
                self.forget_blob_url(&wanted.descriptor.digest);
                // Some content servers refuse Range with an error of their own and serve the whole.
                let refused = match status {
                    401 => false,
                    500.. => self.range_keeps_failing(wanted),
                    _ => true,
                };
                if range.is_some() && refused {
                    return Ok(Opened::RangeFailed);
                }
                Err(self.status_error(wanted.subject, wanted.repository, answer.response).await)
            }
        }
    }

    /// Counts a server error in response to a range. The first may be transient and is retried; from the second on, the range
    /// itself may be the cause.
    fn range_keeps_failing(&self, wanted: Wanted<'_>) -> bool {
        let mut errors = self.range_errors.lock();
        if errors.len() >= MAX_BLOB_URLS {
            errors.clear();
        }
        let count = errors.entry(wanted.descriptor.digest).or_default();
        *count += 1;
        *count > 1
    }

    fn whole(&self, wanted: Wanted<'_>, answer: Answer) -> Result<BlobStream> {
        let size = wanted.descriptor.size;
        let announced = answer.response.content_length();
        // A body of exactly the blob's size is the blob, whatever the label says.
        let encoding = Encoding::from_headers(answer.response.headers()).filter(|_| announced != Some(size));
        let decoder = match encoding {
            Some(Encoding::Gzip) => Some(BlobDecoder::new(wanted.descriptor)),
            Some(Encoding::Foreign(name)) => return Err(encoding::unsupported(wanted.subject, &name)),
            Some(Encoding::Label) | None => None,
        };
        if decoder.is_none() {
            check_length(wanted, &answer.response, size)?;
        }
        Ok(self.stream(wanted, answer, 0, size, decoder))
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
            return Ok(Opened::RangeFailed);
        }
        let length = wanted.to.unwrap_or(size) - wanted.from;
        let encoding = Encoding::from_headers(answer.response.headers());
        if matches!(encoding, Some(Encoding::Gzip | Encoding::Foreign(_)))
            && answer.response.content_length() != Some(length)
        {
            // A part of compressed content is of no use.
            return Ok(Opened::RangeFailed);
        }
        self.failed_ranges.store(0, Ordering::Relaxed);
        self.range_errors.lock().remove(&wanted.descriptor.digest);
        check_length(wanted, &answer.response, length)?;
        Ok(Opened::Stream(self.stream(wanted, answer, wanted.from, length, None)))
    }

    fn stream(
        &self,
        wanted: Wanted<'_>,
        answer: Answer,
        start: u64,
        length: u64,
        decoder: Option<BlobDecoder>,
    ) -> BlobStream {
        if answer.elsewhere {
            let mut known = self.blob_urls.lock();
            if known.len() >= MAX_BLOB_URLS {
                known.clear();
            }
            known.insert(wanted.descriptor.digest, answer.response.url().clone());
        }
        let announced = if decoder.is_some() { None } else { answer.response.content_length() };
        let body = Body {
            decoder,
            subject: wanted.subject.to_owned(),
            url: answer.response.url().clone(),
            permit: answer.permit,
            left: length,
            since_success: 0,
            rate_limit: self.options.rate_limit.clone(),
            chunks: answer.response.bytes_stream().boxed(),
        };
        BlobStream { start, length: announced, chunks: body.into_stream() }
    }
}

/// A response body: counts what comes, and holds the permit until its end.
struct Body {
    subject: String,
    url: Url,
    permit: Permit,
    left: u64,
    since_success: u64,
    /// Undoes compression that was applied on the way.
    decoder: Option<BlobDecoder>,
    rate_limit: Option<Arc<RateLimit>>,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
}

impl Body {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(Some(chunk)) => {
                    body.since_success += chunk.len() as u64;
                    // Here and not at the end of the stream: a reader that has all bytes may not poll again.
                    if body.left == 0 || body.since_success >= SUCCESS_BYTES {
                        body.since_success = 0;
                        body.permit.record_success();
                    }
                    Some((Ok(chunk), Some(body)))
                }
                Ok(None) => None,
                Err(error) => {
                    if error.kind() == ErrorKind::Unavailable {
                        body.permit.record_overload();
                    }
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(chunk) = self.decoded()? {
                return self.count(chunk).map(Some);
            }
            let chunk = match self.chunks.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Err(error::from_transport(&self.subject, &self.url, error)),
                None => return self.ended(),
            };
            if let Some(limit) = &self.rate_limit {
                limit.take(chunk.len()).await;
            }
            match &mut self.decoder {
                Some(decoder) => decoder.push(chunk),
                None => return self.count(chunk).map(Some),
            }
        }
    }

    /// The next part of what came and was compressed.
    fn decoded(&mut self) -> Result<Option<Bytes>> {
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        decoder.decode().map_err(|_| encoding::unsupported(&self.subject, "gzip"))
    }

    fn count(&mut self, chunk: Bytes) -> Result<Bytes> {
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or_else(|| {
            let message = format!("{} sent more bytes than the blob has", error::shown_url(&self.url));
            failure(ErrorKind::Corrupt, &self.subject, message)
        })?;
        Ok(chunk)
    }

    /// The end of the response.
    fn ended(&mut self) -> Result<Option<Bytes>> {
        if let Some(mut decoder) = self.decoder.take() {
            let rest = decoder.finish().unwrap_or_default();
            if !rest.is_empty() {
                return self.count(rest).map(Some);
            }
        }
        if self.left == 0 {
            return Ok(None);
        }
        let summary = format!(
            "{} ended the response {} bytes early",
            self.url.host_str().unwrap_or_default(),
            self.left
        );
        Err(error::without_response(ErrorKind::Unavailable, &self.subject, &self.url, Phase::Body, summary))
    }
}

/// Refuses a response whose headers show that it is not the blob.
fn check_length(wanted: Wanted<'_>, response: &Response, expected: u64) -> Result<()> {
    let announced = response.content_length();
    let is_wrong = announced.is_some_and(|length| length != expected);
    // A layer may have any type, but a web page of another length, or of none, is a login page.
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

/// 416: the blob ends before the range at the server, or the server does not support ranges.
fn unsatisfied(wanted: Wanted<'_>, response: &Response) -> Result<Opened> {
    let value = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    match value.and_then(ContentRange::parse) {
        Some(ContentRange::Unsatisfied { total }) if total != wanted.descriptor.size => {
            Err(wrong_size(wanted, total))
        }
        _ => Ok(Opened::RangeFailed),
    }
}
