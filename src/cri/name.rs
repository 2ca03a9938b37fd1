//! Image names and ids in the forms that CRI clients use.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Registry, Repository};
use crate::save::NameRule;

/// Prefixes that name the kind of registry: `docker:nginx:latest`, `harbor:HOST:PORT/path/name:tag`.
const KINDS: [&str; 2] = ["docker:", "harbor:"];

/// The longest name that is parsed, in bytes: more than a host, a repository, a tag and a digest together can have.
const MAX_NAME: usize = 1024;

/// Parses an image name: a Docker reference, or one with a registry kind in front. Text that is both (`docker:dind`) is a
/// Docker reference. If the name has a tag and a digest, the tag is dropped.
///
/// # Errors
/// `InvalidInput` for text that is not a name, and for a name that cannot be recovered from its place in the tree.
pub(super) fn parse(text: &str) -> Result<Reference> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "image", "the image name is empty"));
    }
    if text.len() > MAX_NAME {
        let why = format!("the name has {} characters, more than the maximum of {MAX_NAME}", text.len());
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
    // An IPv6 address can be written in several ways.
    let literal = reference.registry.as_str().starts_with('[');
    let same = |(registry, repository): &(Registry, Repository)| {
        *registry == reference.registry && *repository == reference.repository
    };
    match back {
        Some(back) if literal || same(&back) => Ok(Reference { registry: back.0, ..reference }),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            &reference,
            "the registry's name is ambiguous in the directory",
        )
        .with_hint("use a host name with a dot or a port, and without '_'")),
    }
}

fn of_kind(kind: &str, name: &str) -> Option<Result<Reference>> {
    if kind == "docker:" {
        return Some(Reference::parse(name));
    }
    let (host, path) = name.split_once('/')?;
    // The part before the slash is a host even if it has neither a dot nor a port.
    Some(host.parse::<Registry>().and_then(|home| {
        if path.split('/').next().is_some_and(|first| first.contains(['.', ':'])) && path.contains('/') {
            return Reference::parse(name);
        }
        Reference::parse_in(path, Some(&home))
    }))
}

/// The full name of a repository of the tree. One without a domain, as `saver save` writes by default, is taken to be Docker
/// Hub's.
pub(super) fn full(repository: &Repository) -> (String, NameForm) {
    if let Some((registry, repository)) = NameRule::origin(repository) {
        (format!("{registry}/{repository}"), NameForm::Domain)
    } else if repository.as_str().contains('/') {
        (format!("docker.io/{repository}"), NameForm::Path)
    } else {
        (format!("docker.io/library/{repository}"), NameForm::Short)
    }
}

/// The repositories of a tree whose [`full`] name is the reference's.
pub(super) fn places(reference: &Reference) -> Vec<Repository> {
    let own = NameRule::Domain.place(reference).ok().map(|place| place.repository);
    let hub = (reference.registry.as_str() == "docker.io").then(|| reference.repository.clone());
    let short = hub.as_ref().and_then(|name| name.as_str().strip_prefix("library/")?.parse().ok());
    let whole = format!("{}/{}", reference.registry, reference.repository);
    let all = [own, hub, short].into_iter().flatten();
    all.filter(|repository| full(repository).0 == whole).collect()
}

/// How much of an image's full name its repository in the tree has; the fullest form comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NameForm {
    /// `docker.io/library/nginx`.
    Domain,
    /// `library/nginx`.
    Path,
    /// `nginx`.
    Short,
}

/// The fewest hex digits of an id prefix. Shorter text is taken for a name.
const MIN_ID: usize = 4;

/// The hex digits of an image id or a prefix of one, with or without `sha256:`.
pub(super) fn id_prefix(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    ((MIN_ID..=64).contains(&hex.len()) && hex.bytes().all(is_hex)).then_some(hex)
}

/// A complete image id, which is never a name.
pub(super) fn whole_id(text: &str) -> Option<Digest> {
    id_prefix(text).and_then(|hex| Digest::from_hex(hex).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_every_name_form() {
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
    fn repository_full_name() {
        for (repository, full_name, rank) in [
            ("docker.io/library/nginx", "docker.io/library/nginx", NameForm::Domain),
            ("localhost_5000/a/b", "localhost:5000/a/b", NameForm::Domain),
            ("localhost/a", "localhost/a", NameForm::Domain),
            ("library/nginx", "docker.io/library/nginx", NameForm::Path),
            ("cilium/cilium", "docker.io/cilium/cilium", NameForm::Path),
            ("nginx", "docker.io/library/nginx", NameForm::Short),
        ] {
            assert_eq!(full(&repository.parse().unwrap()), (full_name.to_owned(), rank));
        }
    }

    #[test]
    fn name_repositories_in_tree() {
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
    fn id_prefix_forms() {
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
            assert_eq!(id_prefix(text), expect, "{text}");
        }
    }
}
