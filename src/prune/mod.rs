//! Removes images from a tree: all except those on a list ([`prune`]), some by name ([`remove`]), or none but what no image needs
//! ([`collect_garbage`]).
//!
//! Removal goes from the top down: tags, then links to manifests (indexes first), then links to blobs, then blobs that nothing
//! links to. So the tree is consistent after every single removal. Whatever a kept image needs stays: the manifests below an index,
//! and its referrers, which are found by their `subject` or their fallback tag (`sha256-<hex>`, with or without a suffix such as `.sig`).
//!
//! All need exclusive access to the tree ([`Store::lock_exclusive`]).

mod gc;
mod plan;
mod sweep;

pub use gc::collect_garbage;

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::inventory::{InternalFiles, Inventory};
use plan::{PrunePlan, StoredTree};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Options of prune and remove.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    /// The rule that maps image names to names in the tree; `None` for the one that it was saved with.
    pub names: Option<NameRule>,
    /// Whether to report what would be removed without removing anything.
    pub dry_run: bool,
    /// Cancelling this token ends the removal; the tree is consistent, and the next prune removes the rest.
    pub cancel: CancellationToken,
}

impl PruneOptions {
    /// Finds images by these names in the directory.
    #[must_use]
    pub fn with_names(self, names: NameRule) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Reports what would be removed without removing anything.
    #[must_use]
    pub fn with_dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// Ends the removal when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }
}

/// What was removed, or would be removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PruneReport {
    /// The version of this format, which changes when a field is removed or changes its meaning.
    pub schema: u32,
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// The tags that were removed: `repository:tag`.
    pub tags: Vec<String>,
    /// Number of these tags that are tags of images, not of signatures and other referrers.
    #[serde(default)]
    pub image_tags: usize,
    /// The manifests that repositories no longer serve: `repository@digest`.
    pub manifests: Vec<String>,
    /// Number of blob links removed.
    pub layer_links: usize,
    /// The blobs removed, including the content of manifests.
    pub blobs: Vec<Digest>,
    /// Total size of these blobs in bytes.
    pub bytes_freed: u64,
    /// The repositories removed because nothing was left in them.
    pub repositories: Vec<Repository>,
    /// Number of tags of images left.
    pub tags_kept: usize,
    /// Images on the list that are not in the tree.
    pub absent: Vec<Reference>,
    /// Repositories in which only tags were removed: a manifest that stays can't be read, so it is unknown what it needs.
    pub unclear: Vec<Repository>,
    /// Files outside the tree, which are kept: interrupted downloads, and what a repair moved away.
    pub internal: InternalFiles,
    /// Such files that were removed, which only garbage collection does.
    #[serde(default)]
    pub internal_removed: InternalFiles,
    /// Duration in seconds.
    pub seconds: f64,
}

impl PruneReport {
    /// The current version of the JSON format.
    pub const SCHEMA: u32 = 1;
}

/// The tags and manifests named for one repository.
#[derive(Debug, Default)]
struct Selection {
    tags: BTreeSet<Tag>,
    digests: BTreeSet<Digest>,
}

/// Removes every tag that is not in `keep`, and then everything that nothing references. `name@digest` keeps that manifest, tagged
/// or not; `name:tag@digest` keeps both.
///
/// # Errors
/// `InvalidInput` if the directory is not a tree, if none of `keep` is in it (everything would be removed), or if the rule can't map
/// a name; `Storage` if the tree can't be read or changed, or another process has it locked; `Cancelled`.
pub fn prune(store: &Store, keep: &[Reference], options: &PruneOptions) -> Result<PruneReport> {
    let start = Instant::now();
    store.check_is_tree()?;
    let _lock = (!options.dry_run).then(|| store.lock_exclusive("prune", Duration::ZERO)).transpose()?;
    let tree = StoredTree::read(store)?;
    let mut named: BTreeMap<Repository, Selection> = BTreeMap::new();
    let mut absent = Vec::new();
    let names = NameRule::of(store, options.names.as_ref())?;
    for reference in keep {
        let mut found = false;
        for place in places(reference, &names)? {
            found |= is_stored(&tree.inventory, &place, reference.digest);
            let entry = named.entry(place.repository).or_default();
            entry.tags.extend(place.tag);
            entry.digests.extend(reference.digest);
        }
        if !found {
            absent.push(reference.clone());
        }
    }
    if absent.len() == keep.len() && !tree.inventory.repositories.is_empty() {
        let why = "contains no image of the directory, so everything would be removed; nothing was removed";
        let hint = "check the list and --names; saver ls lists the images, saver rm removes images by name";
        return Err(Error::new(ErrorKind::InvalidInput, "the list to keep", why).with_hint(hint));
    }
    let plan = PrunePlan::keeping(&tree, &named);
    finish(store, &tree, plan, options, absent, start)
}

/// Removes `images` and what nothing else references. `name@digest` removes that manifest and all of its tags.
///
/// # Errors
/// `NotFound` if one of them does not exist, `InvalidInput` for a manifest that is part of an image that stays, or if the directory
/// is not a tree: then nothing is removed. `Storage` if the tree can't be read or changed, or another process has it locked. `Cancelled`.
pub fn remove(store: &Store, images: &[Reference], options: &PruneOptions) -> Result<PruneReport> {
    let start = Instant::now();
    store.check_is_tree()?;
    let _lock = (!options.dry_run).then(|| store.lock_exclusive("rm", Duration::ZERO)).transpose()?;
    let tree = StoredTree::read(store)?;
    let mut named: BTreeMap<Repository, Selection> = BTreeMap::new();
    let names = NameRule::of(store, options.names.as_ref())?;
    for reference in images {
        let mut found = false;
        let mut main = None;
        for place in places(reference, &names)? {
            let at = named_by(&tree.inventory, &place);
            // A short name may belong to another image by now: it is removed only if it points to the same digest.
            let same = main.is_none_or(|main| main == at);
            if !is_stored(&tree.inventory, &place, reference.digest) || !same {
                continue;
            }
            found = true;
            main = main.or(Some(at));
            let entry = named.entry(place.repository).or_default();
            match (place.tag, reference.digest) {
                (Some(tag), None) => {
                    entry.tags.insert(tag);
                }
                (_, Some(digest)) => {
                    entry.digests.insert(digest);
                }
                (None, None) => {}
            }
        }
        if !found {
            let error = Error::new(ErrorKind::NotFound, reference, "there is no such image in the directory");
            return Err(error.with_hint("run saver ls to list the images; nothing was removed"));
        }
    }
    let plan = PrunePlan::removing(&tree, &named)?;
    finish(store, &tree, plan, options, Vec::new(), start)
}

/// Removes what is at `places` and what nothing else references: the tag if there is no digest, otherwise that manifest and all of its
/// tags. Places that do not exist are ignored.
///
/// # Errors
/// `InvalidInput` for a manifest that is part of an image that stays: then nothing is removed. `Storage` if the tree can't be read or
/// changed, or another process has it locked.
#[cfg(feature = "cri")]
pub(crate) fn remove_at(store: &Store, places: &[(Place, Option<Digest>)]) -> Result<PruneReport> {
    let start = Instant::now();
    let _lock = store.lock_exclusive("rm", Duration::ZERO)?;
    let tree = StoredTree::read(store)?;
    let mut named: BTreeMap<Repository, Selection> = BTreeMap::new();
    for (place, digest) in places.iter().filter(|(place, digest)| is_stored(&tree.inventory, place, *digest))
    {
        let entry = named.entry(place.repository.clone()).or_default();
        match digest {
            Some(digest) => entry.digests.extend([*digest]),
            None => entry.tags.extend(place.tag.clone()),
        }
    }
    let plan = PrunePlan::removing(&tree, &named)?;
    finish(store, &tree, plan, &PruneOptions::default(), Vec::new(), start)
}

/// The places of an image in the tree, the primary one first.
fn places(reference: &Reference, names: &NameRule) -> Result<Vec<Place>> {
    Ok(std::iter::once(names.place(reference)?).chain(names.alias(reference)).collect())
}

fn named_by(inventory: &Inventory, place: &Place) -> Option<Digest> {
    let repository = inventory.repositories.iter().find(|repository| repository.name == place.repository)?;
    repository.tags.get(place.tag.as_ref()?)?.digest()
}

fn is_stored(inventory: &Inventory, place: &Place, digest: Option<Digest>) -> bool {
    let Some(repository) =
        inventory.repositories.iter().find(|repository| repository.name == place.repository)
    else {
        return false;
    };
    let tag = place.tag.as_ref().is_some_and(|tag| repository.tags.contains_key(tag));
    match digest {
        Some(digest) => repository.revisions.contains_key(&digest),
        None => tag,
    }
}

fn finish(
    store: &Store,
    tree: &StoredTree,
    plan: PrunePlan,
    options: &PruneOptions,
    absent: Vec<Reference>,
    start: Instant,
) -> Result<PruneReport> {
    if !options.dry_run {
        sweep::run(store, tree, &plan, &options.cancel)?;
    }
    let mut report = plan.report(tree);
    report.dry_run = options.dry_run;
    report.internal = store.internal_files()?;
    report.absent = absent;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}
