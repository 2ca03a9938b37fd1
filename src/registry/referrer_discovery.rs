//! Remembers how the referrers of each repository are found.

use crate::oci::Repository;
use crate::oci::referrer::ReferrerTag;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// How the referrers of each repository are found.
#[derive(Default)]
pub(super) struct ReferrerDiscovery {
    repositories: Mutex<HashMap<Repository, Arc<RepositoryDiscovery>>>,
}

/// How the referrers of one repository are found, as far as that is known.
#[derive(Default)]
pub(super) struct RepositoryDiscovery {
    /// Whether the registry has the referrers API.
    pub(super) has_api: OnceCell<bool>,
    /// The tags of referrers; `None` if they cannot be listed, or only at a higher cost than requesting each.
    pub(super) tags: OnceCell<Option<HashSet<ReferrerTag>>>,
}

impl ReferrerDiscovery {
    pub(super) fn of(&self, repository: &Repository) -> Arc<RepositoryDiscovery> {
        self.repositories.lock().entry(repository.clone()).or_default().clone()
    }
}
