//! Requests tokens from a token server (distribution's "Token Authentication Specification" and "OAuth 2").

use super::challenge::BearerChallenge;
use super::credential::{Credential, CredentialLookup, Secret, refusal};
use super::error;
use super::message::failure;
use super::redirect::{self, check_reach, is_loopback, upgraded};
use super::transport::{Peers, Purpose, Transport};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::rfc3339::parse_rfc3339;
use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, DATE, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use url::{Host, Url};

/// The largest response of a token server, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// A token's lifetime, in seconds, when the response does not name it (as the specification says).
const DEFAULT_LIFETIME: u64 = 60;

/// The longest lifetime that is assumed, in seconds: a token is cheap to renew.
const MAX_LIFETIME: u64 = 24 * 3600;

/// The client ID that token servers get.
const CLIENT_ID: &str = "saver";

/// A token and when to renew it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) secret: Secret,
    renew_at: Instant,
}

impl Token {
    /// Whether the token should be renewed.
    pub(super) fn is_stale(&self) -> bool {
        Instant::now() >= self.renew_at
    }
}

/// A request for a token.
pub(super) struct TokenRequest<'a> {
    pub(super) transport: &'a Transport,
    /// The root of the registry's API: decides which token servers it may name.
    pub(super) base: &'a Url,
    /// The registry, as `docker login` names it.
    pub(super) host: &'a str,
    pub(super) subject: &'a str,
    pub(super) challenge: &'a BearerChallenge,
    pub(super) scopes: &'a [String],
    pub(super) credential: &'a Credential,
    /// How the credential was found.
    pub(super) lookup: CredentialLookup,
}

impl TokenRequest<'_> {
    /// Sends the request, once.
    ///
    /// # Errors
    /// `Unauthorized` when the token server denies access; `Unavailable` when it fails.
    pub(super) async fn send(&self) -> Result<Token> {
        let shows_secret = !matches!(self.credential, Credential::Anonymous);
        let realm = realm_url(self.base, &self.challenge.realm, shows_secret, self.transport.peers()).map_err(|why| {
            failure(ErrorKind::Unauthorized, self.subject, format!("the registry names an untrusted token server: {why}"))
                .with_hint("the registry's operator must configure a token server that uses HTTPS; saver sends no credentials to this one")
        })?;
        let mut response = match self.credential {
            Credential::IdentityToken(token) => self.exchange(self.post(&realm, token)?, &realm).await?,
            _ => self.get(&realm).await?,
        };
        // Servers older than the OAuth 2 extension support only GET.
        if matches!(self.credential, Credential::IdentityToken(_))
            && matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
        {
            response = self.get(&realm).await?;
        }
        self.read(response, &realm).await
    }

    /// Sends a GET and follows redirects. Credentials are sent only to the realm's own origin.
    async fn get(&self, realm: &Url) -> Result<Response> {
        let mut url = self.address(realm);
        let mut seen = vec![url.clone()];
        loop {
            let request = self.request(&url, redirect::same_origin(&url, realm))?;
            let response = self.exchange(request, &url).await?;
            let Some(next) = redirect::next(&response, &url, &seen, self.transport.peers()) else {
                return Ok(response);
            };
            url = next.map_err(|why| {
                let message = format!("no token: {} returned {why}", error::shown_url(&url));
                failure(ErrorKind::Unsupported, self.subject, message)
            })?;
            seen.push(url.clone());
        }
    }

    /// The URL of the GET request.
    fn address(&self, realm: &Url) -> Url {
        let mut url = realm.clone();
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.challenge.service {
            query.append_pair("service", service);
        }
        for scope in self.scopes {
            query.append_pair("scope", scope);
        }
        if let Credential::Basic { username, .. } = self.credential {
            query.append_pair("account", username);
        }
        drop(query);
        url
    }

    fn request(&self, url: &Url, shows_secret: bool) -> Result<RequestBuilder> {
        let request = self.transport.client(Purpose::Api, url)?.get(url.clone());
        Ok(match self.credential {
            Credential::Basic { username, password } if shows_secret => {
                request.header(AUTHORIZATION, basic(username, password)?)
            }
            // Docker's user name for an identity token.
            Credential::IdentityToken(token) if shows_secret => {
                request.header(AUTHORIZATION, basic("<token>", token)?)
            }
            _ => request,
        })
    }

    fn post(&self, realm: &Url, token: &Secret) -> Result<RequestBuilder> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", self.challenge.service.as_deref().unwrap_or_default())
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", &self.scopes.join(" "))
            .append_pair("refresh_token", token.reveal())
            .finish();
        let client = self.transport.client(Purpose::Api, realm)?;
        Ok(client
            .post(realm.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form))
    }

    async fn exchange(&self, request: RequestBuilder, realm: &Url) -> Result<Response> {
        tracing::debug!(url = %error::shown_url(realm), "requesting a token");
        let result = request.send().await.inspect(|response| self.transport.note_peer(response));
        result.map_err(|error| {
            let error = self.transport.transport_error(self.subject, realm, error);
            self.naming(realm, &error)
        })
    }

    /// Names the token server in the error.
    fn naming(&self, realm: &Url, error: &Error) -> Error {
        error.clone().context(format!("no token from {}", error::shown_url(realm)))
    }

    async fn read(&self, response: Response, realm: &Url) -> Result<Token> {
        let status = response.status();
        if !status.is_success() {
            let error = error::from_response(self.subject, Some(self.host), response).await;
            // Some servers answer 400 to an expired refresh token.
            let refused = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
            let kind = if refused { ErrorKind::Unauthorized } else { ErrorKind::Unavailable };
            let kind = if error.kind().is_retryable() { error.kind() } else { kind };
            let error = error.context("no token").with_kind(kind);
            return Err(if refused {
                refusal(&error, self.host, self.credential, &self.lookup)
            } else {
                error
            });
        }
        if error::is_html(response.headers()) {
            return Err(self.naming(realm, &error::web_page(self.subject, realm)));
        }
        let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(|value| httpdate::parse_http_date(value).ok());
        let refuse = |why: &str| {
            let message = format!("{} returned no usable token: {why}", error::shown_url(realm));
            failure(ErrorKind::Unsupported, self.subject, message)
        };
        let body = error::read_bounded(response, MAX_ANSWER)
            .await
            .map_err(|error| self.naming(realm, &error::from_transport(self.subject, realm, error)))?
            .ok_or_else(|| refuse("the response is too long"))?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
            // It was probably truncated: a retry may help.
            refuse("the response is not valid JSON").with_kind(ErrorKind::Unavailable)
        })?;
        let lifetime = lifetime(answer.expires_in.as_ref(), answer.issued_at.as_deref(), date);
        let secret =
            [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let secret = secret.ok_or_else(|| refuse("the response has neither token nor access_token"))?;
        Ok(Token { secret: Secret::new(secret), renew_at: Instant::now() + lifetime.mul_f64(0.8) })
    }
}

/// A token server's response: `token` is Docker's name, `access_token` that of OAuth 2.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
    #[serde(default)]
    issued_at: Option<String>,
}

/// The URL of the token server that the registry at `base` names, if it may be used.
///
/// Any HTTPS host is accepted, as in Docker and containerd: registries and their token servers often have different names. A
/// registry learns nothing by naming another server for its own credentials; it must not have them sent in plain text, or to
/// addresses inside our network.
///
/// # Errors
/// Why it is refused.
fn realm_url(base: &Url, realm: &str, shows_secret: bool, peers: &Peers) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|error| format!("its URL is invalid: {error}"))?;
    let url = upgraded(base, url);
    let shown = error::shown_url(&url);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("its URL has the scheme {:?}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{shown} has a user in its URL"));
    }
    if url.scheme() == "http" {
        if base.scheme() == "https" {
            return Err(format!("{shown} is plain HTTP though the registry is reached over HTTPS"));
        }
        let same_address = match url.host() {
            Some(Host::Ipv4(address)) => peers.address(base) == Some(address.into()),
            Some(Host::Ipv6(address)) => peers.address(base) == Some(address.into()),
            _ => false,
        };
        let same_machine =
            url.host() == base.host() || same_address || (is_loopback(&url) && is_loopback(base));
        if shows_secret && !same_machine {
            return Err(format!("{shown} is plain HTTP on another host than the registry"));
        }
    }
    check_reach(base, &url, peers).map_err(|why| format!("it leads {why}"))?;
    Ok(url)
}

/// The remaining lifetime of a token. The server's clock is compared only with itself (`issued_at` with the Date header),
/// because ours may be wrong.
fn lifetime(
    expires_in: Option<&serde_json::Value>,
    issued_at: Option<&str>,
    date: Option<SystemTime>,
) -> Duration {
    let said = expires_in.and_then(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok()));
    let said = said.filter(|seconds| *seconds >= 1.0).map_or(DEFAULT_LIFETIME, |seconds| seconds as u64);
    let whole = Duration::from_secs(said.min(MAX_LIFETIME));
    let age = match (issued_at.and_then(parse_rfc3339), date) {
        (Some(issued), Some(date)) => date.duration_since(issued).unwrap_or_default(),
        _ => Duration::ZERO,
    };
    // An age beyond the lifetime is a server's mistake: a new token is valid for some time.
    if age < whole { whole - age } else { whole }
}

/// `Basic ...` (RFC 7617), marked as sensitive.
pub(super) fn basic(username: &str, password: &Secret) -> Result<HeaderValue> {
    let joined = format!("{username}:{}", password.reveal());
    let encoded = base64::engine::general_purpose::STANDARD.encode(joined);
    sensitive(&format!("Basic {encoded}"))
}

/// `Bearer ...` (RFC 6750), marked as sensitive.
pub(super) fn bearer(token: &Secret) -> Result<HeaderValue> {
    sensitive(&format!("Bearer {}", token.reveal()))
}

fn sensitive(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        failure(ErrorKind::Unsupported, "token", "it contains characters that are not allowed in a header")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realm_is_trusted_or_refused() {
        for (base, realm, secret, why) in [
            ("https://registry-1.docker.io/v2", "https://auth.docker.io/token", true, None),
            ("https://r.io/v2", "https://r.io:8443/auth?x=y", true, None),
            ("http://127.0.0.1:5000/v2", "http://127.0.0.1:5001/token", true, None),
            ("http://localhost:5000/v2", "http://127.0.0.1:5001/token", true, None),
            ("http://r.lan/v2", "http://r.lan:5001/token", true, None),
            ("http://r.lan/v2", "http://auth.lan/token", false, None),
            ("http://10.0.0.1/v2", "https://10.0.0.2/token", true, None),
            ("http://r.lan/v2", "http://auth.lan/token", true, Some("another host")),
            ("https://r.io/v2", "http://r.io/token", true, None),
            ("https://r.io:5000/v2", "http://r.io:5000/token", true, None),
            ("https://r.io/v2", "http://auth.io/token", true, Some("plain HTTP though")),
            ("https://r.io/v2", "http://r.io:8080/token", false, Some("plain HTTP though")),
            ("https://r.io/v2", "https://127.0.0.1/token", false, Some("private")),
            ("https://r.io/v2", "https://169.254.169.254/token", true, Some("private")),
            ("https://r.io/v2", "https://ann:pw@auth.io/token", true, Some("user")),
            ("https://r.io/v2", "ftp://auth.io/", true, Some("scheme")),
            ("https://r.io/v2", "/token", true, Some("invalid")),
        ] {
            let result = realm_url(&Url::parse(base).unwrap(), realm, secret, &Peers::default());
            match (result, why) {
                (Ok(_), None) => {}
                (Err(said), Some(why)) => {
                    assert!(said.contains(why) && !said.contains("pw"), "{realm}: {said}")
                }
                (result, _) => panic!("{base} {realm}: {result:?}"),
            }
        }
    }

    #[test]
    fn realm_at_the_address_connected_to_is_the_same_machine() {
        let base = Url::parse("http://r.corp/v2").unwrap();
        let peers = Peers::default();
        assert!(realm_url(&base, "http://10.0.0.1/token", true, &peers).is_err());
        peers.insert(&base, "10.0.0.1".parse().unwrap());
        assert!(realm_url(&base, "http://10.0.0.1/token", true, &peers).is_ok());
        assert!(
            realm_url(&base, "http://10.0.0.2/token", true, &peers).is_err(),
            "another machine, in plain HTTP"
        );
        assert!(realm_url(&base, "https://10.0.0.2/token", true, &peers).is_ok());
    }

    #[test]
    fn lifetime_is_given_assumed_or_shortened_by_age() {
        let date = httpdate::parse_http_date("Tue, 10 Nov 2009 23:02:00 GMT").unwrap();
        for (expires_in, issued_at, seconds) in [
            ("300", None, 300),
            ("\"300\"", None, 300),
            ("0", None, 60),
            ("-5", None, 60),
            ("null", None, 60),
            ("1e99", None, MAX_LIFETIME),
            ("300", Some("2009-11-10T23:01:00Z"), 240),
            ("300", Some("2009-11-10T23:01:00.123456Z"), 240),
            ("300", Some("2009-11-11T01:01:00+02:00"), 240),
            ("300", Some("2009-11-10T23:59:00Z"), 300),
            ("300", Some("2008-11-10T23:59:00Z"), 300),
            ("300", Some("yesterday"), 300),
        ] {
            let value: serde_json::Value = serde_json::from_str(expires_in).unwrap();
            assert_eq!(
                lifetime(Some(&value), issued_at, Some(date)).as_secs(),
                seconds,
                "{expires_in} {issued_at:?}"
            );
        }
        assert_eq!(lifetime(None, None, None).as_secs(), 60);
    }

    #[test]
    fn token_is_stale_from_its_renewal_time() {
        let token = |renew_at| Token { secret: Secret::new("t"), renew_at };
        assert!(token(Instant::now()).is_stale());
        assert!(!token(Instant::now() + Duration::from_secs(60)).is_stale());
    }

    #[test]
    fn secrets_in_headers_are_not_printed() {
        let value = basic("ann", &Secret::new("hunter2")).unwrap();
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(bearer(&Secret::new("a\nb")).is_err());
    }
}
