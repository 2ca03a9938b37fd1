//! The components of an image name: registry, repository, tag (the grammar of distribution/reference and OCI
//! distribution-spec "Pulling manifests").

use super::Digest;
use crate::error::{Error, ErrorKind, Result};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The registry of names without a domain.
pub const DOCKER_HUB: &str = "docker.io";
/// The prefix of the tags of referrers.
pub const REFERRERS_TAG_PREFIX: &str = "sha256-";

pub(super) fn invalid(subject: impl fmt::Display, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, subject, why)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name_type! {
    /// A registry's domain with its port if it has one: `docker.io`, `localhost:5000`, `[::1]:5000`. Lower case.
    Registry
}

name_type! {
    /// A repository's name within a registry: `library/nginx`.
    Repository
}

name_type! {
    /// A tag: at most 128 of `[A-Za-z0-9_.-]`, not starting with `.` or `-`.
    Tag
}

impl Registry {
    /// Docker Hub.
    #[must_use]
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.into())
    }

    /// Whether this is Docker Hub.
    #[must_use]
    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER_HUB
    }

    /// The host name or address, without a port and without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        if let Some(rest) = self.0.strip_prefix('[') {
            return rest.split(']').next().unwrap_or(rest);
        }
        self.0.split(':').next().unwrap_or(&self.0)
    }

    /// Whether the host is the loopback interface: `localhost`, 127.0.0.0/8 or ::1.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Registry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown = text.rsplit_once('@').map(|(_, host)| format!("***@{host}"));
        let refuse = |why: &str| invalid(format!("registry {:?}", shown.as_deref().unwrap_or(text)), why);
        let lower = text.to_ascii_lowercase();
        let (host, port) = if let Some(rest) = lower.strip_prefix('[') {
            let (address, rest) =
                rest.split_once(']').ok_or_else(|| refuse("an IPv6 address ends with ]"))?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| refuse("not an IPv6 address between [ and ]"))?;
            (
                None,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(|| refuse("after ] only a port may follow"))?)
                },
            )
        } else {
            match lower.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(lower.as_str()), None),
            }
        };
        if let Some(host) = host {
            let good = |label: &str| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if host.len() > 253 || !host.split('.').all(good) {
                return Err(refuse("a host name has letters, digits and - between its dots"));
            }
        }
        if port.is_some_and(|port| {
            port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err()
        }) {
            return Err(refuse("the port must be a number up to 65535"));
        }
        Ok(match lower.as_str() {
            "index.docker.io" | "registry-1.docker.io" => Self::docker_hub(),
            _ => Self(lower.into()),
        })
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: String| invalid(format!("repository {text:?}"), why);
        if text.is_empty() {
            return Err(refuse("the name is empty".into()));
        }
        if text.len() > 255 {
            return Err(refuse("a name has at most 255 characters".into()));
        }
        let lower = text.to_ascii_lowercase();
        for component in lower.split('/') {
            check_component(component).map_err(|why| refuse(format!("the part {component:?} {why}")))?;
        }
        if lower != text {
            return Err(refuse(format!("a name must be lower case: {lower}")));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn check_component(component: &str) -> std::result::Result<(), &'static str> {
    if component.is_empty() {
        return Err("is empty");
    }
    let separator = |b: u8| matches!(b, b'.' | b'_' | b'-');
    if let Some(bad) = component
        .chars()
        .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')))
    {
        return Err(if bad.is_whitespace() {
            "has a blank in it"
        } else {
            "has a character other than a-z 0-9 . _ -"
        });
    }
    let bytes = component.as_bytes();
    if separator(bytes[0]) || separator(bytes[bytes.len() - 1]) {
        return Err("starts or ends with a separator");
    }
    for run in component.split(|c: char| c.is_ascii_alphanumeric()).filter(|run| !run.is_empty()) {
        if !(matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-')) {
            return Err("has separators in a row other than __ or dashes");
        }
    }
    Ok(())
}

impl Repository {
    /// Docker Hub's name for the official image `name`, if this is one: `mysql` for `library/mysql`.
    #[must_use]
    pub fn official_name(&self) -> Option<Self> {
        self.0.strip_prefix("library/").filter(|name| !name.contains('/')).map(|name| Self(name.into()))
    }
}

impl Tag {
    /// The default tag.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".into())
    }

    /// The tag that lists the referrers of `subject` where the referrers API is missing: `sha256-<hex>` (OCI
    /// distribution-spec, "Referrers Tag Schema").
    #[must_use]
    pub fn referrers(subject: &Digest) -> Self {
        Self::of_referrers(subject, "")
    }

    /// The tag of what refers to `subject`: `sha256-<hex>` and a suffix of letters after a dot, or none.
    pub(super) fn of_referrers(subject: &Digest, suffix: &'static str) -> Self {
        Self(format!("{}{}{suffix}", REFERRERS_TAG_PREFIX, subject.hex()).into())
    }

    /// The digest that a tag of the referrers tag schema refers to: `sha256-<hex>`, or that with a suffix, as cosign
    /// writes it (`sha256-<hex>.sig`).
    #[must_use]
    pub fn referrers_subject(&self) -> Option<Digest> {
        let (hex, suffix) = self.0.strip_prefix(REFERRERS_TAG_PREFIX)?.split_at_checked(64)?;
        let is_separated = suffix.is_empty() || suffix.starts_with(['.', '-', '_']);
        is_separated.then(|| Digest::from_hex(hex).ok()).flatten()
    }

    /// Whether this is the tag of signatures or other referrers of a manifest, and not that of an image.
    #[must_use]
    pub fn is_of_referrers(&self) -> bool {
        self.referrers_subject().is_some()
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| invalid(format!("tag {text:?}"), why);
        if text.is_empty() {
            return Err(refuse("the tag is empty"));
        }
        if text.len() > 128 {
            return Err(refuse("a tag has at most 128 characters"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return Err(if text.contains('+') {
                refuse("a tag can't hold +")
                    .with_hint(format!("Helm writes a version's + as _: {}", text.replace('+', "_")))
            } else {
                refuse("a tag has only letters, digits and _ . -")
            });
        }
        if text.starts_with(['.', '-']) {
            return Err(refuse("a tag starts with a letter, a digit or _"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_loopback_and_official_names() {
        for (registry, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.9.9.9:1", true),
            ("[::1]:5", true),
            ("localhost.evil.com", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(registry.parse::<Registry>().unwrap().is_loopback(), loopback, "{registry}");
        }
        let official =
            |name: &str| name.parse::<Repository>().unwrap().official_name().map(|name| name.to_string());
        assert_eq!(official("library/mysql").as_deref(), Some("mysql"));
        assert_eq!(official("library/a/b"), None);
        assert_eq!(official("bitnami/mysql"), None);
    }

    #[test]
    fn referrers_tags_name_their_subject() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        for (tag, has_subject) in [
            (Tag::referrers(&digest).to_string(), true),
            (format!("sha256-{hex}.sig"), true),
            (format!("sha256-{hex}.att"), true),
            (format!("sha256-{hex}0"), false),
            (format!("sha256-{}", &hex[..63]), false),
            (format!("sha512-{hex}"), false),
            ("v1".into(), false),
        ] {
            let subject = tag.parse::<Tag>().unwrap().referrers_subject();
            assert_eq!(subject, has_subject.then_some(digest), "{tag}");
        }
    }
}
