//! The page for people at `/`, and its data.

use super::body::Body;
use super::error::ApiError;
use super::response::{HandlerResult, document, header_value, list, of_store};
use crate::page;
use crate::store::Store;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

/// The number of tags in one response, whatever the request asks for.
const MAX_IMAGES: usize = 500;

/// Whether the client is a browser. Registry clients, health checks and `curl` do not name HTML.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case("text/html"))
    })
}

/// The page.
pub(super) fn page() -> HandlerResult {
    let content_type = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response: Response<Body> = document(StatusCode::OK, content_type, page::served().into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, header_value(&page::served_policy())?);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// Tags with their platforms, sizes and content, some hundred at a time.
pub(super) fn images(store: &Store, query: Option<&str>) -> HandlerResult {
    let mut limit = MAX_IMAGES;
    let mut last = None;
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*key {
            "n" => {
                let why = || ApiError::page_invalid(format!("n={value:?} is not a number above 0"));
                let number = value.parse().ok().filter(|number| *number > 0).ok_or_else(why)?;
                limit = MAX_IMAGES.min(number);
            }
            "last" if !value.is_empty() => last = Some(value.into_owned()),
            _ => {}
        }
    }
    list(&page::images(store, last.as_deref(), limit).map_err(of_store)?, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_that_name_html_are_browsers() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/json, Text/HTML;q=0.5", true),
            ("*/*", false),
            ("application/json", false),
            ("application/vnd.oci.image.index.v1+json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepts_html(&headers), expected, "{accept}");
        }
        assert!(!accepts_html(&HeaderMap::new()));
    }
}
