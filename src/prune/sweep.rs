//! Carries out a plan, from the top down.

use super::plan::{PrunePlan, StoredTree};
use crate::error::Result;
use crate::store::Store;

/// Removes what is in `plan`. If it is interrupted, the tree is consistent, and the next prune finds the rest.
pub(super) fn run(store: &Store, tree: &StoredTree, plan: &PrunePlan) -> Result<()> {
    for repository in &plan.repositories {
        for tag in &repository.tags {
            store.remove_tag(&repository.name, tag)?;
        }
    }
    store.sync()?;
    for repository in &plan.repositories {
        for digest in &repository.revisions {
            store.remove_revision(&repository.name, digest)?;
        }
    }
    store.sync()?;
    for repository in &plan.repositories {
        for digest in &repository.layers {
            store.remove_layer(&repository.name, digest)?;
        }
    }
    store.sync()?;
    for digest in plan.blobs.iter().filter(|digest| tree.inventory.blobs.contains_key(digest)) {
        store.remove_blob(digest)?;
    }
    for repository in plan.repositories.iter().filter(|repository| repository.empty) {
        store.remove_repository(&repository.name)?;
    }
    store.sync()
}
