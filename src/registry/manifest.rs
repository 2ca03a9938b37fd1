//! Tags and manifests (distribution-spec "Pulling manifests").

use super::encoding::{self, Encoding};
use super::endpoint::{Answer, Endpoint, Request};
use super::error;
use super::limiter::Priority;
use super::message::failure;
use crate::content::{Resolved, Target};
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Digest, RawManifest, Repository, Tag, media_type};
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

/// The header with the digest of the response's body.
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

impl Endpoint {
    /// The digest that `tag` names: by HEAD, or by GET if that has no answer.
    pub(super) async fn resolve(
        &self,
        subject: &str,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Resolved> {
        let target = Target::Tag(tag.clone());
        let response = self.head_manifest(subject, repository, &target, Priority::New).await?;
        match response.status() {
            StatusCode::OK => {
                if let Some(digest) = content_digest(response.headers())
                    && !error::is_html(response.headers())
                {
                    return Ok(Resolved { digest, manifest: None });
                }
            }
            // A refused password is not sent again. A mirror that does not have the image is common, and the next is asked.
            StatusCode::UNAUTHORIZED => return Err(self.status_error(subject, repository, response).await),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if self.is_mirror => {
                return Err(self.status_error(subject, repository, response).await);
            }
            // Some registries, and proxies in front of them, refuse HEAD in many ways and serve GET. A response to HEAD has no
            // body either, so the GET brings the registry's error message.
            _ => {}
        }
        let manifest = self.fetch(subject, repository, &target, Priority::Continuation).await?;
        Ok(Resolved { digest: manifest.digest, manifest: Some(manifest) })
    }

    /// The response to a HEAD for the manifest that `target` names, whatever its status.
    pub(super) async fn head_manifest(
        &self,
        subject: &str,
        repository: &Repository,
        target: &Target,
        priority: Priority,
    ) -> Result<Response> {
        self.head(request(subject, repository, &path(target), priority)).await
    }

    /// The manifest that `target` names.
    pub(super) async fn manifest(
        &self,
        subject: &str,
        repository: &Repository,
        target: &Target,
    ) -> Result<RawManifest> {
        // A request for a tag starts an image; images in progress go first.
        let priority = if matches!(target, Target::Tag(_)) { Priority::New } else { Priority::Continuation };
        self.fetch(subject, repository, target, priority).await
    }

    pub(super) async fn fetch(
        &self,
        subject: &str,
        repository: &Repository,
        target: &Target,
        priority: Priority,
    ) -> Result<RawManifest> {
        let answer = self.send(request(subject, repository, &path(target), priority)).await?;
        let status = answer.response.status();
        if status == StatusCode::OK {
            return read(subject, target, answer).await;
        }
        let Answer { response, permit, .. } = answer;
        let error = self.status_error(subject, repository, response).await;
        // Release the permit before the next request needs one, as in `head`.
        drop(permit);
        Err(match target {
            Target::Tag(tag) if status == StatusCode::NOT_FOUND && !self.is_mirror => {
                self.missing(error, repository, tag).await
            }
            _ => error,
        })
    }

    /// Says whether the tag or the repository does not exist: many registries return the same error for both, but list the
    /// tags only of repositories that exist.
    async fn missing(&self, error: Error, repository: &Repository, tag: &Tag) -> Error {
        let subject = error.subject().to_owned();
        let path = "tags/list?n=1";
        let request = Request::new(&subject, repository, Method::GET, path);
        let what = match self.send(request).await.map(|answer| answer.response.status()) {
            Ok(StatusCode::OK) => format!("the repository has no tag {tag}"),
            Ok(StatusCode::NOT_FOUND) => "the repository does not exist".to_owned(),
            _ => return error,
        };
        error.context(what)
    }
}

fn path(target: &Target) -> String {
    format!("manifests/{target}")
}

/// A request for the manifest at `path`, of any type.
fn request<'a>(
    subject: &'a str,
    repository: &'a Repository,
    path: &'a str,
    priority: Priority,
) -> Request<'a> {
    let headers = vec![(ACCEPT, HeaderValue::from_static(media_type::ACCEPT))];
    Request { headers, priority, ..Request::new(subject, repository, Method::GET, path) }
}

/// Reads the manifest from a response.
async fn read(subject: &str, target: &Target, answer: Answer) -> Result<RawManifest> {
    let Answer { response, permit, .. } = answer;
    let url = response.url().clone();
    if error::is_html(response.headers()) {
        return Err(error::web_page(subject, &url));
    }
    let encoding = Encoding::from_headers(response.headers());
    let too_long = |length: u64| {
        let message = format!("the manifest has {length} bytes or more; the limit is {MAX_MANIFEST_SIZE}");
        failure(ErrorKind::Corrupt, subject, message)
    };
    let announced = response.content_length();
    if let Some(length) = announced.filter(|length| *length > MAX_MANIFEST_SIZE) {
        return Err(too_long(length));
    }
    let content_type =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let claimed = content_digest(response.headers());
    let limit = usize::try_from(MAX_MANIFEST_SIZE).unwrap_or(usize::MAX);
    let body = error::read_bounded(response, limit).await.map_err(|error| {
        permit.record_overload();
        error::from_transport(subject, &url, error)
    })?;
    permit.record_success();
    let mut body = body.ok_or_else(|| too_long(MAX_MANIFEST_SIZE))?;
    if encoding == Some(Encoding::Gzip) {
        let decoded = encoding::decode_document(body, limit);
        body = decoded
            .map_err(|_| encoding::unsupported(subject, "gzip"))?
            .ok_or_else(|| too_long(MAX_MANIFEST_SIZE))?;
    }
    // A manifest is a JSON object, so anything else has been encoded.
    if let Some(Encoding::Foreign(name)) = &encoding
        && body.trim_ascii_start().first() != Some(&b'{')
    {
        return Err(encoding::unsupported(subject, name));
    }
    let body = Bytes::from(body);
    if error::looks_like_html(&body) {
        return Err(error::web_page(subject, &url));
    }
    // A manifest requested by digest is verified by the engine; for a tag there is only the header to compare with.
    if let (Target::Tag(_), Some(claimed)) = (target, claimed)
        && let digest = Digest::of(&body)
        && digest != claimed
    {
        let detail = Detail::Mismatch { expected: claimed.to_string(), actual: digest.to_string() };
        let message = "the manifest does not match the registry's Docker-Content-Digest header";
        return Err(failure(ErrorKind::Corrupt, subject, message).with_detail(detail));
    }
    let expected = match target {
        Target::Digest(digest) => Some(*digest),
        Target::Tag(_) => claimed,
    };
    RawManifest::expecting(body, content_type.as_deref(), expected).map_err(|error| about(subject, &error))
}

/// The digest in the headers, if it is valid.
pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// The error, about the requested name.
fn about(subject: &str, error: &Error) -> Error {
    error.clone().with_subject(subject).on(Side::Source)
}
