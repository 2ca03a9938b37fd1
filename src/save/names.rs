//! Names of images in the tree.

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Registry, Repository};
use crate::store::provenance::names_conflict;
use crate::store::{Durability, Store, StoreOptions};
use std::net::Ipv6Addr;
use std::path::Path;
use std::str::FromStr;

const WHERE_TO_LOOK: &str = "saver ls --dir DIR lists the images";

/// How the name of an image at its registry becomes its name in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameRule {
    /// The name without its domain: `quay.io/cilium/cilium` is `cilium/cilium`. Docker Hub's official images also get their short
    /// name: `library/mysql` and `mysql`.
    #[default]
    Strip,
    /// The name with its domain: `docker.io/library/nginx`. A port's colon becomes `_`, and IPv6 addresses are written with all
    /// groups, separated by `__`. [`NameRule::origin`] reverses it.
    Domain,
    /// A template with `{domain}`, `{repository}` and `{tag}`; what follows a colon in it is the tag.
    Template(String),
}

impl FromStr for NameRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "strip" => Ok(Self::Strip),
            "domain" => Ok(Self::Domain),
            template if template.contains("{repository}") => {
                let rule = Self::Template(template.to_owned());
                let sample = Reference::parse("registry.example:5000/team/app:v1")?;
                rule.place(&sample).map(|_| rule)
            }
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("name rule {text:?}"),
                "expected strip, domain, or a template with {repository} in it",
            )
            .with_hint("for example --names 'mirror/{domain}/{repository}'")),
        }
    }
}

impl std::fmt::Display for NameRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Strip => "strip",
            Self::Domain => "domain",
            Self::Template(template) => template,
        })
    }
}

impl NameRule {
    /// The rule of the tree in `store`: the one recorded there, else `requested`, else the default. A tree without images takes any.
    ///
    /// # Errors
    /// `InvalidInput` if another rule is requested than the tree was saved with; `Storage` if the tree cannot be read.
    pub fn of(store: &Store, requested: Option<&Self>) -> Result<Self> {
        let recorded = store.recorded_names()?;
        let recorded: Option<Self> = recorded.and_then(|text| text.parse().ok());
        match (recorded, requested) {
            (Some(recorded), None) => Ok(recorded),
            (Some(recorded), Some(requested)) if recorded != *requested => {
                if store.repositories()?.is_empty() {
                    return Ok(requested.clone());
                }
                Err(names_conflict(&recorded.to_string(), &requested.to_string()))
            }
            (_, requested) => Ok(requested.cloned().unwrap_or_default()),
        }
    }

    /// Opens or creates `dir` to store images in it, and returns it with the rule of names in it.
    ///
    /// # Errors
    /// `Storage` if it cannot be created or opened; otherwise as [`NameRule::of`].
    pub(crate) fn open_store(
        dir: &Path,
        requested: Option<&Self>,
        durability: Durability,
        replace: bool,
    ) -> Result<(Store, Self)> {
        let store = Store::open(dir, StoreOptions::default())?;
        let names = Self::of(&store, requested)?;
        let options =
            StoreOptions { durability, names: Some(names.to_string()), replace, ..StoreOptions::default() };
        Ok((store.with_options(options), names))
    }

    /// The place of `reference`.
    ///
    /// # Errors
    /// `InvalidInput` if the template gives an invalid name, or needs a tag that the reference does not have.
    pub fn place(&self, reference: &Reference) -> Result<Place> {
        let (repository, tag) = (&reference.repository, &reference.tag);
        let named = |name: &str| name.parse::<Repository>().map_err(|error| unusable(reference, &error));
        match self {
            Self::Strip => Ok(Place { repository: repository.clone(), tag: tag.clone() }),
            Self::Domain => {
                let repository = named(&format!("{}/{repository}", folder(&reference.registry)))?;
                Ok(Place { repository, tag: tag.clone() })
            }
            Self::Template(template) => {
                let mut text = template
                    .replace("{domain}", &folder(&reference.registry))
                    .replace("{repository}", repository.as_str());
                if text.contains("{tag}") {
                    let Some(tag) = tag else {
                        let message = "the name template contains {tag}, and this image has no tag";
                        return Err(Error::new(ErrorKind::InvalidInput, reference, message));
                    };
                    text = text.replace("{tag}", tag.as_str());
                }
                let (name, own) = match text.rsplit_once(':') {
                    Some((name, own)) => {
                        (name, Some(own.parse().map_err(|error| unusable(reference, &error))?))
                    }
                    None => (text.as_str(), None),
                };
                Ok(Place { repository: named(name)?, tag: own.or_else(|| tag.clone()) })
            }
        }
    }

    /// The registry and repository whose place by [`NameRule::Domain`] is `place`; `None` if it does not start with a domain.
    #[must_use]
    pub fn origin(place: &Repository) -> Option<(Registry, Repository)> {
        let (first, rest) = place.as_str().split_once('/')?;
        let port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (host, port) = match first.rsplit_once('_') {
            Some((host, number)) if port(number) && !host.ends_with('_') => (host, Some(number)),
            _ => (first, None),
        };
        let groups: Vec<&str> = host.split("__").collect();
        let host = match <[&str; 8]>::try_from(groups) {
            Ok(groups) => {
                let mut address = [0; 8];
                for (number, group) in address.iter_mut().zip(groups) {
                    *number = u16::from_str_radix(group, 16).ok()?;
                }
                format!("[{}]", Ipv6Addr::from(address))
            }
            Err(_) => host.to_owned(),
        };
        let text = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let is_domain = text == "localhost" || text.contains(['.', ':']);
        let registry: Registry = text.parse().ok().filter(|_| is_domain)?;
        (folder(&registry) == first).then_some((registry, rest.parse().ok()?))
    }

    /// What precedes the names of all repositories of `registry` in the tree, without slashes at its ends: `quay.io` for
    /// [`NameRule::Domain`], and nothing for [`NameRule::Strip`]. `None` if a template does more than that.
    #[must_use]
    pub fn prefix(&self, registry: &Registry) -> Option<String> {
        match self {
            Self::Strip => Some(String::new()),
            Self::Domain => Some(folder(registry)),
            Self::Template(template) => {
                let prefix = template.strip_suffix("{repository}")?;
                let is_prefix = !prefix.contains("{repository}") && !prefix.contains("{tag}");
                let prefix = prefix.replace("{domain}", &folder(registry));
                match prefix.strip_suffix('/') {
                    Some(prefix) if is_prefix => Some(prefix.to_owned()),
                    _ => (is_prefix && prefix.is_empty()).then(String::new),
                }
            }
        }
    }

    /// The registry and the repository there of the images in `place`, if its name contains the registry.
    #[must_use]
    pub fn original(&self, place: &Repository) -> Option<(Registry, Repository)> {
        match self {
            Self::Strip => None,
            Self::Domain => Self::origin(place),
            Self::Template(template) => {
                let before = template.strip_suffix("{domain}/{repository}")?;
                Self::origin(&place.as_str().strip_prefix(before)?.parse().ok()?)
            }
        }
    }

    /// The second place of an image, if it has one.
    #[must_use]
    pub fn alias(&self, reference: &Reference) -> Option<Place> {
        if *self != Self::Strip || !reference.registry.is_docker_hub() {
            return None;
        }
        let repository = reference.repository.official_name()?;
        Some(Place { repository, tag: reference.tag.clone() })
    }

    /// Finds `reference` in a tree: at the place that the rule gives it, at its short name, or at the name as written, which may be
    /// its name in the tree. An image that was saved from another registry than the one that `reference` names is not meant.
    ///
    /// # Errors
    /// `NotFound` if it is at none of them; `Storage` if the tree cannot be read.
    pub fn find(&self, store: &Store, reference: &Reference) -> Result<Place> {
        let mut other = None;
        for place in self.places(reference) {
            let is_stored = match (&reference.digest, &place.tag) {
                (Some(digest), _) => store.has_revision(&place.repository, digest)?,
                (None, Some(tag)) => match store.read_tag(&place.repository, tag)? {
                    Some(digest) => {
                        other = other_source(store, &place, &digest, reference)?;
                        other.is_none()
                    }
                    None => false,
                },
                (None, None) => false,
            };
            if is_stored {
                return Ok(place);
            }
        }
        if let Some((place, source)) = other {
            let message = format!("no such image in the directory: {place} comes from {source}");
            return Err(Error::new(ErrorKind::NotFound, reference, message).with_hint(WHERE_TO_LOOK));
        }
        Err(Error::new(ErrorKind::NotFound, reference, "no such image in the directory")
            .with_hint(WHERE_TO_LOOK))
    }

    /// Finds the repository of `reference` in a tree, as [`find`](Self::find) does.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; `Storage` if the tree cannot be read.
    pub fn find_repository(&self, store: &Store, reference: &Reference) -> Result<Repository> {
        for place in self.places(reference) {
            if store.has_repository(&place.repository)? {
                return Ok(place.repository);
            }
        }
        Err(Error::new(ErrorKind::NotFound, &reference.repository, "no such repository in the directory")
            .with_hint(WHERE_TO_LOOK))
    }

    /// The places where `reference` may be, the most likely first.
    fn places(&self, reference: &Reference) -> impl Iterator<Item = Place> {
        let written = Place { repository: reference.repository.clone(), tag: reference.tag.clone() };
        [self.place(reference).ok(), self.alias(reference), Some(written)].into_iter().flatten()
    }
}

/// The source of what is at `place`, if `reference` names another registry. A name without a registry, which is one of Docker Hub,
/// may be meant as the name in the tree.
fn other_source(
    store: &Store,
    place: &Place,
    digest: &Digest,
    reference: &Reference,
) -> Result<Option<(Place, Reference)>> {
    if reference.registry.is_docker_hub() {
        return Ok(None);
    }
    let source = store.source_of(place, digest)?.map(|record| record.source);
    let other = source.filter(|source| source.registry != reference.registry);
    Ok(other.map(|source| (place.clone(), source)))
}

fn unusable(reference: &Reference, error: &Error) -> Error {
    Error::new(ErrorKind::InvalidInput, reference, format!("invalid name in the directory: {error}"))
        .with_hint("change the template of --names")
}

/// A domain as a component of a repository's name, without adjacent or trailing separators.
fn folder(registry: &Registry) -> String {
    if let Ok(address) = registry.host().parse::<Ipv6Addr>() {
        let groups = address.segments().map(|group| format!("{group:x}")).join("__");
        let port = registry.as_str().rsplit_once("]:").map(|(_, port)| format!("_{port}"));
        return groups + &port.unwrap_or_default();
    }
    let parts = registry.as_str().split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-'));
    parts
        .map(|part| part.trim_matches(['.', '-']))
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_rules_give_the_documented_names() {
        for (rule, reference, expect) in [
            ("strip", "nginx", "library/nginx:latest"),
            ("strip", "quay.io/cilium/cilium:v1", "cilium/cilium:v1"),
            ("domain", "nginx", "docker.io/library/nginx:latest"),
            ("domain", "localhost:5000/a/b:v1", "localhost_5000/a/b:v1"),
            ("domain", "[::1]:5000/a:v1", "0__0__0__0__0__0__0__1_5000/a:v1"),
            ("domain", "[2001:db8::1]/a:v1", "2001__db8__0__0__0__0__0__1/a:v1"),
            ("mirror/{domain}/{repository}", "quay.io/a/b:v1", "mirror/quay.io/a/b:v1"),
            ("all/{repository}:{domain}-{tag}", "quay.io/a/b:v1", "all/a/b:quay.io-v1"),
        ] {
            let rule: NameRule = rule.parse().unwrap();
            let place = rule.place(&Reference::parse(reference).unwrap()).unwrap();
            assert_eq!(place.to_string(), expect);
        }
    }

    #[test]
    fn prefix_precedes_every_name_of_a_registry() {
        for (rule, registry, prefix, of_place) in [
            ("strip", "quay.io", Some(""), None),
            ("domain", "quay.io", Some("quay.io"), Some("quay.io")),
            ("domain", "localhost:5000", Some("localhost_5000"), Some("localhost:5000")),
            ("mirror/{domain}/{repository}", "quay.io", Some("mirror/quay.io"), Some("quay.io")),
            ("mirror/{repository}", "quay.io", Some("mirror"), None),
            ("{repository}", "quay.io", Some(""), None),
            ("x-{repository}", "quay.io", None, None),
            ("{repository}/{domain}", "quay.io", None, None),
            ("{tag}/{repository}", "quay.io", None, None),
        ] {
            let rule: NameRule = rule.parse().unwrap();
            let registry: Registry = registry.parse().unwrap();
            assert_eq!(rule.prefix(&registry).as_deref(), prefix, "{rule:?}");
            let reference = Reference::parse(&format!("{registry}/a/b:v1")).unwrap();
            let place = rule.place(&reference).unwrap().repository;
            let found = rule.original(&place).map(|(registry, _)| registry.to_string());
            assert_eq!(found.as_deref(), of_place, "{rule:?}");
        }
    }

    #[test]
    fn domain_names_are_reversible() {
        for name in [
            "docker.io/library/nginx",
            "localhost:5000/a/b",
            "localhost/a",
            "a.io/b",
            "my-host.io:443/b/c",
            "[::1]:5000/a",
            "[2001:db8::1]/a",
        ] {
            let place = NameRule::Domain.place(&Reference::parse(name).unwrap()).unwrap();
            let (registry, repository) = NameRule::origin(&place.repository).unwrap();
            assert_eq!(format!("{registry}/{repository}"), name);
        }
        for none in ["library/nginx", "nginx", "cilium/cilium", "a_b/c", "a__b/c", "1_5000x/a"] {
            assert_eq!(NameRule::origin(&none.parse().unwrap()), None, "{none}");
        }
    }

    #[test]
    fn invalid_name_rules_are_refused() {
        for bad in [
            "",
            "keep",
            "{domain}",
            "UP/{repository}",
            "a b/{repository}",
            "{repository}:",
            "{x}/{repository}",
        ] {
            assert!(bad.parse::<NameRule>().is_err(), "{bad}");
        }
        let rule: NameRule = "{repository}:{tag}".parse().unwrap();
        let pinned = format!("a@sha256:{}", "0".repeat(64));
        assert!(rule.place(&Reference::parse(&pinned).unwrap()).is_err());
    }

    #[test]
    fn only_official_images_have_an_alias() {
        let alias = |rule: NameRule, name: &str| {
            rule.alias(&Reference::parse(name).unwrap()).map(|place| place.to_string())
        };
        assert_eq!(alias(NameRule::Strip, "mysql:8").as_deref(), Some("mysql:8"));
        assert_eq!(alias(NameRule::Strip, "bitnami/mysql:8"), None);
        assert_eq!(alias(NameRule::Strip, "quay.io/library/mysql:8"), None);
        assert_eq!(alias(NameRule::Domain, "mysql:8"), None);
    }
}
