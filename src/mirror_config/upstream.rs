//! The registries of a tree, and where their images are at the mirror.

use super::MirrorOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Registry;
use crate::save::NameRule;
use crate::store::Store;
use std::collections::BTreeSet;

/// A registry that is redirected.
pub(super) struct Upstream {
    pub(super) registry: Registry,
    /// What precedes the names of its repositories at the mirror, without slashes at its ends; empty if they are the same.
    pub(super) prefix: String,
}

impl Upstream {
    /// # Errors
    /// `Unsupported` if names in the tree are not a prefix and the original name.
    pub(super) fn of_options(options: &MirrorOptions) -> Result<Vec<Self>> {
        let upstream = |registry: &Registry| {
            let place = options.names.prefix(registry).ok_or_else(not_a_prefix)?;
            let prefix = options.endpoint.repository_prefix(&place);
            Ok(Self { registry: registry.clone(), prefix })
        };
        options.registries.iter().collect::<BTreeSet<_>>().into_iter().map(upstream).collect()
    }
}

fn not_a_prefix() -> Error {
    let why = "mirrors can be configured only for templates that end with {repository} and have no {tag}";
    Error::new(ErrorKind::Unsupported, "--names", why)
        .with_hint("use strip, domain, or a template such as mirror/{domain}/{repository}")
}

/// The registries whose images are in a tree: those that are recorded, and those that the names of its repositories contain.
///
/// # Errors
/// `Storage` if the tree cannot be read.
pub fn registries(store: &Store, names: &NameRule) -> Result<Vec<Registry>> {
    let provenance = store.provenance()?;
    let recorded = provenance.records().map(|record| record.source.registry.clone());
    let repositories = store.repositories()?;
    let named = repositories.iter().filter_map(|place| Some(names.original(place)?.0));
    let found: BTreeSet<Registry> = recorded.chain(named).collect();
    Ok(found.into_iter().collect())
}
