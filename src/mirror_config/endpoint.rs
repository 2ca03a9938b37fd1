//! The registry that serves a tree.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Registry, Repository};
use std::fmt;
use std::str::FromStr;

/// The URL of a registry, whose path is a prefix of the names of its repositories: `https://mirror.lan:5000/edge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorEndpoint {
    is_https: bool,
    registry: Registry,
    prefix: Option<Repository>,
}

impl MirrorEndpoint {
    pub(super) fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host, with the port if the URL has one.
    pub(super) fn authority(&self) -> &str {
        self.registry.as_str()
    }

    pub(super) fn has_prefix(&self) -> bool {
        self.prefix.is_some()
    }

    /// The URL without a path.
    pub(super) fn base(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}", self.registry)
    }

    /// The prefix of all repositories below `place`, without slashes at its ends; empty if there is none.
    pub(super) fn repository_prefix(&self, place: &str) -> String {
        match &self.prefix {
            None => place.to_owned(),
            Some(prefix) if place.is_empty() => prefix.to_string(),
            Some(prefix) => format!("{prefix}/{place}"),
        }
    }

    /// The name that an image reference has for `prefix`: `mirror.lan:5000/edge/quay.io`.
    pub(super) fn location(&self, prefix: &str) -> String {
        if prefix.is_empty() { self.registry.to_string() } else { format!("{}/{prefix}", self.registry) }
    }
}

impl FromStr for MirrorEndpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(ErrorKind::InvalidInput, format!("--endpoint {text:?}"), why).with_hint(
                "write http:// or https://, the host and the port: --endpoint http://10.0.0.5:5000",
            )
        };
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| refuse("the URL has no scheme".to_owned()))?;
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(refuse(format!("the scheme {scheme} is not http or https"))),
        };
        if rest.contains('@') {
            return Err(refuse("credentials in a URL are not supported".to_owned()));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let registry: Registry = host.parse().map_err(|error: Error| refuse(error.message().to_owned()))?;
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() {
            None
        } else {
            Some(path.parse().map_err(|error: Error| refuse(error.message().to_owned()))?)
        };
        Ok(Self { is_https, registry, prefix })
    }
}

impl fmt::Display for MirrorEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base())?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_scheme_host_and_prefix() {
        for (text, shown, prefix) in [
            ("http://10.0.0.5:5000", "http://10.0.0.5:5000", "quay.io"),
            ("https://mirror.lan/", "https://mirror.lan", "quay.io"),
            ("https://Mirror.lan/edge/a", "https://mirror.lan/edge/a", "edge/a/quay.io"),
            ("http://[::1]:5000", "http://[::1]:5000", "quay.io"),
        ] {
            let endpoint: MirrorEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.repository_prefix("quay.io"), prefix);
        }
    }

    #[test]
    fn invalid_endpoints_are_refused() {
        for text in [
            "10.0.0.5:5000",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/B",
            "http://a/../b",
            "http://a?b",
            "http://a b",
            "http://a:x",
            "http://a\n",
        ] {
            assert_eq!(text.parse::<MirrorEndpoint>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
