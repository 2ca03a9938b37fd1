//! Handles requests.

use super::access_log::AccessRecord;
use super::body::{Body, ChunkMemory};
use super::cache::{ManifestCache, ReadyManifest};
use super::error::ApiError;
use super::htpasswd::Htpasswd;
use super::page::Page;
use super::range::ByteRange;
use super::recorder::{RecordSinks, RequestRecorder};
use super::response::{HandlerResult, JSON, document, header_value, list, of_store};
use super::route::Route;
use super::served_store::ServedStore;
use super::{metrics, namespace, people, referrers};
use crate::content::Target;
use crate::error::{Error, ErrorKind};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Digest, RawManifest, Repository};
use crate::store::Store;
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");
const BASIC_CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"saver\", charset=\"UTF-8\"");

/// The number of listings, which walk directories, at a time.
const MAX_LISTINGS: usize = 2;
/// The number of password verifications, which are slow by design, at a time.
const MAX_VERIFICATIONS: usize = 2;
/// The size limit of the manifest cache, in bytes.
const MANIFEST_CACHE_SIZE: usize = 32 << 20;

/// Handles the requests to one store.
pub(super) struct RequestHandler {
    store: ServedStore,
    manifests: ManifestCache,
    chunks: ChunkMemory,
    listings: Arc<Semaphore>,
    users: Option<Arc<Htpasswd>>,
    verifications: Arc<Semaphore>,
    sinks: RecordSinks,
}

impl RequestHandler {
    pub(super) fn new(store: ServedStore, users: Option<Arc<Htpasswd>>, sinks: RecordSinks) -> Self {
        Self {
            store,
            manifests: ManifestCache::new(MANIFEST_CACHE_SIZE),
            chunks: ChunkMemory::default(),
            listings: Arc::new(Semaphore::new(MAX_LISTINGS)),
            users,
            verifications: Arc::new(Semaphore::new(MAX_VERIFICATIONS)),
            sinks,
        }
    }

    /// Handles a request. Its body is not read.
    pub(super) async fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        client: SocketAddr,
    ) -> Response<Body> {
        let time = SystemTime::now();
        let started = Instant::now();
        let head = Arc::new(request.into_parts().0);
        let mut user = None;
        let result = match self.authenticate(&head).await {
            Ok(authenticated) => {
                user = authenticated;
                self.respond(&head).await
            }
            Err(error) => Err(error),
        };
        let mut response = result.unwrap_or_else(|error| error_response(&error));
        let headers = response.headers_mut();
        headers.insert(API_VERSION, REGISTRY_2);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if head.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        if !self.sinks.is_active() {
            return response;
        }
        let user_agent = head.headers.get(header::USER_AGENT);
        let record = AccessRecord {
            time,
            client,
            user,
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            protocol: format!("{:?}", head.version),
            status: response.status().as_u16(),
            bytes: 0,
            duration: Duration::ZERO,
            user_agent: user_agent.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        };
        let recorder = RequestRecorder { record, started, sinks: self.sinks.clone() };
        response.map(|body| body.recorded_by(recorder))
    }

    /// The user whose credentials the request has; `None` if none are required.
    async fn authenticate(&self, head: &Parts) -> Result<Option<String>, ApiError> {
        let Some(users) = &self.users else { return Ok(None) };
        if head.uri.path() == "/healthz" {
            return Ok(None);
        }
        let credentials = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let credentials = credentials.ok_or_else(ApiError::unauthorized)?.to_owned();
        if let Some(user) = users.recall(&credentials) {
            return Ok(Some(user));
        }
        let permit = self.verifications.clone().acquire_owned().await;
        let users = users.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            users.authenticate(&credentials)
        });
        let user = verified.await.map_err(|_| ApiError::stopping())?;
        user.map(Some).ok_or_else(ApiError::unauthorized)
    }

    async fn respond(self: &Arc<Self>, head: &Arc<Parts>) -> HandlerResult {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(ApiError::read_only(&head.method));
        }
        let route = Route::parse(head.uri.path())?;
        match route {
            Route::Root if people::accepts_html(&head.headers) => return people::page(),
            Route::Root => return Ok(document(StatusCode::OK, JSON, Bytes::new())),
            Route::Base => return Ok(document(StatusCode::OK, JSON, Bytes::from_static(b"{}"))),
            Route::Metrics => return self.metrics(),
            _ => {}
        }
        let permit = if route.is_listing() { self.listings.clone().acquire_owned().await.ok() } else { None };
        let handler = self.clone();
        let head = head.clone();
        // Opening and reading files may block for long where the directory is on a file server.
        let response = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            handler.read(&route, &head)
        });
        response.await.unwrap_or_else(|_| Err(ApiError::stopping()))
    }

    fn metrics(&self) -> HandlerResult {
        let metrics = self.sinks.metrics.as_ref().ok_or_else(ApiError::no_such_endpoint)?;
        let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
        Ok(document(StatusCode::OK, content_type, metrics.render().into()))
    }

    /// Handles the endpoints that read the store.
    fn read(&self, route: &Route, head: &Parts) -> HandlerResult {
        let store = self.store.current()?;
        let query = head.uri.query();
        let ns = namespace::of_query(query);
        let locate = |repository: &Repository| match &ns {
            Some(host) => namespace::locate(&store, host, repository),
            None => Ok(repository.clone()),
        };
        match route {
            Route::Manifest(repository, target) => {
                self.manifest(&store, &locate(repository)?, target, &head.headers)
            }
            Route::Blob(repository, digest) => self.blob(&store, &locate(repository)?, digest, head),
            Route::Tags(repository) => {
                let page = Page::parse(query)?;
                let located = locate(repository)?;
                tags(&store, repository, &located, &page, ns.as_deref())
            }
            Route::Images => people::images(&store, query),
            Route::Repositories => repositories(&store, &Page::parse(query)?),
            Route::Referrers(repository, subject) => {
                let filter = referrers::artifact_type(query);
                // A repository that does not exist has no referrers, which is not an error.
                let located = locate(repository).unwrap_or_else(|_| repository.clone());
                list_referrers(&store, &located, subject, filter)
            }
            Route::Health => Ok(document(StatusCode::OK, JSON, Bytes::from_static(b"{\"status\":\"ok\"}"))),
            Route::Root | Route::Base | Route::Metrics => Err(ApiError::no_such_endpoint()),
        }
    }

    /// OCI distribution-spec, "Pulling manifests".
    fn manifest(
        &self,
        store: &Store,
        repository: &Repository,
        target: &Target,
        headers: &HeaderMap,
    ) -> HandlerResult {
        let unknown = || unknown(store, repository, ApiError::manifest_unknown(target));
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => match store.read_tag(repository, tag).map_err(of_store)? {
                Some(digest) => digest,
                None => return Err(unknown()),
            },
        };
        if !store.has_revision(repository, &digest).map_err(of_store)? {
            return Err(unknown());
        }
        let Some(ready) = self.ready_manifest(store, &digest)? else { return Err(unknown()) };
        let mut response = if is_known_to_client(headers, &digest) {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            document(StatusCode::OK, ready.content_type.clone(), ready.manifest.bytes.clone())
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_DIGEST, ready.digest.clone());
        headers.insert(header::ETAG, ready.etag.clone());
        Ok(response)
    }

    /// The manifest from the cache, or from the store after its digest was verified.
    fn ready_manifest(&self, store: &Store, digest: &Digest) -> Result<Option<Arc<ReadyManifest>>, ApiError> {
        if let Some(ready) = self.manifests.get(digest) {
            return Ok(Some(ready));
        }
        let Some(bytes) = store.read_content(digest, MAX_MANIFEST_SIZE).map_err(of_store)? else {
            return Ok(None);
        };
        let manifest = RawManifest::new(bytes, None).map_err(|error| match error.kind() {
            ErrorKind::Unsupported => ApiError::manifest_unknown(error.message()),
            _ => ApiError::of_store(&error),
        })?;
        if manifest.digest != *digest {
            let why = format!("the content has the digest {}", manifest.digest);
            return Err(ApiError::of_store(&Error::new(ErrorKind::Corrupt, digest, why)));
        }
        let (digest, etag) = validators(digest)?;
        let content_type = header_value(&manifest.media_type)?;
        let ready = Arc::new(ReadyManifest { manifest, content_type, digest, etag });
        self.manifests.insert(Arc::clone(&ready));
        Ok(Some(ready))
    }

    /// OCI distribution-spec, "Pulling blobs".
    fn blob(&self, store: &Store, repository: &Repository, digest: &Digest, head: &Parts) -> HandlerResult {
        let unknown = || unknown(store, repository, ApiError::blob_unknown(digest));
        if !store.has_layer(repository, digest).map_err(of_store)? {
            return Err(unknown());
        }
        let Some((file, size)) = store.open_blob(digest).map_err(of_store)? else {
            return Err(unknown());
        };
        let (digest_header, etag) = validators(digest)?;
        let is_known = is_known_to_client(&head.headers, digest);
        let range = if head.method == Method::GET && !is_known {
            requested_range(&head.headers, digest, size)
        } else {
            ByteRange::Whole
        };
        let mut response = match range {
            _ if is_known => empty(StatusCode::NOT_MODIFIED),
            ByteRange::Whole => {
                let mut response = Response::new(Body::file_range(file, 0, size, &self.chunks));
                response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
                response
            }
            ByteRange::Bytes(first, last) => {
                let length = last - first + 1;
                let mut response = Response::new(Body::file_range(file, first, length, &self.chunks));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, length.into());
                headers.insert(header::CONTENT_RANGE, header_value(&format!("bytes {first}-{last}/{size}"))?);
                response
            }
            ByteRange::Unsatisfiable => {
                let mut response = error_response(&ApiError::range_unsatisfiable(size));
                let range = header_value(&format!("bytes */{size}"))?;
                response.headers_mut().insert(header::CONTENT_RANGE, range);
                return Ok(response);
            }
        };
        let headers = response.headers_mut();
        if !is_known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        // The content of a digest never changes. Registry 2.8 sends the same value.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000"));
        headers.insert(CONTENT_DIGEST, digest_header);
        headers.insert(header::ETAG, etag);
        Ok(response)
    }
}

/// OCI distribution-spec, "Listing Tags". `located` is the repository of the tree that `requested` stands for.
fn tags(
    store: &Store,
    requested: &Repository,
    located: &Repository,
    page: &Page,
    ns: Option<&str>,
) -> HandlerResult {
    #[derive(Serialize)]
    struct TagList<'a> {
        name: &'a str,
        tags: &'a [&'a str],
    }
    if !store.has_repository(located).map_err(of_store)? {
        return Err(ApiError::name_unknown(requested));
    }
    let all = store.tags(located).map_err(of_store)?;
    let mut tags: Vec<&str> = all.iter().map(|tag| tag.as_str()).collect();
    tags.sort_unstable();
    let (tags, link) = page.cut(&tags, &format!("/v2/{requested}/tags/list"), ns);
    list(&TagList { name: requested.as_str(), tags }, link)
}

/// Docker Registry HTTP API V2, "Listing Repositories".
fn repositories(store: &Store, page: &Page) -> HandlerResult {
    #[derive(Serialize)]
    struct RepositoryList<'a> {
        repositories: &'a [&'a str],
    }
    let all = store.repositories().map_err(of_store)?;
    let mut repositories: Vec<&str> = all.iter().map(|repository| repository.as_str()).collect();
    repositories.sort_unstable();
    let (repositories, link) = page.cut(&repositories, "/v2/_catalog", None);
    list(&RepositoryList { repositories }, link)
}

/// OCI distribution-spec, "Listing Referrers".
fn list_referrers(
    store: &Store,
    repository: &Repository,
    subject: &Digest,
    filter: Option<String>,
) -> HandlerResult {
    let index = referrers::index(store, repository, subject, filter.as_deref())?;
    let media_type = HeaderValue::from_static(crate::oci::media_type::OCI_INDEX);
    let mut response = document(StatusCode::OK, media_type, index.into());
    if filter.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

/// The error for missing content: `error`, or that the repository does not exist.
fn unknown(store: &Store, repository: &Repository, error: ApiError) -> ApiError {
    match store.has_repository(repository) {
        Ok(false) => ApiError::name_unknown(repository),
        _ => error,
    }
}

/// The range that a request asks for. With If-Range (RFC 9110, 13.1.5) it applies only to the content that the client has.
fn requested_range(headers: &HeaderMap, digest: &Digest, size: u64) -> ByteRange {
    let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return ByteRange::Whole;
    };
    match headers.get(header::IF_RANGE) {
        Some(validator) if !validator.to_str().is_ok_and(|tag| tag.trim() == etag(digest)) => {
            ByteRange::Whole
        }
        _ => ByteRange::parse(range, size),
    }
}

/// Evaluates If-None-Match (RFC 9110, 13.1.2). Like registry 2.8, it accepts an entity tag without quotes.
fn is_known_to_client(headers: &HeaderMap, digest: &Digest) -> bool {
    let mut values = headers.get_all(header::IF_NONE_MATCH).iter().peekable();
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

/// The values of Docker-Content-Digest and ETag.
fn validators(digest: &Digest) -> Result<(HeaderValue, HeaderValue), ApiError> {
    Ok((header_value(&digest.to_string())?, header_value(&etag(digest))?))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn error_response(error: &ApiError) -> Response<Body> {
    let mut response = document(error.status, JSON, error.body().into());
    let headers = response.headers_mut();
    if error.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, BASIC_CHALLENGE);
    }
    response
}
