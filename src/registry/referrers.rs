//! Finding referrers (distribution-spec, "Listing Referrers" and "Referrers Tag Schema"; the tags of cosign).
//!
//! How a repository is asked is decided once and remembered: whether its registry has the referrers API, and which tags of
//! referrers there are. One list of tags replaces up to four requests for each subject.

use super::endpoint::{Endpoint, Request};
use super::error;
use super::limiter::Priority;
use super::message::failure;
use super::referrer_discovery::ReferrerTags;
use super::tags::next_query;
use crate::content::{Referrer, Target};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::name::REFERRERS_TAG_PREFIX;
use crate::oci::referrer::{MAX_REFERRERS, ReferrerTag, ReferrerTagKind, has_all};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag, media_type};
use futures::future::try_join_all;
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, StatusCode};
use std::collections::HashSet;
use std::sync::Arc;

/// The most pages of tags that are read before each tag is requested by itself instead.
const MAX_TAG_PAGES: usize = 20;
/// The requested number of tags a page.
const TAG_PAGE: usize = 1000;
/// The most pages of referrers of one subject.
const MAX_PAGES: usize = 100;

/// The list of referrers of one manifest.
pub(super) enum KnownReferrers {
    /// The answer of the referrers API.
    Api(Vec<Descriptor>),
    /// The index of the fallback tag, if there is one: the registry has no API.
    Fallback(Option<RawManifest>),
}

impl KnownReferrers {
    /// Whether the list has all of `referrers`.
    pub(super) fn contains(&self, referrers: &[Descriptor]) -> bool {
        let index = match self {
            Self::Api(listed) => return has_all(listed, referrers),
            Self::Fallback(index) => index.as_ref().and_then(|index| index.parse().ok()),
        };
        match index {
            Some(Manifest::Index(index)) => has_all(&index.manifests, referrers),
            _ => referrers.is_empty(),
        }
    }
}

impl Endpoint {
    /// What refers to `digest`, by the referrers API or its fallback, and by the tags of cosign.
    pub(super) async fn referrers(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Referrer>> {
        let (listed, tags) = futures::future::try_join(
            self.listed_referrers(subject, repository, digest),
            self.referrer_tags(subject, repository),
        )
        .await?;
        let mut found: Vec<Referrer> = match listed {
            Some(listed) => listed.into_iter().map(Referrer::Listed).collect(),
            None => {
                let tag = ReferrerTag { subject: *digest, kind: ReferrerTagKind::Fallback };
                let may_exist = tags.as_ref().is_none_or(|tags| tags.contains(&tag));
                let index =
                    if may_exist { self.fallback_index(subject, repository, digest).await? } else { None };
                let listed = index.map(|index| entries(subject, &index)).transpose()?.unwrap_or_default();
                listed.into_iter().map(Referrer::Listed).collect()
            }
        };
        let cosign = ReferrerTagKind::COSIGN.map(|kind| ReferrerTag { subject: *digest, kind });
        let exist = cosign.iter().map(async |tag| match &tags {
            Some(tags) => Ok(tags.contains(tag)),
            None => self.has_tag(subject, repository, &tag.tag()).await,
        });
        let exist = try_join_all(exist).await?;
        let existing = cosign.into_iter().zip(exist).filter(|(_, exists)| *exists);
        found.extend(existing.map(|(tag, _)| Referrer::Tagged(tag)));
        Ok(found)
    }

    /// The list of referrers of `digest`, without the tags of cosign.
    pub(super) async fn referrer_list(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<KnownReferrers> {
        match self.listed_referrers(subject, repository, digest).await? {
            Some(listed) => Ok(KnownReferrers::Api(listed)),
            None => Ok(KnownReferrers::Fallback(self.fallback_index(subject, repository, digest).await?)),
        }
    }

    /// The answer of the referrers API; `None` if the registry has none.
    async fn listed_referrers(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Vec<Descriptor>>> {
        let mut first = None;
        let ask = async {
            let listed = self.ask_for_referrers(subject, repository, digest).await?;
            let has_api = listed.is_some();
            first = listed;
            Ok::<_, Error>(has_api)
        };
        let has_api = self.referrers.has_api.join(repository.clone()).try_run(ask).await?;
        match first {
            Some(listed) => Ok(Some(listed)),
            None if has_api => self.ask_for_referrers(subject, repository, digest).await,
            None => Ok(None),
        }
    }

    /// As `listed_referrers`, without regard to what is known.
    async fn ask_for_referrers(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Vec<Descriptor>>> {
        let mut found: Vec<Descriptor> = Vec::new();
        let mut path = format!("referrers/{digest}");
        let mut asked = HashSet::from([path.clone()]);
        for page in 0..MAX_PAGES {
            let headers = vec![(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX))];
            let request = Request::new(subject, repository, Method::GET, &path);
            let answer = self.send(Request { headers, ..request }).await?;
            let status = answer.response.status();
            let is_absent = matches!(
                status,
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
            );
            let is_page = status == StatusCode::OK && error::is_html(answer.response.headers());
            if page == 0 && (is_absent || is_page) {
                return Ok(None);
            }
            if status != StatusCode::OK {
                return Err(self.status_error(subject, repository, answer.response).await);
            }
            let url = answer.response.url().clone();
            let next = next_query(answer.response.headers());
            let limit = usize::try_from(MAX_MANIFEST_SIZE).unwrap_or(usize::MAX);
            let body = error::read_bounded(answer.response, limit).await.map_err(|error| {
                answer.permit.record_overload();
                error::from_transport(subject, &url, error)
            })?;
            let body = body.ok_or_else(|| too_many(subject))?;
            if page == 0 && error::looks_like_html(&body) {
                return Ok(None);
            }
            let index = RawManifest::new(body.into(), Some(media_type::OCI_INDEX)).map_err(|error| {
                let why = format!("the list of referrers is not valid: {}", error.message());
                failure(ErrorKind::Corrupt, subject, why)
            })?;
            answer.permit.record_success();
            found.extend(entries(subject, &index)?);
            if found.len() > MAX_REFERRERS {
                return Err(too_many(subject));
            }
            match next.map(|query| format!("referrers/{digest}?{query}")) {
                Some(next) if asked.insert(next.clone()) => path = next,
                _ => return Ok(Some(found)),
            }
        }
        Err(too_many(subject))
    }

    /// The index that the fallback tag of `digest` names.
    async fn fallback_index(
        &self,
        subject: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<RawManifest>> {
        let target = Target::Tag(Tag::referrers(digest));
        match self.fetch(subject, repository, &target, Priority::Continuation).await {
            Ok(index) => Ok(Some(index)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a tag exists.
    async fn has_tag(&self, subject: &str, repository: &Repository, tag: &Tag) -> Result<bool> {
        let target = Target::Tag(tag.clone());
        let response = self.head_manifest(subject, repository, &target, Priority::Continuation).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            // A response to HEAD has no body, and some registries refuse HEAD.
            _ => match self.fetch(subject, repository, &target, Priority::Continuation).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// The tags of referrers in `repository`, as [`ReferrerDiscovery::tags`].
    async fn referrer_tags(&self, subject: &str, repository: &Repository) -> Result<Option<ReferrerTags>> {
        let list = self.list_referrer_tags(subject, repository);
        self.referrers.tags.join(repository.clone()).try_run(list).await
    }

    async fn list_referrer_tags(
        &self,
        subject: &str,
        repository: &Repository,
    ) -> Result<Option<ReferrerTags>> {
        let mut found = HashSet::new();
        // Registries that sort tags begin with those of referrers.
        let mut query = format!("n={TAG_PAGE}&last={REFERRERS_TAG_PREFIX}");
        let mut asked = HashSet::from([query.clone()]);
        for _ in 0..MAX_TAG_PAGES {
            let page = match self.tag_page(subject, repository, &query).await {
                Ok(page) => page,
                // Not every registry lists tags, or lists them to everyone.
                Err(error) if is_refusal(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let tags = page.names.iter().filter_map(|tag| ReferrerTag::parse(&tag.parse().ok()?));
            found.extend(tags);
            match page.next {
                Some(next) if !ends_referrers(&page.names, &next) => {
                    if !asked.insert(next.clone()) {
                        return Ok(Some(Arc::new(found)));
                    }
                    query = next;
                }
                _ => return Ok(Some(Arc::new(found))),
            }
        }
        Ok(None)
    }
}

/// Whether listing tags is refused, for a reason that does not apply to requests for one of them.
fn is_refusal(error: &Error) -> bool {
    let is_web_page = matches!(error.detail(), Some(Detail::Http { web_page: true, .. }));
    matches!(error.http_status(), Some(400 | 403 | 404 | 405 | 501)) || is_web_page
}

/// Whether the tags of referrers are complete with this page: the registry sorts its tags, as the page and the query of the
/// next one show, and the page ends after them.
fn ends_referrers(page: &[String], next: &str) -> bool {
    let Some(last) = page.last() else { return false };
    let continues_there =
        url::form_urlencoded::parse(next.as_bytes()).any(|(key, value)| key == "last" && value == *last);
    continues_there
        && page.is_sorted()
        && page.first().is_some_and(|first| first.as_str() > REFERRERS_TAG_PREFIX)
        && !last.starts_with(REFERRERS_TAG_PREFIX)
}

/// The entries of an index of referrers. Those of an unsupported digest algorithm are an error, since they would be lost.
fn entries(subject: &str, index: &RawManifest) -> Result<Vec<Descriptor>> {
    match index.parse()? {
        Manifest::Index(index) => match index.unsupported.first() {
            Some(entry) => {
                Err(failure(ErrorKind::Unsupported, subject, format!("a referrer has an {}", entry.error)))
            }
            None if index.manifests.len() > MAX_REFERRERS => Err(too_many(subject)),
            None => Ok(index.manifests),
        },
        Manifest::Image(_) => {
            Err(failure(ErrorKind::Corrupt, subject, "the list of referrers is not an index"))
        }
    }
}

fn too_many(subject: &str) -> Error {
    let message = format!("it has more than {MAX_REFERRERS} referrers, or too long a list of them");
    failure(ErrorKind::TooLarge, subject, message).with_hint(
        "leave the referrers out (--referrers none), or continue without them (--missing-referrers warn)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_tag_list_ends_after_referrers() {
        let hex = "a".repeat(64);
        let (signature, early) = (format!("sha256-{hex}.sig"), "1.0".to_owned());
        for (page, next, expect) in [
            (vec![signature.clone(), "v1".into()], "last=v1&n=2", true),
            (vec!["v1".to_owned(), "v2".into()], "n=2&last=v2", true),
            // The next page may have more.
            (vec![signature.clone()], "last=x", false),
            (vec![signature.clone(), signature.clone()], "last=y", false),
            // Neither sorted nor continued at a tag.
            (vec!["v2".to_owned(), "v1".into()], "last=v1", false),
            (vec!["v1".to_owned(), "v2".into()], "last=opaque", false),
            (vec!["v1".to_owned(), "v2".into()], "token=v2", false),
            // The registry began at the first tag.
            (vec![early, "v1".into()], "last=v1", false),
            (vec![], "last=v1", false),
        ] {
            assert_eq!(ends_referrers(&page, next), expect, "{page:?} {next}");
        }
    }
}
