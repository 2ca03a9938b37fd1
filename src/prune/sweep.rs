//! Carries out a plan, from the top down.

use super::plan::{PrunePlan, RepositoryPlan, StoredTree};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository};
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use tokio_util::sync::CancellationToken;

/// Removes what is in `plan`. If it is interrupted, the tree is consistent, and the next prune finds the rest.
///
/// # Errors
/// `Storage` if something can't be removed, `Cancelled`.
pub(super) fn run(
    store: &Store,
    tree: &StoredTree,
    plan: &PrunePlan,
    cancel: &CancellationToken,
) -> Result<()> {
    let check_cancelled = || {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the removal", "it was cancelled"));
        }
        Ok(())
    };
    // A tag that is visible has its signatures, so theirs go last.
    for are_of_referrers in [false, true] {
        for repository in &plan.repositories {
            let tags = repository.tags.iter();
            for tag in tags.filter(|tag| tag.referrers_subject().is_some() == are_of_referrers) {
                check_cancelled()?;
                store.remove_tag(&repository.name, tag)?;
            }
        }
        store.sync()?;
    }
    for repository in &plan.repositories {
        for digest in &repository.revisions {
            check_cancelled()?;
            store.remove_revision(&repository.name, digest)?;
        }
    }
    store.sync()?;
    for repository in &plan.repositories {
        for digest in &repository.layers {
            check_cancelled()?;
            store.remove_layer(&repository.name, digest)?;
        }
    }
    store.sync()?;
    for digest in plan.blobs.iter().filter(|digest| tree.inventory.blobs.contains_key(digest)) {
        check_cancelled()?;
        store.remove_blob(digest)?;
    }
    for repository in plan.repositories.iter().filter(|repository| repository.empty) {
        check_cancelled()?;
        store.remove_repository(&repository.name)?;
    }
    let rewritten = forget_sources(store, plan)?;
    store.sync()?;
    store.remove_source_files(&rewritten)
}

/// Drops the records of where the removed images come from.
fn forget_sources(store: &Store, plan: &PrunePlan) -> Result<Vec<u64>> {
    let plans: HashMap<&Repository, &RepositoryPlan> =
        plan.repositories.iter().map(|repository| (&repository.name, repository)).collect();
    let gone = |plan: &RepositoryPlan| -> HashSet<Digest> { plan.revisions.iter().copied().collect() };
    let revisions: HashMap<&Repository, HashSet<Digest>> =
        plans.iter().map(|(name, plan)| (*name, gone(plan))).collect();
    store.forget_sources(&|record| {
        let is_untagged =
            |plan: &&RepositoryPlan| record.tag.as_ref().is_some_and(|tag| plan.tags.contains(tag));
        let is_removed = |removed: &HashSet<Digest>| removed.contains(&record.digest);
        plans.get(&record.repository).is_some_and(is_untagged)
            || revisions.get(&record.repository).is_some_and(is_removed)
    })
}
