//! Collects garbage: removes what no tag and no image saved by digest needs, and files that saver has left outside the tree.

use super::plan::{PrunePlan, StoredTree};
use super::{PruneOptions, PruneReport, Selection, finish};
use crate::content::Place;
use crate::error::Result;
use crate::oci::{Digest, Repository};
use crate::store::Store;
use crate::store::document::StoredManifest;
use crate::store::inventory::{InternalFiles, RepositoryInventory, TagLinks};
use crate::store::provenance::{Provenance, is_saved_by_digest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Removes everything that no tag and no image saved by digest alone needs, interrupted downloads, and what a repair moved to
/// `.saver/damaged`. Needs exclusive access, so that no saver is running.
///
/// # Errors
/// `InvalidInput` if the directory is not a tree; `Storage` if it can't be read or changed, or another process has it locked; `Cancelled`.
pub fn collect_garbage(store: &Store, options: &PruneOptions) -> Result<PruneReport> {
    let start = Instant::now();
    store.check_is_tree()?;
    let _lock = (!options.dry_run).then(|| store.lock_exclusive("gc", Duration::ZERO)).transpose()?;
    let tree = StoredTree::read(store)?;
    let provenance = store.provenance()?;
    let named: BTreeMap<Repository, Selection> = tree
        .inventory
        .repositories
        .iter()
        .map(|repository| {
            let tags = repository.tags.keys().cloned().collect();
            let digests = saved_by_digest(&tree, repository, &provenance);
            (repository.name.clone(), Selection { tags, digests })
        })
        .collect();
    let plan = PrunePlan::keeping(&tree, &named);
    let internal = store.internal_files()?;
    if !options.dry_run {
        store.remove_internal_files()?;
    }
    let mut report = finish(store, &tree, plan, options, Vec::new(), start)?;
    report.internal_removed = internal;
    report.internal = InternalFiles::default();
    Ok(report)
}

/// The images of the repository that no tag needs and that were saved by digest.
fn saved_by_digest(
    tree: &StoredTree,
    repository: &RepositoryInventory,
    provenance: &Provenance,
) -> BTreeSet<Digest> {
    let current = repository.tags.values().filter_map(TagLinks::digest);
    let parts = repository
        .revisions
        .keys()
        .flat_map(|digest| tree.manifests.get(digest).map(StoredManifest::references).unwrap_or_default());
    let needed: BTreeSet<Digest> = parts.map(|part| part.digest).chain(current).collect();
    let was_tagged: BTreeSet<&Digest> =
        repository.tags.values().flat_map(|links| links.history.keys()).collect();
    let place = Place { repository: repository.name.clone(), tag: None };
    let roots = repository.revisions.keys().filter(|digest| !needed.contains(digest));
    roots
        .filter(|digest| {
            let is_recorded = provenance.source(&place, digest).is_some();
            is_saved_by_digest(is_recorded, was_tagged.contains(digest))
        })
        .copied()
        .collect()
}
