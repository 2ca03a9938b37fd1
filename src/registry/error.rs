//! Turns failed requests and error responses into [`Error`]s.

use super::message::{failure, quotable};
use super::resolver::is_unknown_host;
use super::retry_after::retry_after;
use super::tls_error::tls_failure;
use crate::error::{Detail, Error, ErrorKind, Phase, RegistryError, Side};
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use std::error::Error as StdError;
use std::time::{Duration, SystemTime};
use url::Url;

/// The most bytes of an error response's body that are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// How long to wait for that body.
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);

/// How many errors of one response are kept.
const MAX_ERRORS: usize = 3;

/// `url` without user, password, query and fragment, which may hold secrets (signed URLs).
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    // These fail only for URLs without a host, which have neither.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// The host of `url`, with its port if it has one.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Reads a body into memory, up to `max` bytes; `None` when there is more.
pub(super) async fn read_bounded(
    mut response: Response,
    max: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The error that a response with an error status means. Reads the body for the server's own words.
///
/// `login` is the registry as `docker login` names it; `None` when another host answered, to which no credentials are sent.
pub(super) async fn from_response(subject: &str, login: Option<&str>, response: Response) -> Error {
    let status = response.status();
    let url = response.url().clone();
    let wait = retry_after(response.headers(), SystemTime::now());
    let is_html = is_html(response.headers());
    let body = match tokio::time::timeout(ERROR_BODY_TIME, read_bounded(response, MAX_ERROR_BODY)).await {
        Ok(Ok(Some(body))) if !is_html => body,
        _ => Vec::new(),
    };
    let errors = body_errors(&body);
    let web_page = is_html || (errors.is_empty() && looks_like_html(&body));
    let detail = Detail::Http {
        url: shown_url(&url),
        phase: Phase::Headers,
        status: Some(status.as_u16()),
        errors,
        web_page,
    };
    let error = Error::from_detail(kind_of(status), subject, detail).on(Side::Source);
    let error = match wait.filter(|_| matches!(status.as_u16(), 429 | 503)) {
        Some(wait) => {
            error.context(format!("the server asks to wait {}", duration_text(wait))).with_retry_after(wait)
        }
        None => error,
    };
    match (status.as_u16(), login) {
        (407, _) => {
            error.with_hint("the proxy requires a user and password: set them in HTTPS_PROXY (http://USER:PASSWORD@HOST:PORT)")
        }
        (401 | 403, Some(login)) => {
            error.with_hint(format!("check the name and your read permission: docker login {login}"))
        }
        (401 | 403, None) => {
            let host = url.host_str().unwrap_or_default();
            error.with_hint(format!(
                "the registry redirected to {host}, which denied access: a firewall or proxy may block that host"
            ))
        }
        (404, Some(_)) if url.path().contains("/blobs/") => error.with_hint(
            "the registry lacks this blob, which a manifest names: push the image to it again, or report this to its operator",
        ),
        (404, Some(_)) => error
            .with_hint("check the name and tag; some registries return 404 for what you have no permission to read"),
        (429, Some(login)) => error.with_hint(format!(
            "the registry limits requests: log in (docker login {login}), use --mirror, or try again later"
        )),
        _ => error,
    }
}

/// A duration in the largest unit that is precise enough.
fn duration_text(wait: Duration) -> String {
    match wait.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 if seconds % 3600 != 0 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 | 403 | 407 => ErrorKind::Unauthorized,
        404 | 410 => ErrorKind::NotFound,
        429 => ErrorKind::RateLimited,
        // 408 and 425 invite a retry by definition.
        408 | 425 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Unsupported,
    }
}

/// The errors in a response's body: the `errors` list of the distribution specification ("Error Codes"), a single JSON
/// object, the XML of object storage (`<Code>` and `<Message>`), or plain text.
fn body_errors(body: &[u8]) -> Vec<RegistryError> {
    let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
    let errors: Vec<RegistryError> = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(document) => match document.get("errors").and_then(|errors| errors.as_array()) {
            Some(errors) => errors.iter().map(json_error).collect(),
            None => vec![json_error(&document)],
        },
        Err(_) if looks_like_html(body) => vec![xml_error(text)],
        Err(_) => vec![RegistryError { code: String::new(), message: quotable(text) }],
    };
    let is_useful = |error: &RegistryError| !error.code.is_empty() || !error.message.is_empty();
    errors.into_iter().filter(is_useful).take(MAX_ERRORS).collect()
}

fn json_error(value: &serde_json::Value) -> RegistryError {
    let part = |key: &str| {
        value.get(key).and_then(|word| word.as_str()).map(quotable).filter(|word| !word.is_empty())
    };
    RegistryError {
        code: part("code").unwrap_or_default(),
        message: part("message").or_else(|| part("details")).or_else(|| part("error")).unwrap_or_default(),
    }
}

/// The error document of S3, Google Cloud Storage and Azure Blob Storage.
fn xml_error(text: &str) -> RegistryError {
    let element = |name: &str| {
        let after = text.split_once(&format!("<{name}>"))?.1;
        let content = after.split_once(&format!("</{name}>"))?.0;
        let content = content.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        Some(quotable(&content.replace("&apos;", "'").replace("&amp;", "&")))
    };
    RegistryError {
        code: element("Code").unwrap_or_default(),
        message: element("Message").unwrap_or_default(),
    }
}

/// Whether headers announce a web page. Captive portals and login pages serve those, registries do not.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let content_type = headers.get(reqwest::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| {
        matches!(crate::oci::media_type::essence(value).as_str(), "text/html" | "application/xhtml+xml")
    })
}

/// Whether a body is HTML or XML whatever its type: JSON never starts with `<`.
pub(super) fn looks_like_html(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}

/// The error of a response that is a web page, whatever its status.
pub(super) fn web_page(subject: &str, url: &Url) -> Error {
    let detail = Detail::Http {
        url: shown_url(url),
        phase: Phase::Body,
        status: None,
        errors: Vec::new(),
        web_page: true,
    };
    Error::from_detail(ErrorKind::Unsupported, subject, detail).on(Side::Source).with_hint(
        "a login page or proxy may have intercepted the request: check the address, HTTPS_PROXY and NO_PROXY",
    )
}

/// The error of an HTTP exchange with `url` that failed without a response.
pub(super) fn without_response(
    kind: ErrorKind,
    subject: &str,
    url: &Url,
    phase: Phase,
    summary: impl Into<String>,
) -> Error {
    let detail =
        Detail::Http { url: shown_url(url), phase, status: None, errors: Vec::new(), web_page: false };
    failure(kind, subject, summary).with_detail(detail)
}

/// The error that a failed exchange means.
pub(super) fn from_transport(subject: &str, url: &Url, error: reqwest::Error) -> Error {
    let host = url.host_str().unwrap_or_default().to_owned();
    let place = place(url);
    let cause = root_cause(&error);
    if let Some(tls) = find_in_chain::<rustls::Error>(&error) {
        return tls_failure(subject, &host, &place, tls);
    }
    if error.is_dns() {
        let is_unknown = find_in_chain(&error).is_some_and(is_unknown_host);
        let kind = if is_unknown { ErrorKind::UnknownHost } else { ErrorKind::Unavailable };
        let summary = format!("cannot resolve {host}: {cause}");
        return without_response(kind, subject, url, Phase::Connect, summary).with_hint(format!(
            "check the host name {host}, this machine's DNS, and whether HTTPS_PROXY is needed"
        ));
    }
    let refused = find_in_chain::<std::io::Error>(&error)
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    let (kind, phase, summary) = if error.is_timeout() && error.is_connect() {
        (ErrorKind::Unavailable, Phase::Connect, format!("connecting to {place} timed out"))
    } else if error.is_timeout() {
        (ErrorKind::Unavailable, Phase::Body, format!("{place} sent no data before the timeout"))
    } else if refused && error.is_connect() {
        (ErrorKind::ConnectionRefused, Phase::Connect, format!("cannot connect to {place}: {cause}"))
    } else if error.is_connect() {
        (ErrorKind::Unavailable, Phase::Connect, format!("cannot connect to {place}: {cause}"))
    } else if error.is_body() || error.is_decode() {
        (ErrorKind::Unavailable, Phase::Body, format!("the connection to {place} failed: {cause}"))
    } else {
        (ErrorKind::Unavailable, Phase::Headers, format!("the connection to {place} failed: {cause}"))
    };
    without_response(kind, subject, url, phase, summary).with_source(error.without_url())
}

/// The error of a connection to `url` that failed to be made through `proxy`.
pub(super) fn from_proxy(subject: &str, url: &Url, proxy: &str, error: reqwest::Error) -> Error {
    if find_in_chain::<rustls::Error>(&error).is_some() {
        return from_transport(subject, url, error);
    }
    let cause = root_cause(&error);
    let host = url.host_str().unwrap_or_default();
    let refused = find_in_chain::<std::io::Error>(&error)
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    let (kind, summary) = if error.is_timeout() {
        (ErrorKind::Unavailable, format!("connecting to {host} through the proxy {proxy} timed out"))
    } else if refused {
        (ErrorKind::ConnectionRefused, format!("cannot connect to the proxy {proxy}: {cause}"))
    } else if find_in_chain::<std::io::Error>(&error).is_some() || error.is_dns() {
        (ErrorKind::Unavailable, format!("cannot connect to the proxy {proxy}: {cause}"))
    } else {
        (ErrorKind::Unavailable, format!("the proxy {proxy} does not connect to {host}: {cause}"))
    };
    without_response(kind, subject, url, Phase::Connect, summary)
        .with_hint(format!("check HTTPS_PROXY and HTTP_PROXY; to bypass the proxy, add {host} to NO_PROXY"))
        .with_source(error.without_url())
}

/// The first error of type `E` in a chain of causes. hyper wraps errors in `io::Error`s, whose inner error is no `source()`.
fn find_in_chain<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next: Option<&'a (dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<E>() {
            return Some(found);
        }
        next = match current.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => current.source(),
        };
    }
    None
}

/// The text of the innermost cause: the outer ones repeat "error sending request".
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut current = error;
    while let Some(cause) = current.source() {
        current = cause;
    }
    quotable(&current.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resolves no name: fails with a code of `getaddrinfo`.
    struct FailingResolver(i32);

    impl reqwest::dns::Resolve for FailingResolver {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            let error = dns_lookup::LookupError::new(self.0);
            Box::pin(async move { Err(error.into()) })
        }
    }

    #[tokio::test]
    async fn name_that_does_not_exist_is_an_unknown_host() {
        let url = Url::parse("http://r.example/v2/").unwrap();
        for (code, expect) in [
            (libc::EAI_NONAME, ErrorKind::UnknownHost),
            (libc::EAI_NODATA, ErrorKind::UnknownHost),
            (libc::EAI_AGAIN, ErrorKind::Unavailable),
        ] {
            let client = reqwest::Client::builder().no_proxy().dns_resolver(FailingResolver(code));
            let failed = client.build().unwrap().get(url.clone()).send().await.unwrap_err();
            let error = from_transport("x", &url, failed);
            assert_eq!(error.kind(), expect, "{error}");
            assert!(error.to_string().contains("cannot resolve r.example: "), "{error}");
        }
    }

    #[test]
    fn url_is_shown_without_secrets() {
        let url = Url::parse("https://ann:pw@cdn.io:444/a/b?X-Amz-Signature=s#f").unwrap();
        assert_eq!(shown_url(&url), "https://cdn.io:444/a/b");
    }

    #[test]
    fn error_body_is_read_in_every_form() {
        for (body, expect) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known","detail":{}}]}"#,
                Some("NAME_UNKNOWN: repository name not known"),
            ),
            (r#"{"errors":[{"code":"DENIED"},{"message":"b"}]}"#, Some("DENIED; b")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            ("slow\ndown", Some("slow down")),
            (
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has expired &amp; gone</Message></Error>",
                Some("AccessDenied: Request has expired & gone"),
            ),
            ("<html><body>sign in</body></html>", None),
            ("{}", None),
            ("", None),
            ("\u{0}", None),
        ] {
            let errors = body_errors(body.as_bytes());
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts.join("; "), expect.unwrap_or_default(), "{body}");
        }
        assert_eq!(body_errors(b"\xff\xfe"), []);
    }

    #[test]
    fn duration_is_rounded_to_a_readable_unit() {
        for (seconds, words) in
            [(0, "0 s"), (90, "90 s"), (150, "3 min"), (3600, "1 h"), (5000, "84 min"), (90_000, "25 h")]
        {
            assert_eq!(duration_text(Duration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn status_decides_the_kind() {
        for (status, kind) in [
            (401, ErrorKind::Unauthorized),
            (403, ErrorKind::Unauthorized),
            (404, ErrorKind::NotFound),
            (408, ErrorKind::Unavailable),
            (410, ErrorKind::NotFound),
            (418, ErrorKind::Unsupported),
            (429, ErrorKind::RateLimited),
            (500, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind_of(StatusCode::from_u16(status).unwrap()), kind, "{status}");
        }
    }
}
