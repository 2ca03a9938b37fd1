//! One place that answers for repositories: the registry itself or a mirror.

use super::auth::{Auth, Authorization, Context, Rights};
use super::base_url::{self, Base};
use super::credential::CredentialSource;
use super::error::{self, failure};
use super::limiter::{Gate, Limit, Permit, Silence, Turn};
use super::options::SessionOptions;
use super::redirect;
use super::transport::{Purpose, Transport};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Registry, Repository};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, Version};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use url::Url;

mod upload;

pub(super) use upload::Begun;

/// How many requests are in flight at first.
const FIRST_API: usize = 8;
const FIRST_BLOBS: usize = 6;

/// How long the body of an answer that says all in its head may take.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// One place that answers for repositories.
pub(super) struct Endpoint {
    /// The registry that it is, as `docker login` names it.
    pub(super) registry: Registry,
    pub(super) options: Arc<SessionOptions>,
    transport: Transport,
    auth: Auth,
    base: Base,
    /// What stands before each repository's name, with its slash.
    prefix: String,
    gate: Gate,
    silence: Silence,
    api: Arc<Limit>,
    blobs: Arc<Limit>,
    /// Where blobs were found behind redirects.
    pub(super) kept: Mutex<HashMap<Digest, Url>>,
    /// Wrong answers to ranges in a row.
    pub(super) wrong_ranges: AtomicU32,
    requests: AtomicU64,
    pub(super) is_mirror: bool,
}

/// One request, before it is known what authorises it and where it ends.
pub(super) struct Request<'a> {
    pub(super) subject: &'a str,
    pub(super) repository: &'a Repository,
    pub(super) method: Method,
    pub(super) purpose: Purpose,
    /// What follows the repository's name: `manifests/v1`.
    pub(super) path: &'a str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Where to ask instead: the end of a redirect that was followed before, or where an upload goes.
    pub(super) instead: Option<Url>,
    /// Another repository that it reads beside its own.
    pub(super) beside: Option<&'a Repository>,
    /// What is sent with it.
    pub(super) body: Option<Bytes>,
    /// Whether it lets others go first.
    pub(super) turn: Turn,
}

impl<'a> Request<'a> {
    /// A request of the API's, with nothing special to it.
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
            turn: Turn::GoesOn,
        }
    }
}

/// An answer, whatever its status, but for 429 and 503.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Held until the body is read.
    pub(super) permit: Permit,
    /// Whether another origin than the endpoint's own answered.
    pub(super) elsewhere: bool,
}

impl Endpoint {
    /// The registry itself.
    ///
    /// # Errors
    /// `InvalidInput` for a registry whose name makes no address.
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

    /// A mirror. What the options say of the registry's own TLS does not hold for it.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is none.
    pub(super) fn mirror(
        url: &Url,
        credentials: Arc<dyn CredentialSource>,
        options: &SessionOptions,
    ) -> Result<Self> {
        let shown = error::shown_url(url);
        let refuse = |why: &str| failure(ErrorKind::InvalidInput, format!("mirror {shown}"), why);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("a mirror's address starts with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(refuse("a mirror's address has neither user nor query")
                .with_hint("log in to the mirror instead: docker login HOST"));
        }
        let host = url.host_str().ok_or_else(|| refuse("it has no host"))?;
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
            auth: Auth::new(registry.clone(), credentials, Rights::Read),
            registry,
            transport,
            base,
            prefix: prefix.to_owned(),
            gate: Gate::default(),
            silence: Silence::default(),
            api: Limit::new(FIRST_API, options.max_connections, options.max_requests),
            blobs: Limit::new(FIRST_BLOBS, options.max_connections, options.max_connections),
            kept: Mutex::default(),
            wrong_ranges: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            is_mirror: false,
            options,
        }
    }

    /// Requests made to the registry and where it redirected to; tokens asked for.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.auth.tokens_asked())
    }

    /// Sends `request`, following redirects, and once or twice more when what authorised it was refused.
    ///
    /// # Errors
    /// When there is no answer at all, or it is 429 or 503.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer> {
        let mut permit = self.admit(request.purpose, request.turn, request.subject).await?;
        let sent = Instant::now();
        let result = self.send_admitted(&request).await;
        let (response, elsewhere) = match result {
            Ok(answer) => answer,
            Err(error) => {
                if error.kind() == ErrorKind::Unavailable {
                    permit.overloaded();
                    if sent.elapsed() >= self.options.idle_timeout.min(self.options.connect_timeout) {
                        self.silence.failed(sent, &error);
                    }
                }
                return Err(error);
            }
        };
        self.silence.answered();
        if response.url().scheme() == "http" || response.version() == Version::HTTP_2 {
            permit.set_cheap();
        }
        if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return Ok(Answer { response, permit, elsewhere });
        }
        permit.overloaded();
        if !elsewhere && let Some(wait) = error::retry_after(response.headers(), SystemTime::now()) {
            self.gate.close_for(wait);
        }
        Err(self.status_error(request.subject, request.repository, response).await)
    }

    /// Sends `request` as a HEAD. There is no body to wait for, so the answer holds no place: whoever asks once more because of it
    /// waits for one, and where all that have one waited for a second, nobody would get it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) async fn head(&self, request: Request<'_>) -> Result<Response> {
        let Answer { response, permit, .. } = self.send(Request { method: Method::HEAD, ..request }).await?;
        if response.status() == StatusCode::OK {
            permit.succeeded();
        }
        Ok(response)
    }

    /// The error that an answer's status means.
    pub(super) async fn status_error(
        &self,
        subject: &str,
        repository: &Repository,
        response: Response,
    ) -> Error {
        let status = response.status();
        let error = error::from_response(subject, Some(self.registry.as_str()), response).await;
        match (status, self.name(repository)) {
            (StatusCode::UNAUTHORIZED, Ok(name)) => self.auth.told(error, &name),
            _ => error,
        }
    }

    /// Waits for a place and for the gate.
    async fn admit(&self, purpose: Purpose, turn: Turn, subject: &str) -> Result<Permit> {
        let limit = match purpose {
            Purpose::Api => &self.api,
            Purpose::Blob | Purpose::Upload => &self.blobs,
        };
        let began = Instant::now();
        let permit = limit.acquire(turn).await;
        if let Some(error) = self.silence.since(began) {
            return Err(error.with_subject(subject));
        }
        self.gate.wait(self.options.max_retry_after).await.map_err(|left| {
            failure(
                ErrorKind::RateLimited,
                subject,
                format!("{} wants no requests for another {} s", self.registry, left.as_secs()),
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
        let context = Context { transport, base: &base, subject, repository: &name, beside: beside.as_ref() };
        let mut tries = 0;
        loop {
            let authorization = self.auth.authorization(context).await?;
            let (response, elsewhere) = self.follow(request, &base, &name, authorization.as_ref()).await?;
            let used_token = authorization.as_ref().is_some_and(Authorization::is_token);
            // Amazon's public registry says 400 of a token that has expired. More than twice nothing
            // new can come of it: once to learn what is wanted, once for a token that had expired.
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

    /// Sends one request and goes where it is redirected; says whether that was to another origin.
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
            // What authorises here is shown here and nowhere else.
            let own = redirect::same_origin(&url, base);
            let shown = authorization.filter(|_| own).map(|authorization| authorization.value.clone());
            let response = self.exchange(request, &url, shown).await?;
            let Some(next) = redirect::next(&response, &url, &seen) else { return Ok((response, !own)) };
            let next = next.map_err(|why| {
                let message = format!("{} answered with {why}", error::shown_url(&url));
                failure(ErrorKind::Unsupported, request.subject, message)
            })?;
            drain(response).await;
            seen.push(next.clone());
            url = next;
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
        result.map_err(|error| self.transport.failed(request.subject, url, error))
    }

    /// What `base` has for `request`. Names, tags and digests hold nothing that needs escaping; a query is made, or made again, by whoever asks.
    fn address(base: &Url, name: &Repository, request: &Request<'_>) -> Url {
        let (path, query) =
            request.path.split_once('?').map_or((request.path, None), |(path, query)| (path, Some(query)));
        let mut url = base.clone();
        url.set_path(&format!("{}/{name}/{}", base.path().trim_end_matches('/'), path));
        url.set_query(query);
        url
    }

    /// The repository's name here.
    fn name(&self, repository: &Repository) -> Result<Repository> {
        if self.prefix.is_empty() {
            return Ok(repository.clone());
        }
        format!("{}{repository}", self.prefix).parse()
    }

    /// Where the API begins.
    async fn base(&self, subject: &str) -> Result<Url> {
        self.base.url(subject).await
    }

    /// Where `digest` was found behind a redirect.
    pub(super) fn kept_address(&self, digest: &Digest) -> Option<Url> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(super) fn forget_address(&self, digest: &Digest) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

/// Reads what little body there is, so that the connection can be used again.
async fn drain(response: Response) {
    // A body that is long, slow or breaks costs the connection, nothing else.
    let _ = tokio::time::timeout(DRAIN_TIME, error::read_bounded(response, 64 << 10)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Anonymous;

    #[test]
    fn a_request_s_address_is_the_base_s_with_name_path_and_query() {
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
    fn a_mirror_s_address_is_checked() {
        for bad in ["ftp://m.io", "https://ann:pw@m.io", "https://m.io/?a=b"] {
            let url = Url::parse(bad).unwrap();
            let result = Endpoint::mirror(&url, Arc::new(Anonymous), &SessionOptions::default());
            let error = result.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(!error.to_string().contains("pw"), "{error}");
        }
    }
}
