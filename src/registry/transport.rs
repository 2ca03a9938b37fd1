//! The HTTP clients of one endpoint.
//!
//! Blobs use HTTP/1.1, one connection a stream: that takes half the CPU time of HTTP/2 and gives each stream its own
//! congestion window. Other requests may share an HTTP/2 connection. No client follows redirects or decodes content by
//! itself. Clients are built when first needed, because the system's certificates are loaded only for TLS.

use super::certificate;
use super::error;
use super::message::{failure, quotable};
use super::options::SessionOptions;
use super::resolver::SystemResolver;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::{Mutex, MutexGuard};
use reqwest::{Certificate, Client, Identity, Proxy, Response};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Manifests, tags, tokens.
    Api,
    /// Downloading a blob.
    Blob,
    /// Uploading a blob. The caller enforces the timeout, because the response comes only after the whole body was sent.
    Upload,
}

/// How far a host is trusted: decides the TLS settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Plain HTTP: no TLS at all.
    Plain,
    /// The endpoint itself: gets the client certificate, and is not verified if the user said so.
    Own,
    /// Any other host: verified.
    Other,
}

/// The addresses that connections to hosts went to.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<HashMap<String, IpAddr>>);

/// The most hosts whose addresses are remembered.
const MAX_PEERS: usize = 1024;

impl Peers {
    /// The address of `url`'s host, if there was a direct connection to it.
    pub(super) fn address(&self, url: &Url) -> Option<IpAddr> {
        self.known().get(url.host_str()?).copied()
    }

    /// Remembers that `url`'s host has this address.
    pub(super) fn insert(&self, url: &Url, address: IpAddr) {
        let Some(host) = url.host_str() else { return };
        let mut known = self.known();
        if known.get(host) != Some(&address) {
            if known.len() >= MAX_PEERS {
                known.clear();
            }
            known.insert(host.to_owned(), address);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, IpAddr>> {
        self.0.lock()
    }
}

/// The HTTP clients of one endpoint.
pub(super) struct Transport {
    options: Arc<SessionOptions>,
    /// The endpoint's own host name.
    host: String,
    clients: Mutex<Vec<((Purpose, Peer), Client)>>,
    peers: Peers,
}

impl Transport {
    pub(super) fn new(options: Arc<SessionOptions>, host: &str) -> Self {
        Self { options, host: host.to_owned(), clients: Mutex::default(), peers: Peers::default() }
    }

    /// The addresses that connections went to.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Remembers where the connection that brought `response` went, unless a proxy made it.
    pub(super) fn note_peer(&self, response: &Response) {
        let Some(address) = response.remote_addr() else { return };
        let direct = self.options.proxy.proxy_for(response.url()).is_none();
        if direct {
            self.peers.insert(response.url(), address.ip());
        }
    }

    /// The client for requests to `url`.
    ///
    /// # Errors
    /// `InvalidInput` for certificates or proxies that can't be read.
    pub(super) fn client(&self, purpose: Purpose, url: &Url) -> Result<Client> {
        let key = (purpose, self.peer(url));
        let mut clients = self.clients.lock();
        if let Some((_, client)) = clients.iter().find(|(known, _)| *known == key) {
            return Ok(client.clone());
        }
        let client = self.build(purpose, key.1)?;
        clients.push((key, client.clone()));
        Ok(client)
    }

    fn peer(&self, url: &Url) -> Peer {
        let special = self.options.insecure_tls || self.options.client_identity.is_some();
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if url.scheme() == "http" {
            Peer::Plain
        } else if special && host.eq_ignore_ascii_case(&self.host) {
            Peer::Own
        } else {
            Peer::Other
        }
    }

    fn build(&self, purpose: Purpose, peer: Peer) -> Result<Client> {
        let options = &self.options;
        let mut builder = Client::builder()
            .user_agent(options.user_agent.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.max_connections.max(options.max_requests).max(1))
            .pool_idle_timeout(Duration::from_secs(60))
            .http2_max_header_list_size(64 << 10)
            // A connection that died quietly would otherwise be used again for every retry.
            .http2_keep_alive_interval(Duration::from_secs(15))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .dns_resolver(SystemResolver)
            .no_proxy();
        let proxies = options.proxy.clone();
        builder = builder.proxy(Proxy::custom(move |url| proxies.proxy_for(url).cloned()));
        builder = match purpose {
            Purpose::Blob => builder.http1_only().read_timeout(options.idle_timeout),
            Purpose::Upload => builder.http1_only(),
            Purpose::Api => builder.read_timeout(options.idle_timeout).timeout(options.request_timeout),
        };
        let unverified = peer == Peer::Own && options.insecure_tls;
        builder = match peer {
            // No certificate is verified, except a proxy's: none need be loaded.
            Peer::Plain if !self.proxy_has_tls() => builder.tls_certs_only([]),
            _ if !options.ca_certificates.is_empty() && !unverified => {
                return self.finish(builder.tls_backend_preconfigured(self.named(purpose, peer)?));
            }
            _ => builder.tls_certs_merge(self.certificates()?),
        };
        if peer == Peer::Own {
            builder = builder.tls_danger_accept_invalid_certs(options.insecure_tls);
            if let Some(identity) = self.identity()? {
                builder = builder.identity(identity);
            }
        }
        self.finish(builder)
    }

    fn finish(&self, builder: reqwest::ClientBuilder) -> Result<Client> {
        builder.build().map_err(|error| {
            failure(ErrorKind::InvalidInput, &self.host, format!("cannot set up the connection: {}", deepest(&error)))
                .with_hint("check --ca-file and --cert-dir; where the system has no CA certificates, install ca-certificates")
        })
    }

    /// The TLS settings where certificates were named.
    fn named(&self, purpose: Purpose, peer: Peer) -> Result<rustls::ClientConfig> {
        let named = &self.options.ca_certificates;
        // Read as the other clients read them, for the same words about what can't be read.
        self.certificates()?;
        self.identity()?;
        let identity = self.options.client_identity.as_deref().filter(|_| peer == Peer::Own);
        let mut config = certificate::client_config(named, identity).map_err(|error| {
            let why = quotable(&error.to_string());
            failure(ErrorKind::InvalidInput, &self.host, format!("cannot use the certificates given: {why}"))
                .with_hint("check --ca-file and --cert-dir")
        })?;
        config.alpn_protocols = match purpose {
            Purpose::Blob | Purpose::Upload => vec!["http/1.1".into()],
            Purpose::Api => vec!["h2".into(), "http/1.1".into()],
        };
        Ok(config)
    }

    /// The error of a request to `url` that got no response.
    pub(super) fn transport_error(&self, subject: &str, url: &Url, error: reqwest::Error) -> Error {
        match self.proxy_for(url).filter(|_| error.is_connect()) {
            Some(proxy) => error::from_proxy(subject, url, &proxy, error),
            None => error::from_transport(subject, url, error),
        }
    }

    /// `HOST:PORT` of the proxy for `url`.
    pub(super) fn proxy_for(&self, url: &Url) -> Option<String> {
        let proxy = self.options.proxy.proxy_for(url)?;
        let host = proxy.host_str()?;
        Some(match proxy.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        })
    }

    fn proxy_has_tls(&self) -> bool {
        self.options.proxy.http.as_ref().is_some_and(|proxy| proxy.as_url().scheme() == "https")
    }

    fn certificates(&self) -> Result<Vec<Certificate>> {
        let mut certificates = Vec::new();
        for pem in &self.options.ca_certificates {
            let found =
                Certificate::from_pem_bundle(pem).map_err(|error| self.refuse("a CA file", &error))?;
            if found.is_empty() {
                return Err(failure(
                    ErrorKind::InvalidInput,
                    &self.host,
                    "a CA file has no certificate in it",
                ));
            }
            certificates.extend(found);
        }
        Ok(certificates)
    }

    fn identity(&self) -> Result<Option<Identity>> {
        let pem = self.options.client_identity.as_deref();
        pem.map(Identity::from_pem).transpose().map_err(|error| self.refuse("the client certificate", &error))
    }

    fn refuse(&self, what: &str, error: &reqwest::Error) -> Error {
        failure(
            ErrorKind::InvalidInput,
            &self.host,
            format!("{what} can't be read as PEM: {}", deepest(error)),
        )
    }
}

fn deepest(error: &reqwest::Error) -> String {
    let mut current: &dyn std::error::Error = error;
    while let Some(cause) = current.source() {
        current = cause;
    }
    quotable(&current.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_one_host_apply_to_that_host_only() {
        let options = SessionOptions { insecure_tls: true, ..SessionOptions::default() };
        let transport = Transport::new(Arc::new(options), "r.io");
        let peer = |url: &str| transport.peer(&Url::parse(url).unwrap());
        assert_eq!(peer("https://r.io:5000/v2/"), Peer::Own);
        assert_eq!(peer("https://auth.r.io/token"), Peer::Other);
        assert_eq!(peer("http://r.io/v2/"), Peer::Plain);
        let strict = Transport::new(Arc::default(), "r.io");
        assert_eq!(strict.peer(&Url::parse("https://r.io/").unwrap()), Peer::Other);
    }

    #[test]
    fn unreadable_certificates_are_rejected() {
        let url = Url::parse("https://r.io/").unwrap();
        for options in [
            SessionOptions { ca_certificates: vec![b"nothing".to_vec()], ..SessionOptions::default() },
            SessionOptions { client_identity: Some(b"nothing".to_vec()), ..SessionOptions::default() },
        ] {
            let error = Transport::new(Arc::new(options), "r.io").client(Purpose::Api, &url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
