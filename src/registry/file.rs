//! Files at any URL, with the settings and credentials of its host: indexes of Helm repositories, and their charts.

use super::encoding::{self, Encoding};
use super::endpoint::{Answer, Endpoint, Request, registry_at};
use super::limiter::Priority;
use super::message::failure;
use super::transport::Purpose;
use super::{Sessions, error, redirect};
use crate::error::{ErrorKind, Result};
use crate::oci::Repository;
use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderValue};
use reqwest::{Method, StatusCode};
use url::Url;

/// A file to download.
#[derive(Clone, Copy, Debug)]
pub struct RemoteFile<'a> {
    /// What errors name.
    pub subject: &'a str,
    /// What a token is requested for, if the host asks for one.
    pub repository: &'a Repository,
    /// Where it is.
    pub url: &'a Url,
    /// The document that names the URL. It is then checked as if that were redirected to it.
    pub linked_from: Option<&'a Url>,
    /// The maximum size in bytes.
    pub max: usize,
    /// Whether the server may compress it.
    pub compressed: bool,
}

impl Sessions {
    /// Downloads a file, with one attempt. Credentials are sent to the host that they are for, and only if it asks for them.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized` and so on; `TooLarge` for a larger file; `Unsupported` for a link or redirect that is not followed,
    /// and for plain HTTP at a host for which it is not enabled.
    pub async fn download(&self, file: RemoteFile<'_>) -> Result<Bytes> {
        let refuse = |why: String| failure(ErrorKind::Unsupported, file.subject, why);
        let mut url = file.url.clone();
        if let Some(from) = file.linked_from {
            let registry = registry_at(from).ok_or_else(|| refuse("the URL has no host".into()))?;
            let session = self.with(&registry)?;
            let checked = redirect::target(from, url.as_str(), &[], session.origin().peers());
            url = checked.map_err(|why| {
                refuse(format!(
                    "{} links to {}: refused like {why}",
                    error::shown_url(from),
                    error::shown_url(&url)
                ))
            })?;
        }
        let registry = registry_at(&url).ok_or_else(|| refuse("the URL has no host".into()))?;
        self.with(&registry)?.origin().file(RemoteFile { url: &url, ..file }).await
    }
}

impl Endpoint {
    /// Downloads a file of this host.
    async fn file(&self, file: RemoteFile<'_>) -> Result<Bytes> {
        let RemoteFile { subject, repository, url, max, .. } = file;
        if url.scheme() == "http" && !self.uses_plain_http(subject).await? {
            let message = format!("{} is plain HTTP", error::shown_url(url));
            return Err(failure(ErrorKind::Unsupported, subject, message)
                .with_hint(format!("use https://, or add --plain-http {}", self.registry)));
        }
        let encoding = if file.compressed { "gzip" } else { "identity" };
        let request = Request {
            purpose: Purpose::Blob,
            headers: vec![(ACCEPT_ENCODING, HeaderValue::from_static(encoding))],
            instead: Some(url.clone()),
            priority: Priority::New,
            ..Request::new(subject, repository, Method::GET, "")
        };
        let Answer { response, permit, .. } = self.send(request).await?;
        let url = response.url().clone();
        if response.status() != StatusCode::OK {
            return Err(self.status_error(subject, repository, response).await);
        }
        if error::is_html(response.headers()) {
            return Err(error::web_page(subject, &url));
        }
        let is_encoded = Encoding::from_headers(response.headers()) == Some(Encoding::Gzip);
        let too_large = || {
            let message = format!("{} is larger than {} MiB", error::shown_url(&url), max >> 20);
            failure(ErrorKind::TooLarge, subject, message)
        };
        if response.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        let body = error::read_bounded(response, max).await.map_err(|error| {
            permit.record_overload();
            error::from_transport(subject, &url, error)
        })?;
        permit.record_success();
        let mut body = body.ok_or_else(too_large)?;
        if file.compressed && is_encoded {
            let decoded = encoding::decode_document(body, max);
            body = decoded.map_err(|_| encoding::unsupported(subject, "gzip"))?.ok_or_else(too_large)?;
        }
        Ok(body.into())
    }
}
