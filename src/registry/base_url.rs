//! The root URL of an endpoint's API (up to and including `/v2`), and whether it uses TLS.

use super::error::without_response;
use super::message::failure;
use super::options::SessionOptions;
use super::probe::{PortProtocol, probe};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::oci::Registry;
use std::time::Duration;
use tokio::sync::OnceCell;
use url::Url;

/// The host of Docker Hub's API.
pub(super) const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// How many probes a server gets that closes the connection after a ClientHello: one closed connection proves nothing.
const PROBES: usize = 3;

/// The root URL of an endpoint's API.
pub(super) enum Base {
    /// The URL up to and including `/v2`.
    Known(Url),
    /// A loopback registry: HTTPS, or plain HTTP if it does not speak TLS.
    Loopback(Box<Loopback>),
}

/// A registry on this machine, which is probed for TLS.
pub(super) struct Loopback {
    registry: Registry,
    /// The timeout of a probe.
    timeout: Duration,
    https: Url,
    http: Url,
    found: OnceCell<Url>,
}

enum Undecided {
    /// Plain HTTP for this request only.
    Plain,
    Failed(Error),
}

impl Base {
    /// The root of the registry itself.
    ///
    /// # Errors
    /// `InvalidInput` for a registry whose name is no valid host.
    pub(super) fn origin(registry: &Registry, options: &SessionOptions) -> Result<Self> {
        let name = if registry.is_docker_hub() { DOCKER_HUB_HOST } else { registry.as_str() };
        let address = |scheme: &str| {
            Url::parse(&format!("{scheme}://{name}/v2")).map_err(|error| {
                failure(ErrorKind::InvalidInput, registry, format!("not a valid host: {error}"))
            })
        };
        Ok(if options.plain_http {
            Self::Known(address("http")?)
        } else if registry.is_loopback() {
            Self::loopback(registry, options, address("https")?, address("http")?)
        } else {
            Self::Known(address("https")?)
        })
    }

    /// The root of a mirror at `url`, whose host is `registry`; and the prefix of its repositories, with its slash.
    pub(super) fn mirror(url: &Url, registry: &Registry, options: &SessionOptions) -> (Self, String) {
        let (root, prefix) = split_mirror_path(url.path());
        let mut base = url.clone();
        base.set_path(&root);
        base.set_fragment(None);
        let base = match secured(&base).filter(|_| registry.is_loopback()) {
            Some(https) => Self::loopback(registry, options, https, base),
            None => Self::Known(base),
        };
        (base, prefix)
    }

    fn loopback(registry: &Registry, options: &SessionOptions, https: Url, http: Url) -> Self {
        let (registry, timeout) = (registry.clone(), options.connect_timeout);
        Self::Loopback(Box::new(Loopback { registry, timeout, https, http, found: OnceCell::new() }))
    }

    /// The root URL. Probes a loopback registry at the first call.
    ///
    /// # Errors
    /// `ConnectionRefused` or `Unavailable` when the probe fails; `subject` is the subject of the error.
    pub(super) async fn url(&self, subject: &str) -> Result<Url> {
        let loopback = match self {
            Self::Known(url) => return Ok(url.clone()),
            Self::Loopback(loopback) => loopback,
        };
        match loopback.found.get_or_try_init(|| loopback.detect(subject)).await {
            Ok(url) => Ok(url.clone()),
            Err(Undecided::Plain) => Ok(loopback.http.clone()),
            Err(Undecided::Failed(error)) => Err(error),
        }
    }
}

impl Loopback {
    async fn detect(&self, subject: &str) -> Result<Url, Undecided> {
        let Self { registry, https, http, .. } = self;
        let port = https.port_or_known_default().unwrap_or(443);
        let ask = || probe(registry.host(), port, self.timeout);
        let mut answer = ask().await;
        for _ in 1..PROBES {
            if !matches!(answer, Ok(PortProtocol::Closed)) {
                break;
            }
            answer = ask().await;
        }
        match answer {
            Ok(PortProtocol::Tls) => Ok(https.clone()),
            Ok(PortProtocol::PlainHttp) => Ok(http.clone()),
            Ok(PortProtocol::Closed) => Err(Undecided::Plain),
            // Without a port in the name, a closed port 443 means plain HTTP at port 80.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && https.port().is_none() => {
                Err(Undecided::Plain)
            }
            Err(error) => {
                let kind = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => ErrorKind::ConnectionRefused,
                    _ => ErrorKind::Unavailable,
                };
                let summary = format!("cannot connect to {registry}: {error}");
                let error =
                    without_response(kind, subject, https, Phase::Connect, summary).with_source(error);
                Err(Undecided::Failed(
                    error.with_hint("check that the registry is running and uses this port"),
                ))
            }
        }
    }
}

/// A plain HTTP URL with the scheme `https`.
fn secured(url: &Url) -> Option<Url> {
    let mut https = url.clone();
    (url.scheme() == "http" && https.set_scheme("https").is_ok()).then_some(https)
}

/// Splits a mirror's path into the root of the API and the prefix of repository names.
fn split_mirror_path(path: &str) -> (String, String) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (root, prefix) = match parts.iter().position(|part| *part == "v2") {
        Some(at) => (format!("/{}", parts[..=at].join("/")), &parts[at + 1..]),
        None => ("/v2".to_owned(), &parts[..]),
    };
    let prefix = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.join("/")) };
    (root, prefix)
}

/// The root of the API that `url` belongs to: everything up to and including `/v2`. `None` for a URL of something else.
pub(super) fn api_root(url: &Url) -> Option<Url> {
    let (before, _) = url.path().split_once("/v2/")?;
    let mut root = url.clone();
    root.set_path(&format!("{before}/v2"));
    root.set_query(None);
    Some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_uses_https_unless_plain_http_is_allowed() {
        let plain = SessionOptions { plain_http: true, ..SessionOptions::default() };
        for (name, options, expect) in [
            ("docker.io", SessionOptions::default(), "https://registry-1.docker.io/v2"),
            ("quay.io", SessionOptions::default(), "https://quay.io/v2"),
            ("r.lan:5000", plain.clone(), "http://r.lan:5000/v2"),
            ("[2001:db8::1]:5000", SessionOptions::default(), "https://[2001:db8::1]:5000/v2"),
            ("10.0.0.1:5000", SessionOptions::default(), "https://10.0.0.1:5000/v2"),
            ("127.0.0.1:5000", SessionOptions::default(), "detect"),
            ("localhost:5000", plain, "http://localhost:5000/v2"),
        ] {
            let known = match Base::origin(&name.parse().unwrap(), &options).unwrap() {
                Base::Known(url) => url.to_string(),
                Base::Loopback(_) => "detect".into(),
            };
            assert_eq!(known, expect, "{name}");
        }
    }

    #[tokio::test]
    async fn closed_connection_does_not_imply_plain_http() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry: Registry = listener.local_addr().unwrap().to_string().parse().unwrap();
        let base = Base::origin(&registry, &SessionOptions::default()).unwrap();
        let server = async {
            drop(listener.accept().await.unwrap());
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
            stream.write_all(&[21]).await.unwrap();
            stream
        };
        let (url, _stream) = tokio::join!(base.url("x"), server);
        assert_eq!(url.unwrap().scheme(), "https");
    }

    #[test]
    fn mirror_path_is_a_prefix_or_the_api_root() {
        for (path, root, prefix) in [
            ("", "/v2", ""),
            ("/", "/v2", ""),
            ("/hub", "/v2", "hub/"),
            ("/a/b/", "/v2", "a/b/"),
            ("/v2/hub", "/v2", "hub/"),
            ("/x/v2/", "/x/v2", ""),
        ] {
            assert_eq!(split_mirror_path(path), (root.to_owned(), prefix.to_owned()), "{path}");
        }
    }
}
