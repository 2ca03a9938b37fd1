//! One HTTP endpoint that serves repositories: the registry itself or a mirror.

use super::auth::{Auth, AuthContext, Authorization, Rights};
use super::base_url::{self, Base};
use super::challenge::Challenge;
use super::circuit_breaker::CircuitBreaker;
use super::credential::CredentialSource;
use super::limiter::{Limiter, Permit, Priority};
use super::message::failure;
use super::options::SessionOptions;
use super::referrer_discovery::ReferrerDiscovery;
use super::retry_after::{RetryAfterGate, retry_after};
use super::transport::{Purpose, Transport};
use super::{error, redirect};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Registry, Repository};
use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, Version};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use url::Url;

mod scheme;
mod upload;

pub(super) use upload::{UploadRange, UploadStart};

/// The initial concurrency limits.
const FIRST_API: usize = 8;
const FIRST_BLOBS: usize = 6;

/// The most other registries whose challenges are remembered.
const MAX_REDIRECTED: usize = 64;

/// How long reading a body may take that is not needed.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// One HTTP endpoint that serves repositories.
pub(super) struct Endpoint {
    /// The registry, as `docker login` names it.
    pub(super) registry: Registry,
    pub(super) options: Arc<SessionOptions>,
    transport: Transport,
    auth: Auth,
    base: Base,
    /// The prefix of each repository's name, with its slash.
    prefix: String,
    gate: RetryAfterGate,
    circuit: CircuitBreaker,
    api: Arc<Limiter>,
    blobs: Arc<Limiter>,
    /// Authorises requests to other registries that this one redirects to, by origin.
    redirected: Mutex<HashMap<String, Arc<Auth>>>,
    credentials: Arc<dyn CredentialSource>,
    /// Redirect targets of blobs.
    pub(super) blob_urls: Mutex<HashMap<Digest, Url>>,
    /// Consecutive range requests that were not answered with the range.
    pub(super) failed_ranges: AtomicU32,
    /// Consecutive server errors in response to range requests, by blob.
    pub(super) range_errors: Mutex<HashMap<Digest, u32>>,
    pub(super) referrers: ReferrerDiscovery,
    requests: AtomicU64,
    /// Whether a server that was addressed with plain HTTP speaks TLS.
    speaks_tls: OnceCell<bool>,
    pub(super) is_mirror: bool,
}

/// A request, before authorisation and redirects.
pub(super) struct Request<'a> {
    pub(super) subject: &'a str,
    pub(super) repository: &'a Repository,
    pub(super) method: Method,
    pub(super) purpose: Purpose,
    /// The path after the repository's name: `manifests/v1`.
    pub(super) path: &'a str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The URL to use instead of `path`: a redirect target that is known, or the location of an upload.
    pub(super) instead: Option<Url>,
    /// Another repository that it reads, to mount a blob from it.
    pub(super) beside: Option<&'a Repository>,
    pub(super) body: Option<Bytes>,
    pub(super) priority: Priority,
}

impl<'a> Request<'a> {
    /// Whether it lists the repositories of the registry, which is below none of them.
    fn is_catalog(&self) -> bool {
        self.path.starts_with("_catalog")
    }

    /// A request for the API, without headers and body.
    pub(super) fn new(subject: &'a str, repository: &'a Repository, method: Method, path: &'a str) -> Self {
        Self {
            subject,
            repository,
            method,
            purpose: Purpose::Api,
            path,
            headers: Vec::new(),
            instead: None,
            beside: None,
            body: None,
            priority: Priority::Continuation,
        }
    }
}

/// A response of any status but 429 and 503.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Held until the body is read.
    pub(super) permit: Permit,
    /// Whether the response came from another origin than the endpoint's own.
    pub(super) elsewhere: bool,
}

impl Endpoint {
    /// The registry itself.
    ///
    /// # Errors
    /// `InvalidInput` for a registry whose name is no valid host.
    pub(super) fn origin(
        registry: &Registry,
        credentials: Arc<dyn CredentialSource>,
        options: Arc<SessionOptions>,
    ) -> Result<Self> {
        let base = Base::origin(registry, &options)?;
        let host = if registry.is_docker_hub() { base_url::DOCKER_HUB_HOST } else { registry.host() };
        Ok(Self::new(
            registry.clone(),
            Transport::new(Arc::clone(&options), host),
            base,
            "",
            credentials,
            options,
        ))
    }

    /// A mirror. The registry's own TLS settings do not apply to it.
    ///
    /// # Errors
    /// `InvalidInput` for an unusable URL.
    pub(super) fn mirror(
        url: &Url,
        credentials: Arc<dyn CredentialSource>,
        options: &SessionOptions,
    ) -> Result<Self> {
        let shown = error::shown_url(url);
        let refuse = |why: &str| failure(ErrorKind::InvalidInput, format!("mirror {shown}"), why);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("a mirror's URL must start with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(refuse("a mirror's URL must have neither user nor query")
                .with_hint("log in to the mirror instead: docker login HOST"));
        }
        let host = url.host_str().ok_or_else(|| refuse("the URL has no host"))?;
        let registry: Registry = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
        .parse()?;
        let (base, prefix) = Base::mirror(url, &registry, options);
        let options =
            Arc::new(SessionOptions { insecure_tls: false, client_identity: None, ..options.clone() });
        let transport = Transport::new(Arc::clone(&options), registry.host());
        Ok(Self { is_mirror: true, ..Self::new(registry, transport, base, &prefix, credentials, options) })
    }

    fn new(
        registry: Registry,
        transport: Transport,
        base: Base,
        prefix: &str,
        credentials: Arc<dyn CredentialSource>,
        options: Arc<SessionOptions>,
    ) -> Self {
        Self {
            auth: Auth::new(registry.clone(), Arc::clone(&credentials), Rights::Read),
            credentials,
            redirected: Mutex::default(),
            registry,
            transport,
            base,
            prefix: prefix.to_owned(),
            gate: RetryAfterGate::default(),
            circuit: CircuitBreaker::default(),
            api: Limiter::new(FIRST_API, options.max_connections, options.max_requests),
            blobs: Limiter::new(FIRST_BLOBS, options.max_connections, options.max_connections),
            blob_urls: Mutex::default(),
            failed_ranges: AtomicU32::new(0),
            range_errors: Mutex::default(),
            referrers: ReferrerDiscovery::default(),
            requests: AtomicU64::new(0),
            speaks_tls: OnceCell::new(),
            is_mirror: false,
            options,
        }
    }

    /// The number of requests, including those to redirect targets, and of requested tokens.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.auth.tokens_requested())
    }

    /// Sends `request`, follows redirects, and repeats it with new authorisation when that was refused.
    ///
    /// # Errors
    /// When there is no response, or its status is 429 or 503.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer> {
        let mut permit = self.admit(request.purpose, request.priority, request.subject).await?;
        let sent = Instant::now();
        let result = self.send_admitted(&request).await;
        let (response, elsewhere) = match result {
            Ok(answer) => answer,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::ConnectionRefused) {
                    permit.record_overload();
                    if sent.elapsed() >= self.options.idle_timeout.min(self.options.connect_timeout) {
                        self.circuit.record_failure(sent, &error);
                    }
                }
                return Err(error);
            }
        };
        self.circuit.record_response();
        if response.url().scheme() == "http" || response.version() == Version::HTTP_2 {
            permit.set_cheap();
        }
        if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return Ok(Answer { response, permit, elsewhere });
        }
        permit.record_overload();
        if !elsewhere && let Some(wait) = retry_after(response.headers(), SystemTime::now()) {
            self.gate.close_for(wait);
        }
        Err(self.status_error(request.subject, request.repository, response).await)
    }

    /// Sends `request` as a HEAD. Without a body to read the permit is released at once: a caller that sends a second request
    /// needs another permit, and callers that hold one while they wait for one would deadlock.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) async fn head(&self, request: Request<'_>) -> Result<Response> {
        let Answer { response, permit, .. } = self.send(Request { method: Method::HEAD, ..request }).await?;
        if response.status() == StatusCode::OK {
            permit.record_success();
        }
        Ok(response)
    }

    /// The error that a response's status means.
    pub(super) async fn status_error(
        &self,
        subject: &str,
        repository: &Repository,
        response: Response,
    ) -> Error {
        let status = response.status();
        let own = match self.base(subject).await {
            Ok(base) => redirect::same_origin(response.url(), &base),
            Err(error) => return error,
        };
        if !own {
            let registry = registry_at(response.url());
            let asks_for_login = Challenge::from_headers(response.headers()).is_some();
            let login = registry.as_ref().filter(|_| asks_for_login).map(Registry::as_str);
            return error::from_response(subject, login, response).await;
        }
        let error = error::from_response(subject, Some(self.registry.as_str()), response).await;
        match (status, self.name(repository)) {
            (StatusCode::UNAUTHORIZED, Ok(name)) => self.auth.explain(error, &name),
            _ => error,
        }
    }

    /// Waits for a permit, then for the end of a Retry-After.
    async fn admit(&self, purpose: Purpose, priority: Priority, subject: &str) -> Result<Permit> {
        let limit = match purpose {
            Purpose::Api => &self.api,
            Purpose::Blob | Purpose::Upload => &self.blobs,
        };
        let start = Instant::now();
        let permit = limit.acquire(priority).await;
        if let Some(error) = self.circuit.failure_since(start) {
            return Err(error.with_subject(subject));
        }
        self.gate.wait(self.options.max_retry_after).await.map_err(|left| {
            failure(
                ErrorKind::RateLimited,
                subject,
                format!("{} asked to send no requests for another {} s", self.registry, left.as_secs()),
            )
            .with_retry_after(left)
        })?;
        Ok(permit)
    }

    async fn send_admitted(&self, request: &Request<'_>) -> Result<(Response, bool)> {
        let base = self.base(request.subject).await?;
        let name = self.name(request.repository)?;
        let beside = request.beside.map(|beside| self.name(beside)).transpose()?;
        let (transport, subject) = (&self.transport, request.subject);
        let (beside, is_catalog) = (beside.as_ref(), request.is_catalog());
        let context = AuthContext { transport, base: &base, subject, repository: &name, beside, is_catalog };
        let mut tries = 0;
        loop {
            let authorization = self.auth.authorization(context).await?;
            let (response, elsewhere) = self.follow(request, &base, &name, authorization.as_ref()).await?;
            let used_token = authorization.as_ref().is_some_and(Authorization::is_token);
            if !elsewhere && authorization.is_none() && matches!(response.status().as_u16(), 400 | 403 | 404)
            {
                if !self.auth.probe(context, || self.probe_challenge(&base)).await {
                    return Ok((response, elsewhere));
                }
                drain(response).await;
                continue;
            }
            // Amazon's public registry answers 400 to an expired token. Two more attempts are enough: one with the challenge's
            // authorisation, and one with a new token in place of an expired one.
            let refused = match response.status() {
                StatusCode::UNAUTHORIZED => tries < 2,
                StatusCode::BAD_REQUEST => used_token && tries == 0,
                _ => false,
            };
            if !refused || elsewhere {
                return Ok((response, elsewhere));
            }
            tries += 1;
            if !self.auth.refused(context, authorization.as_ref(), response.headers()).await? {
                return Ok((response, elsewhere));
            }
            drain(response).await;
        }
    }

    /// Sends one request and follows redirects. Returns the response and whether it came from another origin.
    async fn follow(
        &self,
        request: &Request<'_>,
        base: &Url,
        name: &Repository,
        authorization: Option<&Authorization>,
    ) -> Result<(Response, bool)> {
        let mut url = match &request.instead {
            Some(url) => url.clone(),
            None => Self::address(base, name, request),
        };
        let mut seen = vec![url.clone()];
        loop {
            // Credentials are sent to the origin that they are for, and nowhere else.
            let own = redirect::same_origin(&url, base);
            let response = if own {
                let value = authorization.map(|known| known.value.clone());
                let result = self.exchange(request, &url, value).await;
                self.check_scheme(request.subject, &url, result).await?
            } else {
                self.exchange_redirected(request, &url, name).await?
            };
            let next = redirect::next(&response, &url, &seen, self.transport.peers());
            let Some(next) = next else { return Ok((response, !own)) };
            let next = next.map_err(|why| {
                let message = format!("{} returned {why}", error::shown_url(&url));
                failure(ErrorKind::Unsupported, request.subject, message)
            })?;
            drain(response).await;
            seen.push(next.clone());
            url = next;
        }
    }

    /// The headers of a 401 in response to a request for `/v2/`.
    async fn probe_challenge(&self, base: &Url) -> Option<HeaderMap> {
        let mut url = base.clone();
        url.set_path(&format!("{}/", base.path().trim_end_matches('/')));
        tracing::debug!(url = %error::shown_url(&url), "asking for a challenge");
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response = self.transport.client(Purpose::Api, &url).ok()?.get(url).send().await.ok()?;
        let headers = (response.status() == StatusCode::UNAUTHORIZED).then(|| response.headers().clone());
        drain(response).await;
        headers
    }

    /// Sends a request to another origin that the registry redirected to. When that is a registry with a challenge of its own
    /// (a registry that moved), it is answered with the credentials for that registry.
    async fn exchange_redirected(
        &self,
        request: &Request<'_>,
        url: &Url,
        name: &Repository,
    ) -> Result<Response> {
        let Some((registry, base)) = registry_at(url).zip(base_url::api_root(url)) else {
            return self.exchange(request, url, None).await;
        };
        let auth = {
            let mut redirected = self.redirected.lock();
            if redirected.len() >= MAX_REDIRECTED {
                redirected.clear();
            }
            let new = || Arc::new(Auth::new(registry, Arc::clone(&self.credentials), Rights::Read));
            Arc::clone(redirected.entry(url.origin().ascii_serialization()).or_insert_with(new))
        };
        let context = AuthContext {
            transport: &self.transport,
            base: &base,
            subject: request.subject,
            repository: name,
            beside: None,
            is_catalog: false,
        };
        let mut attempts = 0;
        loop {
            let authorization = auth.authorization(context).await?;
            let value = authorization.as_ref().map(|known| known.value.clone());
            let response = self.exchange(request, url, value).await?;
            attempts += 1;
            if response.status() != StatusCode::UNAUTHORIZED
                || attempts > 2
                || !auth.refused(context, authorization.as_ref(), response.headers()).await?
            {
                return Ok(response);
            }
            drain(response).await;
        }
    }

    async fn exchange(
        &self,
        request: &Request<'_>,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<Response> {
        let mut builder =
            self.transport.client(request.purpose, url)?.request(request.method.clone(), url.clone());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let begun = std::time::Instant::now();
        let result = builder.send().await;
        tracing::debug!(
            method = %request.method,
            url = %error::shown_url(url),
            status = result.as_ref().ok().map(|response| response.status().as_u16()),
            ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request"
        );
        if let Ok(response) = &result {
            self.transport.note_peer(response);
        }
        result.map_err(|error| self.transport.transport_error(request.subject, url, error))
    }

    /// The URL of `request`. Names, tags and digests need no escaping; queries are escaped by the caller.
    fn address(base: &Url, name: &Repository, request: &Request<'_>) -> Url {
        let (path, query) =
            request.path.split_once('?').map_or((request.path, None), |(path, query)| (path, Some(query)));
        let mut url = base.clone();
        let above = if request.is_catalog() { String::new() } else { format!("/{name}") };
        url.set_path(&format!("{}{above}/{}", base.path().trim_end_matches('/'), path));
        url.set_query(query);
        url
    }

    /// The repository's name at this endpoint.
    fn name(&self, repository: &Repository) -> Result<Repository> {
        if self.prefix.is_empty() {
            return Ok(repository.clone());
        }
        format!("{}{repository}", self.prefix).parse()
    }

    /// The root of the API.
    async fn base(&self, subject: &str) -> Result<Url> {
        self.base.url(subject).await
    }

    /// The URL that a request for `digest` was redirected to before.
    pub(super) fn blob_url(&self, digest: &Digest) -> Option<Url> {
        self.blob_urls.lock().get(digest).cloned()
    }

    pub(super) fn forget_blob_url(&self, digest: &Digest) {
        self.blob_urls.lock().remove(digest);
    }
}

/// The registry at `url`, as `docker login` names it.
pub(super) fn registry_at(url: &Url) -> Option<Registry> {
    let host = url.host_str()?;
    match url.port() {
        Some(port) => format!("{host}:{port}").parse().ok(),
        None => host.parse().ok(),
    }
}

/// Reads a short body to its end, so that the connection can be reused.
async fn drain(response: Response) {
    // A long or slow body costs the connection, nothing else.
    let _ = tokio::time::timeout(DRAIN_TIME, error::read_bounded(response, 64 << 10)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Anonymous;

    #[test]
    fn request_url_joins_base_name_path_and_query() {
        for (base, path, expect) in [
            ("https://r.io/v2", "manifests/v1.0_x", "https://r.io/v2/team/app/manifests/v1.0_x"),
            ("http://[::1]:5000/x/v2/", "manifests/v1", "http://[::1]:5000/x/v2/team/app/manifests/v1"),
            ("https://r.io/v2", "tags/list?last=b%23x+y", "https://r.io/v2/team/app/tags/list?last=b%23x+y"),
            (
                "https://r.io/v2",
                "blobs/uploads/?mount=sha256:ab&from=a/b",
                "https://r.io/v2/team/app/blobs/uploads/?mount=sha256:ab&from=a/b",
            ),
        ] {
            let name: Repository = "team/app".parse().unwrap();
            let request = Request::new("x", &name, Method::GET, path);
            assert_eq!(Endpoint::address(&Url::parse(base).unwrap(), &name, &request).as_str(), expect);
        }
    }

    #[test]
    fn mirror_url_is_checked() {
        for bad in ["ftp://m.io", "https://ann:pw@m.io", "https://m.io/?a=b"] {
            let url = Url::parse(bad).unwrap();
            let result = Endpoint::mirror(&url, Arc::new(Anonymous), &SessionOptions::default());
            let error = result.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(!error.to_string().contains("pw"), "{error}");
        }
    }
}
