//! What clients call images.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Registry, Repository};
use crate::save::NameRule;

/// The forms of the name before the real one: `docker:nginx:latest`, `harbor:HOST:PORT/path/name:tag`.
const KINDS: [&str; 2] = ["docker:", "harbor:"];

/// The longest name that is looked at, in bytes: more than a host, a repository, a tag and a digest have together.
const MAX_NAME: usize = 1024;

/// Reads an image's name: Docker's normal form, or one that begins with the kind of its registry. Where it can be read
/// both ways (`docker:dind`), Docker's form is meant. Of a tag and a digest the digest decides, and the tag is left out.
///
/// # Errors
/// `InvalidInput` for what is no name, or one that the tree could not give back.
pub(super) fn parse(text: &str) -> Result<Reference> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "image", "the name is empty"));
    }
    if text.len() > MAX_NAME {
        let why = format!("a name of {} characters: none is longer than {MAX_NAME}", text.len());
        return Err(Error::new(ErrorKind::InvalidInput, "image", why));
    }
    let mut reference = Reference::parse(text).or_else(|error| {
        KINDS.iter().find_map(|kind| of_kind(kind, text.strip_prefix(kind)?)).unwrap_or(Err(error))
    })?;
    if reference.digest.is_some() {
        reference.tag = None;
    }
    let place = NameRule::Domain.place(&reference)?;
    let back = NameRule::origin(&place.repository);
    // An address in brackets may be written in several ways.
    let literal = reference.registry.as_str().starts_with('[');
    let same = |(registry, repository): &(Registry, Repository)| {
        *registry == reference.registry && *repository == reference.repository
    };
    match back {
        Some(back) if literal || same(&back) => Ok(Reference { registry: back.0, ..reference }),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            &reference,
            "its registry's name can't be told from another's in the tree",
        )
        .with_hint("name a host without _, with a dot or a port")),
    }
}

fn of_kind(kind: &str, name: &str) -> Option<Result<Reference>> {
    if kind == "docker:" {
        return Some(Reference::parse(name));
    }
    let (host, path) = name.split_once('/')?;
    // What stands there is a host, whether it looks like one or not.
    Some(host.parse::<Registry>().and_then(|home| {
        if path.split('/').next().is_some_and(|first| first.contains(['.', ':'])) && path.contains('/') {
            return Reference::parse(name);
        }
        Reference::parse_in(path, Some(&home))
    }))
}

/// The full name of a repository of the tree. One that has no domain in front, as `saver save` leaves them, is taken for Docker Hub's.
pub(super) fn full(repository: &Repository) -> (String, Rank) {
    if let Some((registry, repository)) = NameRule::origin(repository) {
        return (format!("{registry}/{repository}"), Rank::Domain);
    }
    match repository.as_str().contains('/') {
        true => (format!("docker.io/{repository}"), Rank::Stripped),
        false => (format!("docker.io/library/{repository}"), Rank::Short),
    }
}

/// The repositories of a tree that may have an image of this name: those whose [`full`] name is the reference's.
pub(super) fn places(reference: &Reference) -> Vec<Repository> {
    let own = NameRule::Domain.place(reference).ok().map(|place| place.repository);
    let hub = (reference.registry.as_str() == "docker.io").then(|| reference.repository.clone());
    let short = hub.as_ref().and_then(|name| name.as_str().strip_prefix("library/")?.parse().ok());
    let whole = format!("{}/{}", reference.registry, reference.repository);
    let all = [own, hub, short].into_iter().flatten();
    all.filter(|repository| full(repository).0 == whole).collect()
}

/// Which of several repositories with one full name has it: the one that says most of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// `docker.io/library/nginx`.
    Domain,
    /// `library/nginx`.
    Stripped,
    /// `nginx`.
    Short,
}

/// How many digits the beginning of an id must have to be taken for one: fewer are some image's too soon, and a name is meant.
const MIN_ID: usize = 4;

/// An image's id, or the beginning of one, with or without the algorithm: its hex digits.
pub(super) fn id(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    ((MIN_ID..=64).contains(&hex.len()) && hex.bytes().all(is_hex)).then_some(hex)
}

/// A whole id, which is never a name.
pub(super) fn whole_id(text: &str) -> Option<Digest> {
    id(text).and_then(|hex| Digest::from_hex(hex).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_every_form() {
        let hex = "0".repeat(64);
        let pinned = format!("quay.io/a/b:v1@sha256:{hex}");
        let digest = format!("quay.io/a/b@sha256:{hex}");
        for (text, expect) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("docker:nginx:latest", "docker.io/library/nginx:latest"),
            ("docker:dind", "docker.io/library/docker:dind"),
            ("docker:bitnami/mysql:8", "docker.io/bitnami/mysql:8"),
            ("docker:quay.io/a/b:v1", "quay.io/a/b:v1"),
            ("harbor:10.0.0.1:5000/path/name:tag", "10.0.0.1:5000/path/name:tag"),
            ("harbor:reg.local/path/name:tag", "reg.local/path/name:tag"),
            ("harbor:localhost:5000/path/deep/name", "localhost:5000/path/deep/name:latest"),
            ("harbor:5000/name", "harbor:5000/name:latest"),
            ("[2001:db8::1]:5000/a:v1", "[2001:db8::1]:5000/a:v1"),
            ("[::1]/a:v1", "[::1]/a:v1"),
            (&pinned, &digest),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), expect, "{text}");
        }
        for bad in [
            "",
            "UP",
            "harbor:nodot/a/b:c",
            "harbor:a_b.io_5000/x:1",
            "a.b_5000/x",
            "docker:",
            "harbor:/x",
            &"a".repeat(2000),
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn a_repository_s_full_name() {
        for (repository, full_name, rank) in [
            ("docker.io/library/nginx", "docker.io/library/nginx", Rank::Domain),
            ("localhost_5000/a/b", "localhost:5000/a/b", Rank::Domain),
            ("localhost/a", "localhost/a", Rank::Domain),
            ("library/nginx", "docker.io/library/nginx", Rank::Stripped),
            ("cilium/cilium", "docker.io/cilium/cilium", Rank::Stripped),
            ("nginx", "docker.io/library/nginx", Rank::Short),
        ] {
            assert_eq!(full(&repository.parse().unwrap()), (full_name.to_owned(), rank));
        }
    }

    #[test]
    fn where_a_name_may_stand() {
        for (name, expect) in [
            ("nginx", &["docker.io/library/nginx", "library/nginx", "nginx"][..]),
            ("a/b", &["docker.io/a/b", "a/b"]),
            ("localhost:5000/a", &["localhost_5000/a"]),
            ("quay.io/library/a", &["quay.io/library/a"]),
        ] {
            let places = places(&parse(name).unwrap());
            assert_eq!(places.iter().map(Repository::as_str).collect::<Vec<_>>(), expect, "{name}");
        }
    }

    #[test]
    fn what_may_be_an_id() {
        for (text, expect) in [
            ("sha256:0a1b", Some("0a1b")),
            ("sha256:0a1", None),
            ("0a1", None),
            ("0a1b", Some("0a1b")),
            ("0A", None),
            ("nginx", None),
            ("", None),
            ("sha256:", None),
        ] {
            assert_eq!(id(text), expect, "{text}");
        }
    }
}
