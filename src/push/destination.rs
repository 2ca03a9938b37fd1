//! The destination of a push.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Registry, Repository};
use std::fmt;
use std::str::FromStr;

/// A registry and an optional prefix for repository names: `registry.lan:5000/mirror`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The registry.
    pub registry: Registry,
    /// The prefix of repository names, without a trailing slash.
    pub prefix: Option<Repository>,
}

impl Destination {
    /// The destination's name for the tree's `repository`.
    ///
    /// # Errors
    /// `InvalidInput` if the name becomes too long.
    pub fn repository(&self, repository: &Repository) -> Result<Repository> {
        match &self.prefix {
            Some(prefix) => format!("{prefix}/{repository}").parse(),
            None => Ok(repository.clone()),
        }
    }
}

impl FromStr for Destination {
    type Err = Error;

    /// Parses `REGISTRY[/PREFIX]`. Unlike in an image name, the first component is always the registry.
    fn from_str(text: &str) -> Result<Self> {
        let subject = || format!("destination {:?}", crate::oci::reference::without_credentials(text));
        let refuse = |why: &str| {
            Error::new(ErrorKind::InvalidInput, subject(), why).with_hint(
                "name the registry to push to, such as registry.example:5000 or registry.example/project",
            )
        };
        let name = text.strip_prefix("docker://").unwrap_or(text).trim_end_matches('/');
        if name.contains("://") {
            return Err(refuse("a registry is written without a scheme; use --plain-http for plain HTTP"));
        }
        let (registry, prefix) = match name.split_once('/') {
            Some((registry, prefix)) => (registry, Some(prefix)),
            None => (name, None),
        };
        let invalid = |error: Error| refuse(error.message());
        let registry: Registry = registry.parse().map_err(invalid)?;
        let prefix = prefix.map(str::parse).transpose().map_err(invalid)?;
        Ok(Self { registry, prefix })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.registry),
            None => self.registry.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_is_registry_and_optional_prefix() {
        for (text, expect) in [
            ("r.io", Some("r.io a/b")),
            ("r.io:5000/", Some("r.io:5000 a/b")),
            ("localhost/team/x", Some("localhost team/x/a/b")),
            ("docker://[::1]:5000/p", Some("[::1]:5000 p/a/b")),
            ("docker.io/ann", Some("docker.io ann/a/b")),
            ("https://r.io", None),
            ("", None),
            ("r.io/UPPER", None),
            ("ann:pw@r.io/x", None),
        ] {
            let read = text.parse::<Destination>();
            let at = |to: &Destination| {
                format!("{} {}", to.registry, to.repository(&"a/b".parse().unwrap()).unwrap())
            };
            assert_eq!(read.as_ref().ok().map(at).as_deref(), expect, "{text}");
            if let Err(error) = read {
                assert!(!format!("{error} {:?}", error.hint()).contains("pw@"), "{error}");
            }
        }
        let long: Repository = "a".repeat(250).parse().unwrap();
        assert!("r.io/prefix".parse::<Destination>().unwrap().repository(&long).is_err());
    }
}
