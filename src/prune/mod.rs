//! Taking images out of a tree: all but those of a list ([`prune`]), or some by name ([`remove`]).
//!
//! What goes, goes from the top: tags, then links to manifests (those that name others first), then links to blobs, then blobs
//! that nothing links to. So the tree is true after every single removal. What a kept image needs stays: the manifests under an
//! index, and its referrers, found by their `subject` or by their fallback tag (`sha256-<hex>`, with or without a suffix such as `.sig`).
//!
//! Both take the lock that keeps savers out, and other processes that take away.

mod plan;
mod sweep;

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::inventory::Census;
use plan::{Plan, Tree};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Options of prune and remove.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    /// How images' names become names in the tree: the rule that they were saved with.
    pub names: NameRule,
    /// Whether to tell only what would be removed.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PruneReport {
    /// The version of this form: raised when a field changes its meaning or goes.
    pub schema: u32,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The tags that were removed: `repository:tag`.
    pub tags: Vec<String>,
    /// The manifests that repositories no longer serve: `repository@digest`.
    pub manifests: Vec<String>,
    /// How many links to blobs were removed.
    pub layer_links: usize,
    /// The blobs, manifests' content among them, that were removed.
    pub blobs: Vec<Digest>,
    /// The bytes that these had.
    pub bytes_freed: u64,
    /// The repositories in which nothing was left.
    pub repositories: Vec<Repository>,
    /// How many tags are left.
    pub tags_kept: usize,
    /// Images of the list that are not in the tree.
    pub absent: Vec<Reference>,
    /// Repositories in which only tags were removed, since a manifest that stays can't be read: what it needs is unknown.
    pub unclear: Vec<Repository>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl PruneReport {
    /// The current version of the JSON form.
    pub const SCHEMA: u32 = 1;
}

/// What is named of one repository.
#[derive(Debug, Default)]
struct Named {
    tags: BTreeSet<Tag>,
    digests: BTreeSet<Digest>,
}

/// Removes every tag that `keep` does not name, and then everything that nothing references. `name@digest` keeps that
/// manifest, with a tag or without; `name:tag@digest` keeps both.
///
/// # Errors
/// `InvalidInput` when `keep` names nothing that is there (all would be removed), or has a name that the rule can't map;
/// `Storage` when the tree can't be read or changed, or another process is working on it.
pub fn prune(store: &Store, keep: &[Reference], options: &PruneOptions) -> Result<PruneReport> {
    let start = Instant::now();
    let _lock = (!options.dry_run).then(|| store.lock_exclusive("prune", false)).transpose()?;
    let tree = Tree::read(store)?;
    let mut named: BTreeMap<Repository, Named> = BTreeMap::new();
    let mut absent = Vec::new();
    for reference in keep {
        let mut found = false;
        for place in places(reference, &options.names)? {
            found |= is_there(&tree.census, &place, reference.digest);
            let entry = named.entry(place.repository).or_default();
            entry.tags.extend(place.tag);
            entry.digests.extend(reference.digest);
        }
        if !found {
            absent.push(reference.clone());
        }
    }
    if absent.len() == keep.len() && !tree.census.repositories.is_empty() {
        let why = "names no image that is there: nothing would be left, so nothing was removed";
        let hint =
            "check the list and --names; saver ls tells what is there, saver rm removes images by name";
        return Err(Error::new(ErrorKind::InvalidInput, "the list to keep", why).with_hint(hint));
    }
    let plan = Plan::keeping(&tree, &named);
    finish(store, &tree, plan, options, absent, start)
}

/// Removes `images`, and what nothing else references. `name@digest` removes that manifest and every tag of it.
///
/// # Errors
/// `NotFound` when one of them is not there, `InvalidInput` for a manifest that is part of an image that stays: nothing is removed
/// then. `Storage` when the tree can't be read or changed, or another process is working on it.
pub fn remove(store: &Store, images: &[Reference], options: &PruneOptions) -> Result<PruneReport> {
    let start = Instant::now();
    let _lock = (!options.dry_run).then(|| store.lock_exclusive("rm", false)).transpose()?;
    let tree = Tree::read(store)?;
    let mut named: BTreeMap<Repository, Named> = BTreeMap::new();
    for reference in images {
        let mut found = false;
        let mut main = None;
        for place in places(reference, &options.names)? {
            let at = named_by(&tree.census, &place);
            // A short name may be another image's by now: it goes only along with what it is short for.
            let same = main.is_none_or(|main| main == at);
            if !is_there(&tree.census, &place, reference.digest) || !same {
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
            let error = Error::new(ErrorKind::NotFound, reference, "there is no such image in the tree");
            return Err(error.with_hint("saver ls tells what is there; nothing was removed"));
        }
    }
    let plan = Plan::removing(&tree, &named)?;
    finish(store, &tree, plan, options, Vec::new(), start)
}

/// Removes what stands at `places`, and what nothing else references: a tag where no digest is given, else that manifest and every tag of
/// it. What is not there is left out.
///
/// # Errors
/// `InvalidInput` for a manifest that is part of an image that stays: nothing is removed then. `Storage` when the tree can't be read or
/// changed, or another process is working on it.
pub fn remove_at(store: &Store, places: &[(Place, Option<Digest>)]) -> Result<PruneReport> {
    let start = Instant::now();
    let _lock = store.lock_exclusive("rm", false)?;
    let tree = Tree::read(store)?;
    let mut named: BTreeMap<Repository, Named> = BTreeMap::new();
    for (place, digest) in places.iter().filter(|(place, digest)| is_there(&tree.census, place, *digest)) {
        let entry = named.entry(place.repository.clone()).or_default();
        match digest {
            Some(digest) => entry.digests.extend([*digest]),
            None => entry.tags.extend(place.tag.clone()),
        }
    }
    let plan = Plan::removing(&tree, &named)?;
    finish(store, &tree, plan, &PruneOptions::default(), Vec::new(), start)
}

/// The names that an image has in the tree, its own first.
fn places(reference: &Reference, names: &NameRule) -> Result<Vec<Place>> {
    Ok(std::iter::once(names.place(reference)?).chain(names.alias(reference)).collect())
}

fn named_by(census: &Census, place: &Place) -> Option<Digest> {
    use crate::store::inventory::Link;
    let repository = census.repositories.iter().find(|repository| repository.name == place.repository)?;
    match &repository.tags.get(place.tag.as_ref()?)?.current {
        Some(Link::To(digest)) => Some(*digest),
        _ => None,
    }
}

fn is_there(census: &Census, place: &Place, digest: Option<Digest>) -> bool {
    let Some(repository) = census.repositories.iter().find(|repository| repository.name == place.repository)
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
    tree: &Tree,
    plan: Plan,
    options: &PruneOptions,
    absent: Vec<Reference>,
    start: Instant,
) -> Result<PruneReport> {
    if !options.dry_run {
        sweep::run(store, tree, &plan)?;
    }
    let mut report = plan.report(tree);
    report.dry_run = options.dry_run;
    report.absent = absent;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}
