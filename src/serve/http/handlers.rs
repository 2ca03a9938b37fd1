//! From a request to its response.

use super::body::{AccessLog, Body, HeldChunks};
use super::cache::{ManifestCache, ReadyManifest};
use super::error::Refusal;
use super::page::Page;
use super::range::Part;
use super::referrers;
use super::route::Route;
use crate::content::Target;
use crate::error::{Error, ErrorKind};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Digest, RawManifest, Repository};
use crate::store::Store;
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");

/// How many listings, which walk directories, may run at a time.
const LISTINGS: usize = 2;
/// The most bytes of manifests kept in memory.
const CACHED_MANIFESTS: usize = 32 << 20;

/// What answers: a store, and what is kept in memory of it.
pub(super) struct Registry {
    store: Store,
    manifests: ManifestCache,
    chunks: HeldChunks,
    listings: Semaphore,
}

type Answer = Result<Response<Body>, Refusal>;

impl Registry {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            manifests: ManifestCache::new(CACHED_MANIFESTS),
            chunks: HeldChunks::default(),
            listings: Semaphore::new(LISTINGS),
        }
    }

    /// Answers a request. Its body is not read.
    pub(super) async fn answer<B>(self: &Arc<Self>, request: &Request<B>) -> Response<Body> {
        let since = Instant::now();
        let mut response = match self.grant(request).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal),
        };
        let headers = response.headers_mut();
        headers.insert(API_VERSION, REGISTRY_2);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if request.method() == Method::HEAD {
            *response.body_mut() = Body::nothing();
        }
        if !tracing::enabled!(target: "saver::serve::access", tracing::Level::DEBUG) {
            return response;
        }
        let log = AccessLog {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            status: response.status().as_u16(),
            bytes: 0,
            since,
        };
        response.map(|body| body.logged(log))
    }

    async fn grant<B>(self: &Arc<Self>, request: &Request<B>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::read_only(request.method()));
        }
        let uri = request.uri();
        match Route::parse(uri.path())? {
            Route::Root => Ok(document(StatusCode::OK, JSON, Bytes::new())),
            Route::Base => Ok(document(StatusCode::OK, JSON, Bytes::from_static(b"{}"))),
            Route::Manifest(repository, target) => self.manifest(&repository, &target, request.headers()),
            Route::Blob(repository, digest) => self.blob(&repository, &digest, request),
            Route::Tags(repository) => {
                let page = Page::parse(uri.query())?;
                self.listing(move |store| tags(store, &repository, &page)).await
            }
            Route::Catalog => {
                let page = Page::parse(uri.query())?;
                self.listing(move |store| catalog(store, &page)).await
            }
            Route::Referrers(repository, subject) => {
                let filter = referrers::artifact_type(uri.query());
                self.listing(move |store| referring(store, &repository, &subject, filter)).await
            }
        }
    }

    /// Runs what walks directories on a thread of its own, few at a time.
    async fn listing(self: &Arc<Self>, list: impl FnOnce(&Store) -> Answer + Send + 'static) -> Answer {
        let gone = |_| Error::new(ErrorKind::Cancelled, "", "the server is stopping");
        let _permit = self.listings.acquire().await.map_err(|_| Refusal::of_store(&gone(())))?;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || list(&store))
            .await
            .unwrap_or_else(|_| Err(Refusal::of_store(&gone(()))))
    }

    /// OCI distribution-spec, "Pulling manifests".
    fn manifest(&self, repository: &Repository, target: &Target, asked: &HeaderMap) -> Answer {
        let unknown = || unknown(&self.store, repository, Refusal::manifest_unknown(target));
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => match self.store.read_tag(repository, tag).map_err(of_store)? {
                Some(digest) => digest,
                None => return Err(unknown()),
            },
        };
        if !self.store.has_revision(repository, &digest).map_err(of_store)? {
            return Err(unknown());
        }
        let Some(ready) = self.ready_manifest(&digest)? else { return Err(unknown()) };
        let mut response = if is_known_to_client(asked, &digest) {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            document(StatusCode::OK, ready.content_type.clone(), ready.manifest.bytes.clone())
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_DIGEST, ready.digest.clone());
        headers.insert(header::ETAG, ready.etag.clone());
        Ok(response)
    }

    /// The manifest of `digest` from memory, or from the store once it was hashed.
    fn ready_manifest(&self, digest: &Digest) -> Result<Option<Arc<ReadyManifest>>, Refusal> {
        if let Some(ready) = self.manifests.get(digest) {
            return Ok(Some(ready));
        }
        let Some(bytes) = self.store.read_content(digest, MAX_MANIFEST_SIZE).map_err(of_store)? else {
            return Ok(None);
        };
        let manifest = RawManifest::new(bytes, None).map_err(|error| match error.kind() {
            ErrorKind::Unsupported => Refusal::manifest_unknown(error.message()),
            _ => Refusal::of_store(&error),
        })?;
        if manifest.digest != *digest {
            let why = format!("the content hashes to {}", manifest.digest);
            return Err(Refusal::of_store(&Error::new(ErrorKind::Corrupt, digest, why)));
        }
        let (digest, etag) = validators(digest)?;
        let content_type = header_value(&manifest.media_type)?;
        let ready = Arc::new(ReadyManifest { manifest, content_type, digest, etag });
        self.manifests.insert(Arc::clone(&ready));
        Ok(Some(ready))
    }

    /// OCI distribution-spec, "Pulling blobs".
    fn blob<B>(&self, repository: &Repository, digest: &Digest, request: &Request<B>) -> Answer {
        let unknown = || unknown(&self.store, repository, Refusal::blob_unknown(digest));
        if !self.store.has_layer(repository, digest).map_err(of_store)? {
            return Err(unknown());
        }
        let Some((file, size)) = self.store.open_blob(digest).map_err(of_store)? else {
            return Err(unknown());
        };
        let asked = request.headers();
        let (digest_header, etag) = validators(digest)?;
        let known = is_known_to_client(asked, digest);
        let part =
            if request.method() == Method::GET && !known { part(asked, digest, size) } else { Part::Whole };
        let mut response = match part {
            _ if known => empty(StatusCode::NOT_MODIFIED),
            Part::Whole => {
                let mut response = Response::new(Body::part(file, 0, size, &self.chunks));
                response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
                response
            }
            Part::Bytes(first, last) => {
                let length = last - first + 1;
                let mut response = Response::new(Body::part(file, first, length, &self.chunks));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, length.into());
                headers.insert(header::CONTENT_RANGE, header_value(&format!("bytes {first}-{last}/{size}"))?);
                response
            }
            Part::Unsatisfiable => {
                let mut response = refused(&Refusal::range_unsatisfiable(size));
                response
                    .headers_mut()
                    .insert(header::CONTENT_RANGE, header_value(&format!("bytes */{size}"))?);
                return Ok(response);
            }
        };
        let headers = response.headers_mut();
        if !known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        // What a digest names never changes: as registry 2.8 says of blobs.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000"));
        headers.insert(CONTENT_DIGEST, digest_header);
        headers.insert(header::ETAG, etag);
        Ok(response)
    }
}

/// OCI distribution-spec, "Listing Tags".
fn tags(store: &Store, repository: &Repository, page: &Page) -> Answer {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        tags: Vec<&'a str>,
    }
    if !store.has_repository(repository).map_err(of_store)? {
        return Err(Refusal::name_unknown(repository));
    }
    let all = store.tags(repository).map_err(of_store)?;
    let mut tags: Vec<&str> = all.iter().map(|tag| tag.as_str()).collect();
    tags.sort_unstable();
    let (tags, link) = page.cut(&tags, &format!("/v2/{repository}/tags/list"));
    list(&Document { name: repository.as_str(), tags: tags.to_vec() }, link)
}

/// Docker Registry HTTP API V2, "Listing Repositories".
fn catalog(store: &Store, page: &Page) -> Answer {
    #[derive(Serialize)]
    struct Document<'a> {
        repositories: Vec<&'a str>,
    }
    let all = store.repositories().map_err(of_store)?;
    let mut repositories: Vec<&str> = all.iter().map(|repository| repository.as_str()).collect();
    repositories.sort_unstable();
    let (repositories, link) = page.cut(&repositories, "/v2/_catalog");
    list(&Document { repositories: repositories.to_vec() }, link)
}

/// OCI distribution-spec, "Listing Referrers".
fn referring(store: &Store, repository: &Repository, subject: &Digest, filter: Option<String>) -> Answer {
    let index = referrers::index(store, repository, subject, filter.as_deref())?;
    let media_type = HeaderValue::from_static(crate::oci::media_type::OCI_INDEX);
    let mut response = document(StatusCode::OK, media_type, index.into());
    if filter.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

fn list(body: &impl Serialize, link: Option<String>) -> Answer {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = document(StatusCode::OK, JSON, bytes.into());
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, header_value(&link)?);
    }
    Ok(response)
}

/// What is told of something that is not there: `otherwise`, or that there is no such repository at all.
fn unknown(store: &Store, repository: &Repository, otherwise: Refusal) -> Refusal {
    match store.has_repository(repository) {
        Ok(false) => Refusal::name_unknown(repository),
        _ => otherwise,
    }
}

/// The part of a blob that a request's Range asks for. If-Range (RFC 9110, 13.1.5): the part only of
/// the very content that the client has the rest of.
fn part(asked: &HeaderMap, digest: &Digest, size: u64) -> Part {
    let Some(range) = asked.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Part::Whole;
    };
    match asked.get(header::IF_RANGE) {
        Some(validator) if !validator.to_str().is_ok_and(|tag| tag.trim() == etag(digest)) => Part::Whole,
        _ => Part::parse(range, size),
    }
}

/// If-None-Match (RFC 9110, 13.1.2). As registry 2.8 does, an entity tag without its quotes is understood too.
fn is_known_to_client(asked: &HeaderMap, digest: &Digest) -> bool {
    let mut values = asked.get_all(header::IF_NONE_MATCH).iter().peekable();
    if values.peek().is_none() {
        return false;
    }
    let digest = digest.to_string();
    values.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.trim_start_matches("W/").trim_matches('"') == digest
    })
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The Docker-Content-Digest and ETag headers of `digest`.
fn validators(digest: &Digest) -> Result<(HeaderValue, HeaderValue), Refusal> {
    Ok((header_value(&digest.to_string())?, header_value(&etag(digest))?))
}

/// Media types come from documents: one with a line break in it must not become a header.
fn header_value(text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text).map_err(|_| {
        Refusal::of_store(&Error::new(ErrorKind::Corrupt, format!("{text:?}"), "no header value"))
    })
}

fn of_store(error: Error) -> Refusal {
    Refusal::of_store(&error)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::nothing());
    *response.status_mut() = status;
    response
}

/// The length is told in a header, not by the body: HEAD has none, but the same headers.
fn document(status: StatusCode, content_type: HeaderValue, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(Body::document(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = document(refusal.status, JSON, refusal.body().into());
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
