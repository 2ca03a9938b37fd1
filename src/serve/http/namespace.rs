//! The upstream registry of a request: containerd adds `?ns=HOST` to every request that it sends to a mirror.
//!
//! The host is a lookup key among the directory's repositories. It is never connected to.

use super::error::ApiError;
use crate::oci::{Reference, Registry, Repository};
use crate::save::NameRule;
use crate::store::Store;

/// The hosts of Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The value of `ns` in a request's query.
pub(super) fn of_query(query: Option<&str>) -> Option<String> {
    let query = query.filter(|query| query.contains("ns="))?;
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, value)| key == "ns" && !value.is_empty()).map(|(_, value)| value.into_owned())
}

/// The repository of the tree that has `repository` of the registry `host`: the one under the host's name, or, in a directory
/// whose names have no host, the one of that name.
///
/// # Errors
/// `NAME_UNKNOWN` if there is neither, or if `host` is not a host name.
pub(super) fn locate(store: &Store, host: &str, repository: &Repository) -> Result<Repository, ApiError> {
    let unknown = || ApiError::name_unknown(format!("{host}/{repository}"));
    let host = if DOCKER_HUB.contains(&host) { "docker.io" } else { host };
    let registry: Registry = host.parse().map_err(|_| unknown())?;
    let reference = Reference { registry, repository: repository.clone(), tag: None, digest: None };
    let with_host = NameRule::Domain.place(&reference).map(|place| place.repository);
    // A name that starts with a host belongs to that host, and not to another one in the query. A mirror with `override_path`
    // requests such names.
    let origin = NameRule::origin(repository);
    let is_of_host = origin.is_none_or(|(registry, _)| registry == reference.registry);
    let without_host = is_of_host.then(|| repository.clone());
    for candidate in with_host.into_iter().chain(without_host) {
        if store.has_repository(&candidate).map_err(|error| ApiError::of_store(&error))? {
            return Ok(candidate);
        }
    }
    Err(unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ns_is_read_from_the_query() {
        for (query, expected) in [
            (None, None),
            (Some(""), None),
            (Some("ns="), None),
            (Some("xns=a.io"), None),
            (Some("ns=docker.io"), Some("docker.io")),
            (Some("n=2&ns=localhost%3A5000"), Some("localhost:5000")),
            (Some("ns=a.io&ns=b.io"), Some("a.io")),
        ] {
            assert_eq!(of_query(query).as_deref(), expected, "{query:?}");
        }
    }
}
