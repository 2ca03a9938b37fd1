//! How a session reaches its registry.

use super::ProxySettings;
use super::rate_limit::RateLimit;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How a session reaches its registry. The default suits public registries.
#[derive(Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Use plain HTTP for this registry. Loopback registries need no permission.
    pub plain_http: bool,
    /// Do not verify this registry's certificate. Redirect targets, token servers on other hosts and mirrors are still verified.
    pub insecure_tls: bool,
    /// Certificate authorities to trust in addition to the system's: PEM, each with one or more certificates.
    pub ca_certificates: Vec<Vec<u8>>,
    /// The client certificate and key for this registry: PEM, both in one. Never sent to other hosts.
    pub client_identity: Option<Vec<u8>>,
    /// Mirrors, tried in order before the registry itself.
    ///
    /// A path is a prefix of the repositories (`https://m.io/hub` has `library/nginx` at `/v2/hub/library/nginx`), except
    /// that a path with a segment `v2` is used as it is.
    pub mirrors: Vec<Url>,
    /// The proxies for outgoing connections.
    pub proxy: ProxySettings,
    /// How long a connection may be idle before the request fails.
    pub idle_timeout: Duration,
    /// The total time for a request for a manifest, tag or token. Blobs have no total limit.
    pub request_timeout: Duration,
    /// The time to connect, including TLS.
    pub connect_timeout: Duration,
    /// The maximum of concurrent blob requests. The session starts lower and adapts.
    pub max_connections: usize,
    /// The maximum of other concurrent requests, adapted likewise. Their responses are short; what counts is the round trip.
    pub max_requests: usize,
    /// The longest Retry-After that requests wait for; with a longer one they fail at once.
    pub max_retry_after: Duration,
    /// Upload blobs in requests (PATCH) of at most so many bytes. `None`: one request a blob, and smaller ones only after the
    /// registry or a proxy in front of it has refused a request as too large (413).
    pub upload_chunk_size: Option<u64>,
    /// Limits the throughput of blobs, in both directions together. Sessions that share it share the rate.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// The User-Agent header.
    pub user_agent: String,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            insecure_tls: false,
            ca_certificates: Vec::new(),
            client_identity: None,
            mirrors: Vec::new(),
            proxy: ProxySettings::default(),
            idle_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(180),
            connect_timeout: Duration::from_secs(15),
            max_connections: 16,
            max_requests: 48,
            max_retry_after: Duration::from_secs(600),
            upload_chunk_size: None,
            rate_limit: None,
            user_agent: concat!("saver/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("plain_http", &self.plain_http)
            .field("insecure_tls", &self.insecure_tls)
            .field("ca_certificates", &self.ca_certificates.len())
            .field("client_identity", &self.client_identity.is_some())
            .field("mirrors", &self.mirrors.iter().map(super::error::shown_url).collect::<Vec<_>>())
            .field("proxy", &self.proxy)
            .field("idle_timeout", &self.idle_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_connections", &self.max_connections)
            .field("max_requests", &self.max_requests)
            .finish_non_exhaustive()
    }
}
