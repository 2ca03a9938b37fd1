//! From a request's path to what is asked for (OCI distribution-spec, "Endpoints").
//!
//! A repository's name has slashes in it, so an endpoint is known by the path's tail. Nothing of the
//! path gets any further than the parsers of [`Repository`], [`Tag`](crate::oci::Tag) and [`Digest`].

use super::error::Refusal;
use crate::content::Target;
use crate::oci::{Digest, Repository};
use std::borrow::Cow;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: no endpoint of the specification, but what health checks ask.
    Root,
    /// `/v2/` (end-1).
    Base,
    /// `/v2/_catalog`: Docker's, not in the OCI specification.
    Catalog,
    /// `/v2/<name>/tags/list` (end-8a, end-8b).
    Tags(Repository),
    /// `/v2/<name>/manifests/<reference>` (end-3).
    Manifest(Repository, Target),
    /// `/v2/<name>/blobs/<digest>` (end-2).
    Blob(Repository, Digest),
    /// `/v2/<name>/referrers/<digest>` (end-12a, end-12b).
    Referrers(Repository, Digest),
}

/// Longer than the longest name, tag and digest together, even if every byte were escaped.
const MAX_PATH: usize = 2048;

impl Route {
    /// Reads a request's path, as it stands in the request line.
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        if path.len() > MAX_PATH {
            return Err(Refusal::path_invalid("the path is too long"));
        }
        let path = unescape(path)?;
        let rest = match &*path {
            "/" => return Ok(Self::Root),
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            path => path.strip_prefix("/v2/").ok_or_else(Refusal::no_such_endpoint)?,
        };
        let Some((head, last)) = rest.rsplit_once('/') else {
            return Err(Refusal::no_such_endpoint());
        };
        // A path such as /v2/manifests/latest has no name before the endpoint's word.
        let (name, endpoint) = head.rsplit_once('/').unwrap_or(("", head));
        match endpoint {
            "tags" if last == "list" => Ok(Self::Tags(repository(name)?)),
            "manifests" => Ok(Self::Manifest(repository(name)?, target(last)?)),
            "blobs" => Ok(Self::Blob(repository(name)?, digest(last)?)),
            "referrers" => Ok(Self::Referrers(repository(name)?, digest(last)?)),
            _ => Err(Refusal::no_such_endpoint()),
        }
    }
}

fn repository(name: &str) -> Result<Repository, Refusal> {
    name.parse().map_err(|error| Refusal::name_invalid(&error))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error| Refusal::digest_invalid(&error))
}

/// A tag has no colon and a digest has one. No manifest can have a reference that is neither: it is unknown.
fn target(reference: &str) -> Result<Target, Refusal> {
    if reference.contains(':') {
        return digest(reference).map(Target::Digest);
    }
    reference.parse().map(Target::Tag).map_err(Refusal::manifest_unknown)
}

/// Undoes percent-encoding (RFC 3986, 2.1) of what may stand in names, tags and digests: some clients write
/// a digest's colon as `%3A`. An escaped slash, percent sign or control character is refused, so that
/// a path means the same before and after, to us and to a proxy in front.
fn unescape(path: &str) -> Result<Cow<'_, str>, Refusal> {
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
                return Err(Refusal::path_invalid("an escape in the path stands for no character of a name"));
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
    fn endpoints_are_known_by_their_tail() {
        let digest: Digest = D.parse().unwrap();
        let tag = |text: &str| Target::Tag(text.parse().unwrap());
        let cases = [
            ("/".to_owned(), Route::Root),
            ("/v2".into(), Route::Base),
            ("/v2/".into(), Route::Base),
            ("/v2/_catalog".into(), Route::Catalog),
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
    fn what_is_no_endpoint_or_name_is_refused() {
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
            let refusal = Route::parse(path).expect_err(path);
            assert_eq!((refusal.status.as_u16(), refusal.code), (status, code), "{path}");
        }
        let endless = format!("/v2/{}", "a/".repeat(5000));
        assert_eq!(Route::parse(&endless).unwrap_err().status, 400);
    }
}
