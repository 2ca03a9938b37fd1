//! From what goes wrong on the wire to an [`Error`]: its kind, words and advice.

use super::tls_error::tls_failure;
use crate::error::{Error, ErrorKind, Side};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};
use url::Url;

/// The most that is read of an error's body.
const MAX_ERROR_BODY: usize = 64 << 10;

/// How long is waited for it.
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);

/// The most that a message quotes of a server's words, in characters.
const MAX_QUOTE: usize = 300;

/// An error of a source.
pub(super) fn failure(kind: ErrorKind, subject: impl fmt::Display, message: impl Into<String>) -> Error {
    Error::new(kind, subject, message).on(Side::Source)
}

/// `url` without user, password, query and fragment: those may hold secrets (signed addresses).
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    // These fail only for addresses that have no host, and thus nothing to hide.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// A server's words made fit to print: one line, bounded, without control or direction characters.
pub(super) fn quotable(text: &str) -> String {
    let unfit = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let plain: String = text.chars().map(|c| if unfit(c) { ' ' } else { c }).collect();
    let joined = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}...", &joined[..end]),
        None => joined,
    }
}

/// How long a Retry-After header asks to wait: seconds or a date (RFC 9110 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Bounded, so that a moment that far away can be reckoned with; more digits than fit mean "very long".
        return Some(Duration::from_secs(value.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
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

/// The error that an answer with a status of failure means. Reads the body for the server's own words.
pub(super) async fn from_response(subject: &str, host: &str, response: Response) -> Error {
    let status = response.status();
    let shown = shown_url(response.url());
    let wait = retry_after(response.headers(), SystemTime::now());
    let is_html = is_html(response.headers());
    let body = match tokio::time::timeout(ERROR_BODY_TIME, read_bounded(response, MAX_ERROR_BODY)).await {
        Ok(Ok(Some(body))) if !is_html => body,
        _ => Vec::new(),
    };
    let words = if is_html || looks_like_html(&body) {
        " with a web page, not as a registry does".to_owned()
    } else {
        server_words(&body).map(|words| format!(": {words}")).unwrap_or_default()
    };
    let wait = wait.filter(|_| matches!(status.as_u16(), 429 | 503));
    let asks = wait.map(|wait| format!("; it asks to wait {}", told(wait))).unwrap_or_default();
    let error = failure(kind_of(status), subject, format!("{shown} answered {status}{words}{asks}"));
    let error = match wait {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    };
    match status.as_u16() {
        401 | 403 => {
            error.with_hint(format!("check the name, and that you may read it: docker login {host}"))
        }
        404 => error.with_hint(
            "check the name and tag; some registries say this also of what you may not read".to_owned(),
        ),
        429 => error.with_hint(format!(
            "the registry limits requests: log in (docker login {host}), use a --mirror, or try later"
        )),
        407 => error.with_hint("the proxy wants a user and password: put them into HTTPS_PROXY".to_owned()),
        _ => error,
    }
}

/// A length of time as people say it.
fn told(wait: Duration) -> String {
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
        // 408 and 425 ask to try again by definition.
        408 | 425 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Unsupported,
    }
}

/// What an error body says: the spec's `errors` list (distribution-spec "Error Codes"), else a short text.
fn server_words(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let words = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(document) => {
            let said = |value: &serde_json::Value| {
                let part =
                    |key: &str| value.get(key).and_then(|word| word.as_str()).filter(|w| !w.is_empty());
                match (part("code"), part("message").or_else(|| part("details")).or_else(|| part("error"))) {
                    (Some(code), Some(message)) => Some(format!("{code}: {message}")),
                    (one, other) => one.or(other).map(str::to_owned),
                }
            };
            match document.get("errors").and_then(|errors| errors.as_array()) {
                Some(errors) => errors.iter().take(3).filter_map(said).collect::<Vec<_>>().join("; "),
                None => said(&document).unwrap_or_default(),
            }
        }
        Err(_) => text.to_owned(),
    };
    Some(quotable(&words)).filter(|words| !words.is_empty())
}

/// Whether headers announce a web page: no registry serves one; a captive portal or login page does.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let content_type = headers.get(reqwest::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| {
        matches!(crate::oci::media_type::essence(value).as_str(), "text/html" | "application/xhtml+xml")
    })
}

/// Whether a body is a web page, whatever the headers call it: JSON never begins so.
pub(super) fn looks_like_html(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}

/// A web page where an answer of a registry should be.
pub(super) fn web_page(subject: &str, url: &Url) -> Error {
    failure(
        ErrorKind::Unsupported,
        subject,
        format!("{} answered with a web page instead of what a registry serves", shown_url(url)),
    )
    .with_hint("a login page or proxy may stand between: check the address, HTTPS_PROXY and NO_PROXY")
}

/// The error that a failed exchange means: `doing` reads like "connect to" or "read from".
pub(super) fn from_transport(subject: &str, url: &Url, error: reqwest::Error) -> Error {
    let host = url.host_str().unwrap_or_default().to_owned();
    let place = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.clone(),
    };
    let cause = root_words(&error);
    if let Some(tls) = find_tls(&error) {
        return tls_failure(subject, &host, &place, tls);
    }
    if error.is_dns() || cause.contains("failed to lookup address") {
        // What the resolver says for "there is no such name", in glibc's and musl's words.
        let unknown = ["Name or service not known", "No address associated", "Name does not resolve"];
        let kind = if unknown.iter().any(|words| cause.contains(words)) {
            ErrorKind::NotFound
        } else {
            ErrorKind::Unavailable
        };
        return failure(kind, subject, format!("cannot find the address of {host}: {cause}")).with_hint(
            format!("check the name {host}, this machine's DNS, and HTTPS_PROXY if it needs one"),
        );
    }
    let what = if error.is_timeout() && error.is_connect() {
        format!("connecting to {place} took too long")
    } else if error.is_timeout() {
        format!("{place} fell silent")
    } else if error.is_connect() {
        format!("cannot connect to {place}: {cause}")
    } else {
        format!("the connection to {place} failed: {cause}")
    };
    failure(ErrorKind::Unavailable, subject, what).with_source(error.without_url())
}

/// The error that a connection means that was not had through `proxy`.
pub(super) fn from_proxy(subject: &str, url: &Url, proxy: &str, error: reqwest::Error) -> Error {
    if find_tls(&error).is_some() {
        return from_transport(subject, url, error);
    }
    let cause = root_words(&error);
    let host = url.host_str().unwrap_or_default();
    let what = if error.is_timeout() {
        format!("connecting to {host} through the proxy {proxy} took too long")
    } else if chain_says(&error, "tunnel") && !chain_says(&error, "underlying connection") {
        format!("the proxy {proxy} does not lead to {host}: {cause}")
    } else {
        format!("cannot connect to the proxy {proxy}: {cause}")
    };
    failure(ErrorKind::Unavailable, subject, what)
        .with_hint(format!(
            "check HTTPS_PROXY and HTTP_PROXY; to go around the proxy, put {host} into NO_PROXY"
        ))
        .with_source(error.without_url())
}

fn chain_says(error: &(dyn StdError + 'static), word: &str) -> bool {
    let mut next = Some(error);
    while let Some(current) = next {
        if current.to_string().contains(word) {
            return true;
        }
        next = current.source();
    }
    false
}

/// The TLS error in an error's chain of causes; hyper wraps it in `io::Error`s, whose inner error is no `source()`.
fn find_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next: Option<&'a (dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(tls) = current.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        next = match current.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => current.source(),
        };
    }
    None
}

/// The innermost cause in words: the outer ones repeat "error sending request".
fn root_words(error: &(dyn StdError + 'static)) -> String {
    let mut current = error;
    while let Some(cause) = current.source() {
        current = cause;
    }
    quotable(&current.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        let url = Url::parse("https://ann:pw@cdn.io:444/a/b?X-Amz-Signature=s#f").unwrap();
        assert_eq!(shown_url(&url), "https://cdn.io:444/a/b");
    }

    #[test]
    fn a_server_s_words_are_made_fit_to_print() {
        for (text, expect) in [
            ("a\x1b[31mred\x07\r\nb", "a [31mred b"),
            ("\u{202e}evil\u{9b}0m", "evil 0m"),
            ("  plain  ", "plain"),
        ] {
            assert_eq!(quotable(text), expect);
        }
        assert_eq!(quotable(&"é".repeat(1000)).chars().count(), MAX_QUOTE + 3);
    }

    #[test]
    fn error_bodies_are_read_in_every_form() {
        for (body, expect) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known","detail":{}}]}"#,
                Some("NAME_UNKNOWN: repository name not known"),
            ),
            (r#"{"errors":[{"code":"DENIED"},{"message":"b"}]}"#, Some("DENIED; b")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            ("slow\ndown", Some("slow down")),
            ("{}", None),
            ("", None),
            ("\u{0}", None),
        ] {
            assert_eq!(server_words(body.as_bytes()).as_deref(), expect, "{body}");
        }
        assert_eq!(server_words(b"\xff\xfe"), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("9999999999999999999", Some(u64::from(u32::MAX))),
            ("99999999999999999999", Some(u64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn a_wait_is_told_as_people_say_it() {
        for (seconds, words) in
            [(0, "0 s"), (90, "90 s"), (150, "3 min"), (3600, "1 h"), (5000, "84 min"), (90_000, "25 h")]
        {
            assert_eq!(told(Duration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn a_status_has_the_kind_that_decides_about_retries() {
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
