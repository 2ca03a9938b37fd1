//! How a session reaches its registry.

use super::ProxySettings;
use std::fmt;
use std::time::Duration;
use url::Url;

/// How a session reaches its registry. The default is what a public registry needs.
#[derive(Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Ask this registry in plain HTTP. Loopback registries need no such permission.
    pub plain_http: bool,
    /// Do not verify this registry's certificate. Redirect targets, token servers on other hosts and mirrors are verified still.
    pub insecure_tls: bool,
    /// Certificate authorities to trust beside the system's: PEM, each with one or more certificates.
    pub ca_certificates: Vec<Vec<u8>>,
    /// The certificate and key to show this registry: PEM, both in one. Never shown to other hosts.
    pub client_identity: Option<Vec<u8>>,
    /// Mirrors, tried in order before the registry itself.
    ///
    /// A path names a prefix of the repositories (`https://m.io/hub` has `library/nginx` at
    /// `/v2/hub/library/nginx`), except that one with a part `v2` is taken as it is.
    pub mirrors: Vec<Url>,
    /// The proxies to go through.
    pub proxy: ProxySettings,
    /// How long a connection may bring nothing before it is given up.
    pub idle_timeout: Duration,
    /// How long a request for a manifest, tag or token may take in all: an answer that comes byte by byte is never silent.
    /// Blobs may take as long as they bring bytes.
    pub request_timeout: Duration,
    /// How long connecting, TLS included, may take.
    pub connect_timeout: Duration,
    /// The most requests for blobs in flight at once. The session starts lower and finds its way.
    pub max_connections: usize,
    /// The most other requests in flight at once, found likewise. Their answers are short, but far away each takes a round trip, however
    /// little it brings.
    pub max_requests: usize,
    /// The longest Retry-After that requests wait for; beyond it they fail at once.
    pub max_retry_after: Duration,
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
