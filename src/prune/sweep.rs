//! Taking away what was decided on, from the top down.

use super::plan::{Plan, Tree};
use crate::error::Result;
use crate::store::Store;

/// Removes what `plan` says. Stopped anywhere, the tree is true, and what is left of the plan is found again by the next one.
pub(super) fn run(store: &Store, tree: &Tree, plan: &Plan) -> Result<()> {
    for repository in &plan.repositories {
        for tag in &repository.tags {
            store.remove_tag(&repository.name, tag)?;
        }
    }
    store.settle()?;
    for repository in &plan.repositories {
        for digest in &repository.revisions {
            store.remove_revision(&repository.name, digest)?;
        }
    }
    store.settle()?;
    for repository in &plan.repositories {
        for digest in &repository.layers {
            store.remove_layer(&repository.name, digest)?;
        }
    }
    store.settle()?;
    for digest in plan.blobs.iter().filter(|digest| tree.census.blobs.contains_key(digest)) {
        store.remove_blob(digest)?;
    }
    for repository in plan.repositories.iter().filter(|repository| repository.empty) {
        store.remove_repository(&repository.name)?;
    }
    store.settle()
}
