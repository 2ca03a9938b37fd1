//! The tags of a repository (distribution-spec "Content Discovery"), and the repositories of a registry, which is Docker's.

use super::endpoint::{Endpoint, Request};
use super::error;
use super::message::failure;
use crate::error::{ErrorKind, Result};
use crate::oci::{Repository, Tag};
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;
use url::form_urlencoded;

/// The path of the tags of a repository.
const TAGS: &str = "tags/list";
/// The path of the repositories of a registry.
const CATALOG: &str = "_catalog";
/// The requested number of names a page; registries may return fewer.
const PAGE: usize = 1000;
/// The most pages that are requested, against registries that never end.
const MAX_PAGES: usize = 2000;
/// How many pages in a row may bring nothing new: registries that filter pages return empty ones in between.
const MAX_EMPTY_PAGES: usize = 8;
/// The most tags of a repository, or repositories of a registry, to bound memory.
const MAX_NAMES: usize = 1_000_000;
/// The largest page, in bytes: some registries return everything at once.
const MAX_PAGE_BYTES: usize = 32 << 20;

#[derive(Deserialize)]
struct PageDocument {
    /// `null` for a repository without tags.
    tags: Option<Vec<String>>,
    repositories: Option<Vec<String>>,
}

/// A page of names.
pub(super) struct NamePage {
    /// The names, as the registry orders them.
    pub(super) names: Vec<String>,
    /// The query of the next page.
    pub(super) next: Option<String>,
}

impl Endpoint {
    /// The tags of `repository`, sorted. Invalid tags are skipped.
    pub(super) async fn tags(&self, subject: &str, repository: &Repository) -> Result<Vec<Tag>> {
        self.names(subject, repository, TAGS).await
    }

    /// The repositories of the registry, sorted. Invalid names are skipped. `scope` selects the credentials.
    pub(super) async fn repositories(&self, subject: &str, scope: &Repository) -> Result<Vec<Repository>> {
        self.names(subject, scope, CATALOG).await
    }

    async fn names<T: FromStr + Ord>(
        &self,
        subject: &str,
        repository: &Repository,
        path: &str,
    ) -> Result<Vec<T>> {
        let mut names = BTreeSet::new();
        let mut query = format!("n={PAGE}");
        let mut asked = HashSet::from([query.clone()]);
        let mut empty_pages = 0;
        for _ in 0..MAX_PAGES {
            let before = names.len();
            let page = self.page(subject, repository, path, &query).await?;
            names.extend(page.names.iter().filter_map(|name| name.parse().ok()));
            empty_pages = if names.len() > before { 0 } else { empty_pages + 1 };
            match page.next {
                Some(next) if empty_pages < MAX_EMPTY_PAGES && asked.insert(next.clone()) => query = next,
                // There is no next page, or it would loop, or pages bring nothing.
                _ => return Ok(names.into_iter().collect()),
            }
            if names.len() > MAX_NAMES {
                break;
            }
        }
        let message = format!("the list of names does not end: stopped after {} of them", names.len());
        Err(failure(ErrorKind::TooLarge, subject, message))
    }

    /// The page of tags that `query` selects.
    pub(super) async fn tag_page(
        &self,
        subject: &str,
        repository: &Repository,
        query: &str,
    ) -> Result<NamePage> {
        self.page(subject, repository, TAGS, query).await
    }

    async fn page(
        &self,
        subject: &str,
        repository: &Repository,
        path: &str,
        query: &str,
    ) -> Result<NamePage> {
        let path = format!("{path}?{query}");
        let answer = self.send(Request::new(subject, repository, Method::GET, &path)).await?;
        if answer.response.status() != StatusCode::OK {
            let error = self.status_error(subject, repository, answer.response).await;
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Unsupported
                    if path.starts_with(CATALOG) =>
                {
                    error.with_hint("many registries do not list their repositories: name them in the list")
                }
                // The general hint mentions a tag, and there is none.
                ErrorKind::NotFound => error.with_hint(
                    "check the repository's name, such as registry.example/team/app; some registries return 404 for what you have no permission to read",
                ),
                _ => error,
            });
        }
        let url = answer.response.url().clone();
        let next = next_query(answer.response.headers());
        let body = error::read_bounded(answer.response, MAX_PAGE_BYTES).await.map_err(|error| {
            answer.permit.record_overload();
            error::from_transport(subject, &url, error)
        })?;
        let refuse = |why: &str| failure(ErrorKind::Corrupt, subject, format!("the list of names {why}"));
        let body = body.ok_or_else(|| refuse("is too long"))?;
        if error::looks_like_html(&body) {
            return Err(error::web_page(subject, &url));
        }
        let page: PageDocument = serde_json::from_slice(&body).map_err(|_| refuse("is not valid JSON"))?;
        answer.permit.record_success();
        Ok(NamePage { names: page.tags.or(page.repositories).unwrap_or_default(), next })
    }
}

/// The query of the next page, from a Link header (RFC 8288). Only the query is used: the next page is requested from the
/// same URL.
pub(super) fn next_query(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).flat_map(links);
    let (target, _) = links.into_iter().find(|(_, parameters)| is_next(parameters))?;
    let (_, query) = target.split_once('?')?;
    let pairs = form_urlencoded::parse(query.as_bytes());
    let mut kept = form_urlencoded::Serializer::new(String::new());
    kept.extend_pairs(pairs.take(8));
    Some(kept.finish()).filter(|query| !query.is_empty())
}

/// The target and parameters of each link in a header, which may also name the first and the last page.
fn links(mut value: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        let (target, rest) = value.split_once('<')?.1.split_once('>')?;
        let mut quoted = false;
        let is_end = |c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        };
        let end = rest.find(is_end).unwrap_or(rest.len());
        let (parameters, further) = rest.split_at(end);
        value = further;
        Some((target, parameters))
    })
}

/// Whether a link's parameters have the relation `next`: one of several words, in any case, quoted or not.
fn is_next(parameters: &str) -> bool {
    parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel") && relations.any(|one| one.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn next_page_is_the_query_of_the_link() {
        for (link, expect) in [
            ("</v2/a/tags/list?last=b&n=2>; rel=\"next\"", Some("last=b&n=2")),
            ("<https://evil.example/x?last=c>; rel=next", Some("last=c")),
            ("</v2/a/tags/list?last=b#x y>; rel=\"next\"", Some("last=b%23x+y")),
            ("</v2/a/tags/list?last=b>; rel=\"prev\"", None),
            ("</v2/a/tags/list>; rel=\"next\"", None),
            ("nonsense", None),
            ("</a?last=0>; rel=\"first\", </a?last=b>; rel=\"next\"", Some("last=b")),
            ("</a?last=b>; rel=\"next\", </a?last=z>; rel=\"last\"", Some("last=b")),
            ("</a?last=z>;rel=last;title=\"a, <b>\",</a?last=b>;rel=next", Some("last=b")),
            ("</a?last=b,c>; title=next; REL=\"prev Next\"", Some("last=b%2Cc")),
            ("</a?last=b>; title=\"next\"", None),
            ("</a?last=b>; rel=\"nextish\"", None),
            ("</a?last=b", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, HeaderValue::from_static(link));
            assert_eq!(next_query(&headers).as_deref(), expect, "{link}");
            headers.insert(LINK, HeaderValue::from_static("</v2/a/tags/list?n=1>; rel=\"first\""));
            headers.append(LINK, HeaderValue::from_static(link));
            assert_eq!(next_query(&headers).as_deref(), expect, "after another header: {link}");
        }
    }
}
