//! Image names in Docker's normal form (the grammar of distribution/reference and OCI
//! distribution-spec "Pulling manifests").

use super::digest::Digest;
use super::name::{Registry, Repository, Tag, invalid};
use crate::error::{Error, ErrorKind, Result};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A full image name: `registry/repository:tag@digest`, with a tag, a digest or both.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// The registry.
    pub registry: Registry,
    /// The repository.
    pub repository: Repository,
    /// The tag. `latest` is the default if there is neither tag nor digest.
    pub tag: Option<Tag>,
    /// The digest that pins it.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses a name in Docker's normal form, optionally prefixed with `docker://` or `oci://`.
    ///
    /// A name without a domain belongs to Docker Hub; without a slash it is an official image there (`library/`). The first
    /// component is a domain if it contains a dot or a port, or is `localhost`.
    ///
    /// # Errors
    /// `InvalidInput`, naming the invalid part and the reason.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_in(text, None)
    }

    /// As [`Reference::parse`], but a name without a domain belongs to `home`.
    ///
    /// # Errors
    /// As [`Reference::parse`].
    pub fn parse_in(text: &str, home: Option<&Registry>) -> Result<Self> {
        Self::read(text, home).map_err(|error| {
            let wrapped =
                Error::new(error.kind(), format!("{:?}", without_credentials(text)), error.to_string());
            match error.hint() {
                Some(hint) => wrapped.with_hint(hint),
                None => wrapped,
            }
        })
    }

    /// Whether `text`, a valid name, contains a tag; if it has no digest either, [`parse`](Self::parse) adds `latest`.
    #[must_use]
    pub fn has_written_tag(text: &str) -> bool {
        let name = text.split_once('@').map_or(text, |(name, _)| name);
        // A colon before the last slash belongs to a port.
        name.rsplit('/').next().is_some_and(|last| last.contains(':'))
    }

    fn read(text: &str, home: Option<&Registry>) -> Result<Self> {
        let name =
            ["docker://", "oci://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        if matches!(without_credentials(name), Cow::Owned(_)) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "credentials",
                "they do not belong in an image's name",
            )
            .with_hint(
                "use docker login, --username with --password-stdin, or a YAML list with credentials",
            ));
        }
        if let Some((scheme, _)) = name.split_once("://") {
            return Err(invalid(
                format!("scheme {scheme:?}"),
                "a name starts with docker://, oci:// or the registry itself",
            ));
        }
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (name, None),
        };
        let (domain, rest) = split_domain(name)?;
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.parse::<Tag>()?)),
            None => (rest, None),
        };
        let registry = match (domain, home) {
            (Some(domain), _) => domain.parse()?,
            (None, Some(home)) if !is_domain(home.as_str()) => {
                let why = format!("without a dot or a port it reads as a part of a name: write {home}:443");
                return Err(invalid(format!("registry {home:?}"), why));
            }
            (None, Some(home)) => home.clone(),
            (None, None) => Registry::docker_hub(),
        };
        let mut repository: Repository = path.parse()?;
        if registry.is_docker_hub() && !path.contains('/') {
            repository = format!("library/{path}").parse()?;
        }
        let tag = tag.or_else(|| digest.is_none().then(Tag::latest));
        Ok(Self { registry, repository, tag, digest })
    }
}

/// `text` for messages, without credentials (`user:password@host/name`). A digest, which may also follow an `@`, contains no
/// slash.
pub(crate) fn without_credentials(text: &str) -> Cow<'_, str> {
    let Some(at) = text.rfind('@').filter(|at| text[*at..].contains('/')) else { return Cow::Borrowed(text) };
    let scheme = text[..at].find("://").map_or(0, |end| end + 3);
    Cow::Owned(format!("{}***{}", &text[..scheme], &text[at..]))
}

/// Whether the first component of a name is a domain, by Docker's rule.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// Splits off the first component if it is a domain.
fn split_domain(name: &str) -> Result<(Option<&str>, &str)> {
    if name.starts_with('[') {
        let end = name
            .find(']')
            .ok_or_else(|| invalid(format!("registry {name:?}"), "an IPv6 address ends with ]"))?;
        let slash = name[end..]
            .find('/')
            .ok_or_else(|| invalid(format!("name {name:?}"), "a repository must follow the registry"))?;
        return Ok((Some(&name[..end + slash]), &name[end + slash + 1..]));
    }
    match name.split_once('/') {
        Some((first, rest)) if is_domain(first) => Ok((Some(first), rest)),
        _ => Ok((None, name)),
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port_and_a_digest() {
        let digest = Digest::of(b"x");
        for (text, expected) in [
            ("a", false),
            ("a:1", true),
            ("localhost:5000/a", false),
            ("localhost:5000/a:1", true),
            ("[::1]:5000/a", false),
            (&format!("a@{digest}"), false),
            (&format!("r.io:5000/b/a:1@{digest}"), true),
        ] {
            assert!(Reference::parse(text).is_ok(), "{text}");
            assert_eq!(Reference::has_written_tag(text), expected, "{text}");
        }
    }

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_docker_s_normal_form() {
        let pinned = format!("quay.io/a/b:v1@sha256:{HEX}");
        let by_digest = format!("a@sha256:{HEX}");
        let by_digest_full = format!("docker.io/library/a@sha256:{HEX}");
        for (text, expect) in [
            ("ubuntu", "docker.io/library/ubuntu:latest"),
            ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
            ("docker:dind", "docker.io/library/docker:dind"),
            ("docker://docker:dind", "docker.io/library/docker:dind"),
            ("oci://ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("rancher/k3s:v1", "docker.io/rancher/k3s:v1"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/bitnami/mysql", "docker.io/bitnami/mysql:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/helm-charts/mysql:8.8.19", "localhost:5000/helm-charts/mysql:8.8.19"),
            ("Registry.K8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("registry.k8s.io/coredns/coredns:v1.11.1", "registry.k8s.io/coredns/coredns:v1.11.1"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("[2001:db8::1]/a", "[2001:db8::1]/a:latest"),
            ("127.0.0.1:5000/a__b/c--d.e", "127.0.0.1:5000/a__b/c--d.e:latest"),
            (&pinned, &pinned),
            (&by_digest, &by_digest_full),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        let long = "a".repeat(256);
        for (text, reason) in [
            ("", "empty"),
            ("Ubuntu", "lower case"),
            ("Foo/bar", "lower case"),
            ("ghcr.io/Foo/bar", "lower case"),
            ("a b", "blank"),
            ("a:", "tag is empty"),
            ("a:v1+build", "can't hold +"),
            ("a:-x", "starts with"),
            ("a@sha256:12", "64 hex"),
            ("a@md5:12", "algorithm"),
            ("a//b", "empty"),
            ("a/../b", "separator"),
            ("a/b/", "empty"),
            ("a..b", "in a row"),
            ("a.io:99999/b", "port"),
            ("a.io:x/b", "port"),
            ("-a.io/b", "host name"),
            ("[::1/a", "ends with ]"),
            ("[zz::]/a", "IPv6"),
            ("http://a.io/b", "scheme"),
            ("{{ .Values.image }}", "character other"),
            (long.as_str(), "255"),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert_eq!(error.kind() == ErrorKind::InvalidInput, !text.contains("md5"), "{text}");
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn credentials_in_a_name_are_refused_and_not_repeated() {
        for text in [
            "reader:S3cr3t!x@127.0.0.1:5602/demo/app:1.0",
            "docker://reader:S3cr3t@x@r.io/a",
            "https://reader:S3cr3t@r.io/a:b",
            "reader:S3cr3t/y@r.io/a@sha256:12/",
        ] {
            let error = Reference::parse(text).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("do not belong in an image's name") && !text.contains("S3cr3t"), "{text}");
            assert!(error.hint().unwrap().contains("docker login"));
        }
    }

    #[test]
    fn what_parses_prints_as_what_parses_to_the_same() {
        // Found by fuzzing: `library/` made a long name too long, and a home of one word became a component of the name.
        let long = "a".repeat(250);
        assert!(Reference::parse(&long).unwrap_err().to_string().contains("255"));
        let home: Registry = "harbor".parse().unwrap();
        let error = Reference::parse_in("demo/app:1", Some(&home)).unwrap_err();
        assert!(error.to_string().contains("harbor:443"), "{error}");
    }

    #[test]
    fn a_bare_name_belongs_to_its_home() {
        let home = "harbor.local:5000".parse().unwrap();
        let name = Reference::parse_in("mysql:8", Some(&home)).unwrap();
        assert_eq!(name.to_string(), "harbor.local:5000/mysql:8");
    }
}
