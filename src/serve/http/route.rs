//! Parses request paths (OCI distribution-spec, "Endpoints").
//!
//! Repository names contain slashes, so endpoints are recognised by the end of the path. All names pass the parsers of
//! [`Repository`], [`Tag`](crate::oci::Tag) and [`Digest`], so no path leaves the tree.

use super::error::ApiError;
use crate::content::Target;
use crate::oci::{Digest, Repository};
use std::borrow::Cow;

/// The endpoint that a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: not in the specification, but used by health checks.
    Root,
    /// `/healthz`.
    Health,
    /// `/metrics`.
    Metrics,
    /// `/_saver/images`: the data of the page for people.
    Images,
    /// `/v2/` (end-1).
    Base,
    /// `/v2/_catalog`: Docker's, not in the OCI specification.
    Repositories,
    /// `/v2/<name>/tags/list` (end-8a, end-8b).
    Tags(Repository),
    /// `/v2/<name>/manifests/<reference>` (end-3).
    Manifest(Repository, Target),
    /// `/v2/<name>/blobs/<digest>` (end-2).
    Blob(Repository, Digest),
    /// `/v2/<name>/referrers/<digest>` (end-12a, end-12b).
    Referrers(Repository, Digest),
}

impl Route {
    /// Whether the endpoint walks directories.
    pub(super) fn is_listing(&self) -> bool {
        matches!(self, Self::Images | Self::Repositories | Self::Tags(_) | Self::Referrers(..))
    }
}

/// The length limit of a path in bytes: more than the longest name, tag and digest have together, even percent-encoded.
const MAX_PATH: usize = 2048;

impl Route {
    /// Parses the path of a request line.
    pub(super) fn parse(path: &str) -> Result<Self, ApiError> {
        if path.len() > MAX_PATH {
            return Err(ApiError::path_invalid("the path is too long"));
        }
        let path = unescape(path)?;
        let rest = match &*path {
            "/" => return Ok(Self::Root),
            "/healthz" => return Ok(Self::Health),
            "/metrics" => return Ok(Self::Metrics),
            "/_saver/images" => return Ok(Self::Images),
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Repositories),
            path => path.strip_prefix("/v2/").ok_or_else(ApiError::no_such_endpoint)?,
        };
        let Some((head, last)) = rest.rsplit_once('/') else {
            return Err(ApiError::no_such_endpoint());
        };
        // A path such as /v2/manifests/latest has no repository name.
        let (name, endpoint) = head.rsplit_once('/').unwrap_or(("", head));
        match endpoint {
            "tags" if last == "list" => Ok(Self::Tags(repository(name)?)),
            "manifests" => Ok(Self::Manifest(repository(name)?, target(last)?)),
            "blobs" => Ok(Self::Blob(repository(name)?, digest(last)?)),
            "referrers" => Ok(Self::Referrers(repository(name)?, digest(last)?)),
            _ => Err(ApiError::no_such_endpoint()),
        }
    }
}

fn repository(name: &str) -> Result<Repository, ApiError> {
    name.parse().map_err(|error| ApiError::name_invalid(&error))
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error| ApiError::digest_invalid(&error))
}

/// Digests contain a colon and tags do not. No manifest can have a reference that is neither, so it is unknown.
fn target(reference: &str) -> Result<Target, ApiError> {
    if reference.contains(':') {
        return digest(reference).map(Target::Digest);
    }
    reference.parse().map(Target::Tag).map_err(ApiError::manifest_unknown)
}

/// Decodes percent-encoding (RFC 3986, 2.1) of the characters of names, tags and digests: some clients write the colon of a
/// digest as `%3A`. Other escapes, such as those of slashes and control characters, are rejected, so that a path means the same
/// before and after decoding, here and in a proxy in front.
fn unescape(path: &str) -> Result<Cow<'_, str>, ApiError> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut plain = String::with_capacity(path.len());
    let mut parts = path.split('%');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[2..]);
            }
            _ => {
                return Err(ApiError::path_invalid(
                    "percent-encoding is only accepted for characters of names",
                ));
            }
        }
    }
    Ok(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(text: &str) -> Repository {
        text.parse().unwrap()
    }

    #[test]
    fn endpoints_are_recognised_by_end_of_path() {
        let digest: Digest = D.parse().unwrap();
        let tag = |text: &str| Target::Tag(text.parse().unwrap());
        let cases = [
            ("/".to_owned(), Route::Root),
            ("/healthz".into(), Route::Health),
            ("/metrics".into(), Route::Metrics),
            ("/_saver/images".into(), Route::Images),
            ("/v2".into(), Route::Base),
            ("/v2/".into(), Route::Base),
            ("/v2/_catalog".into(), Route::Repositories),
            ("/v2/a/tags/list".into(), Route::Tags(name("a"))),
            ("/v2/a/b/c/tags/list".into(), Route::Tags(name("a/b/c"))),
            ("/v2/tags/list/tags/list".into(), Route::Tags(name("tags/list"))),
            ("/v2/a/manifests/tags/list".into(), Route::Tags(name("a/manifests"))),
            ("/v2/a/manifests/latest".into(), Route::Manifest(name("a"), tag("latest"))),
            (
                "/v2/manifests/manifests/manifests".into(),
                Route::Manifest(name("manifests"), tag("manifests")),
            ),
            (format!("/v2/a/manifests/{D}"), Route::Manifest(name("a"), Target::Digest(digest))),
            (format!("/v2/a/b/blobs/{D}"), Route::Blob(name("a/b"), digest)),
            (format!("/v2/a/b/blobs/{}", D.replace(':', "%3A")), Route::Blob(name("a/b"), digest)),
            (format!("/v2/a/b/blobs/{}", D.replace(':', "%3a")), Route::Blob(name("a/b"), digest)),
            (format!("/v2/a/referrers/{D}"), Route::Referrers(name("a"), digest)),
            ("/v2/%61/tags/list".into(), Route::Tags(name("a"))),
        ];
        for (path, expected) in cases {
            assert_eq!(Route::parse(&path).as_ref(), Ok(&expected), "{path}");
        }
    }

    #[test]
    fn invalid_paths_are_rejected() {
        let long = format!("/v2/{}/tags/list", "a".repeat(256));
        let cases = [
            ("/v1/", 404, "UNSUPPORTED"),
            ("/v2x", 404, "UNSUPPORTED"),
            ("//v2/", 404, "UNSUPPORTED"),
            ("/v2/a", 404, "UNSUPPORTED"),
            ("/v2/a/", 404, "UNSUPPORTED"),
            ("/v2/a/tags/other", 404, "UNSUPPORTED"),
            ("/v2/a/tags/list/", 404, "UNSUPPORTED"),
            ("/v2/a/blobs/uploads/", 404, "UNSUPPORTED"),
            ("/v2/manifests/latest", 400, "NAME_INVALID"),
            ("/v2//manifests/latest", 400, "NAME_INVALID"),
            ("/v2//a/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a//b/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/A/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/_a/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/../manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a/../../b/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/%2e%2e/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%2Fb/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%252Fb/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/%252e%252e/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%00/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%5Cb/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a\\b/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%+f/manifests/latest", 400, "NAME_INVALID"),
            ("/v2/a%é/manifests/latest", 400, "NAME_INVALID"),
            (&long, 400, "NAME_INVALID"),
            ("/v2/a/manifests/.bad", 404, "MANIFEST_UNKNOWN"),
            ("/v2/a/manifests/..", 404, "MANIFEST_UNKNOWN"),
            ("/v2/a/manifests/", 404, "MANIFEST_UNKNOWN"),
            ("/v2/a/manifests/sha256:12", 400, "DIGEST_INVALID"),
            ("/v2/a/blobs/sha256:..", 400, "DIGEST_INVALID"),
            ("/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
            ("/v2/a/blobs/", 400, "DIGEST_INVALID"),
            ("/v2/a/referrers/x", 400, "DIGEST_INVALID"),
        ];
        for (path, status, code) in cases {
            let error = Route::parse(path).expect_err(path);
            assert_eq!((error.status.as_u16(), error.code), (status, code), "{path}");
        }
        let endless = format!("/v2/{}", "a/".repeat(5000));
        assert_eq!(Route::parse(&endless).unwrap_err().status, 400);
    }
}
