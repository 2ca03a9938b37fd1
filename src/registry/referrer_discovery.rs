//! Remembers how the referrers of each repository are found.

use crate::oci::Repository;
use crate::oci::referrer::ReferrerTag;
use crate::single_flight::SingleFlight;
use std::collections::HashSet;
use std::sync::Arc;

/// The tags of referrers in one repository.
pub(super) type ReferrerTags = Arc<HashSet<ReferrerTag>>;

/// How the referrers of each repository are found, as far as that is known.
pub(super) struct ReferrerDiscovery {
    /// Whether the registry has the referrers API.
    pub(super) has_api: SingleFlight<Repository, bool>,
    /// The tags of referrers; `None` if they cannot be listed, or only at a higher cost than requesting each.
    pub(super) tags: SingleFlight<Repository, Option<ReferrerTags>>,
}

impl Default for ReferrerDiscovery {
    fn default() -> Self {
        Self { has_api: SingleFlight::remembering(), tags: SingleFlight::remembering() }
    }
}
