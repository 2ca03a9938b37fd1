//! How the endpoint is reached, and a server that expects HTTPS where plain HTTP was sent.

use super::Endpoint;
use crate::error::{Detail, Error, ErrorKind, Phase, Result};
use crate::registry::error::{place, without_response};
use crate::registry::probe::{PortProtocol, probe};
use crate::registry::transport::Peers;
use reqwest::{Response, StatusCode};
use url::Url;

impl Endpoint {
    /// The addresses that connections went to.
    pub(in crate::registry) fn peers(&self) -> &Peers {
        self.transport.peers()
    }

    /// Whether requests use plain HTTP.
    pub(in crate::registry) async fn uses_plain_http(&self, subject: &str) -> Result<bool> {
        Ok(self.base(subject).await?.scheme() == "http")
    }

    /// The result of a request to the endpoint's own `url`, or an error that names the scheme if the server expects HTTPS.
    ///
    /// Servers respond to plain HTTP at a TLS port with a TLS alert, with a 400, or by closing the connection. Only their answer
    /// to a ClientHello is certain.
    pub(super) async fn check_scheme(
        &self,
        subject: &str,
        url: &Url,
        result: Result<Response>,
    ) -> Result<Response> {
        let is_suspicious = url.scheme() == "http"
            && match &result {
                Ok(response) => response.status() == StatusCode::BAD_REQUEST,
                Err(error) => {
                    matches!(error.detail(), Some(Detail::Http { phase: Phase::Headers, status: None, .. }))
                }
            };
        if is_suspicious && self.expects_tls(url).await {
            Err(self.wrong_scheme(subject, url))
        } else {
            result
        }
    }

    /// Whether the server speaks TLS. Asked once; asked again if there was no answer.
    async fn expects_tls(&self, url: &Url) -> bool {
        if self.transport.proxy_for(url).is_some() {
            return false;
        }
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(80);
        let detect = || async {
            match probe(host, port, self.options.connect_timeout).await {
                Ok(PortProtocol::Tls) => Ok(true),
                Ok(PortProtocol::PlainHttp) => Ok(false),
                Ok(PortProtocol::Closed) | Err(_) => Err(()),
            }
        };
        self.speaks_tls.get_or_try_init(detect).await.copied().unwrap_or(false)
    }

    fn wrong_scheme(&self, subject: &str, url: &Url) -> Error {
        let place = place(url);
        let summary = format!("{place} speaks HTTPS at this port, not plain HTTP");
        let error = without_response(ErrorKind::Unsupported, subject, url, Phase::Headers, summary);
        if self.is_mirror {
            error.with_hint("use https:// in the URL of the mirror")
        } else {
            error.with_hint(format!("remove --plain-http {}", self.registry))
        }
    }
}
