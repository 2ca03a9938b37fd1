//! Tags and manifests (distribution-spec "Pulling manifests").

use super::endpoint::{Answer, Endpoint, Request};
use super::error::{self, failure};
use super::limiter::Turn;
use crate::content::{Resolved, Target};
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Digest, RawManifest, Repository, Tag, media_type};
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

/// What a registry calls the digest of what it serves.
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

impl Endpoint {
    /// What `tag` names: a HEAD, or a GET where that tells no digest.
    pub(super) async fn resolve(
        &self,
        subject: &str,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Resolved> {
        let target = Target::Tag(tag.clone());
        let response = self.head_manifest(subject, repository, &target, Turn::Begins).await?;
        match response.status() {
            StatusCode::OK => {
                if let Some(digest) = content_digest(response.headers())
                    && !error::is_html(response.headers())
                {
                    return Ok(Resolved { digest, manifest: None });
                }
            }
            // Servers without HEAD; or a proxy in between that has never heard of it.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {}
            // No body, so no words: a GET has them, and is not counted as a pull where there is nothing to pull.
            // Not for 401: a password that was refused is not shown again and again.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if !self.is_mirror => {}
            _ => return Err(self.status_error(subject, repository, response).await),
        }
        let manifest = self.fetch(subject, repository, &target, Turn::GoesOn).await?;
        Ok(Resolved { digest: manifest.digest, manifest: Some(manifest) })
    }

    /// What a HEAD has to say of the manifest that `target` names, whatever its status.
    pub(super) async fn head_manifest(
        &self,
        subject: &str,
        repository: &Repository,
        target: &Target,
        turn: Turn,
    ) -> Result<Response> {
        self.head(request(subject, repository, &path(target), turn)).await
    }

    /// The manifest that `target` names.
    pub(super) async fn manifest(
        &self,
        subject: &str,
        repository: &Repository,
        target: &Target,
    ) -> Result<RawManifest> {
        // Asking for a tag begins an image; those that have begun are finished first.
        let turn = if matches!(target, Target::Tag(_)) { Turn::Begins } else { Turn::GoesOn };
        self.fetch(subject, repository, target, turn).await
    }

    async fn fetch(
        &self,
        subject: &str,
        repository: &Repository,
        target: &Target,
        turn: Turn,
    ) -> Result<RawManifest> {
        let answer = self.send(request(subject, repository, &path(target), turn)).await?;
        let status = answer.response.status();
        if status == StatusCode::OK {
            return read(subject, target, answer).await;
        }
        let Answer { response, permit, .. } = answer;
        let error = self.status_error(subject, repository, response).await;
        // Its place first: the next request waits for one, as in `head`.
        drop(permit);
        Err(match target {
            Target::Tag(tag) if status == StatusCode::NOT_FOUND && !self.is_mirror => {
                self.missing(error, repository, tag).await
            }
            _ => error,
        })
    }

    /// The error of a tag that was not found, with what it is that is missing: many registries
    /// say the same of a tag and of a repository, but list no tags of a repository that they do not know.
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

/// A request for the manifest at `path`, of any type that there is.
fn request<'a>(subject: &'a str, repository: &'a Repository, path: &'a str, turn: Turn) -> Request<'a> {
    let headers = vec![(ACCEPT, HeaderValue::from_static(media_type::ACCEPT))];
    Request { headers, turn, ..Request::new(subject, repository, Method::GET, path) }
}

/// The manifest that an answer brings.
async fn read(subject: &str, target: &Target, answer: Answer) -> Result<RawManifest> {
    let Answer { response, permit, .. } = answer;
    let url = response.url().clone();
    if error::is_html(response.headers()) {
        return Err(error::web_page(subject, &url));
    }
    if let Some(encoding) = foreign_encoding(response.headers()) {
        return Err(encoded(subject, &encoding));
    }
    let too_long = |length: u64| {
        let message =
            format!("a manifest of {length} bytes or more: more than the {MAX_MANIFEST_SIZE} it may have");
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
        permit.overloaded();
        error::from_transport(subject, &url, error)
    })?;
    permit.succeeded();
    let body = Bytes::from(body.ok_or_else(|| too_long(MAX_MANIFEST_SIZE))?);
    if error::looks_like_html(&body) {
        return Err(error::web_page(subject, &url));
    }
    // By digest the engine compares with what it asked for; by tag this is all there is to compare with.
    if let (Target::Tag(_), Some(claimed)) = (target, claimed)
        && let digest = Digest::of(&body)
        && digest != claimed
    {
        let detail = Detail::Mismatch { expected: claimed.to_string(), actual: digest.to_string() };
        let message = "the manifest does not match the registry's Docker-Content-Digest header";
        return Err(failure(ErrorKind::Corrupt, subject, message).with_detail(detail));
    }
    RawManifest::new(body, content_type.as_deref()).map_err(|error| about(subject, &error))
}

/// The digest that the headers name, if it is one.
pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// A Content-Encoding other than none.
pub(super) fn foreign_encoding(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_ENCODING)?;
    let encoding = error::quotable(value.to_str().unwrap_or("that can't be read"));
    (!encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")).then_some(encoding)
}

/// Content that came encoded though it was asked for as it is. Asking again would bring the same:
/// something between us and the registry rewrites what it passes on.
pub(super) fn encoded(subject: &str, encoding: &str) -> Error {
    failure(
        ErrorKind::Unsupported,
        subject,
        format!("served with Content-Encoding {encoding}: not the bytes that the digest is of"),
    )
    .with_hint(
        "a proxy in between compresses what it passes on: switch that off, or go around it with NO_PROXY",
    )
}

/// The error, said of the name that was asked for.
fn about(subject: &str, error: &Error) -> Error {
    error.clone().with_subject(subject).on(Side::Source)
}
