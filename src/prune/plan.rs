//! Plans what to remove.

use super::{PruneReport, Selection};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository, Tag};
use crate::store::Store;
use crate::store::document::{ContentFault, ManifestContent, StoredManifest, top_down};
use crate::store::inventory::{InternalFiles, Inventory, RepositoryInventory};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The inventory of a tree and its manifests.
pub(super) struct StoredTree {
    pub(super) inventory: Inventory,
    pub(super) manifests: HashMap<Digest, StoredManifest>,
}

impl StoredTree {
    pub(super) fn read(store: &Store) -> Result<Self> {
        let inventory = store.inventory()?;
        let manifests = store.stored_manifests(&inventory)?;
        Ok(Self { inventory, manifests })
    }
}

/// What to remove.
#[derive(Default)]
pub(super) struct PrunePlan {
    pub(super) repositories: Vec<RepositoryPlan>,
    /// Blobs that nothing will link to any more.
    pub(super) blobs: Vec<Digest>,
}

/// What to remove from one repository.
pub(super) struct RepositoryPlan {
    pub(super) name: Repository,
    pub(super) tags: Vec<Tag>,
    /// Links to manifests, indexes before the manifests that they reference.
    pub(super) revisions: Vec<Digest>,
    pub(super) layers: Vec<Digest>,
    /// Whether this leaves the repository empty.
    pub(super) empty: bool,
    /// Whether a manifest that stays can't be read, so that only tags are removed.
    unclear: bool,
}

impl PrunePlan {
    /// Plans to remove everything that is not named.
    pub(super) fn keeping(tree: &StoredTree, named: &BTreeMap<Repository, Selection>) -> Self {
        let nothing = Selection::default();
        let plan = |repository: &RepositoryInventory| {
            let named = named.get(&repository.name).unwrap_or(&nothing);
            let graph = Graph { repository, manifests: &tree.manifests };
            let (kept, tags) = graph.kept(&named.tags, &named.digests, &nothing);
            let all: BTreeSet<Digest> = repository.revisions.keys().copied().collect();
            let mut gone: BTreeSet<Digest> = all.difference(&kept).copied().collect();
            let unclear = !graph.is_clear(&kept);
            let needed = graph.needed(&kept);
            let layers = repository.layers.keys().filter(|digest| !needed.contains(digest)).copied();
            let mut layers: Vec<Digest> = layers.collect();
            if unclear {
                gone.clear();
                layers.clear();
            }
            RepositoryPlan::new(&graph, &tags, &gone, layers, unclear)
        };
        let repositories: Vec<_> = tree.inventory.repositories.iter().map(plan).collect();
        let linked = linked(tree, &repositories);
        let blobs = tree.inventory.blobs.keys().filter(|digest| !linked.contains(digest)).copied().collect();
        Self { repositories, blobs }
    }

    /// Plans to remove what is named, and what only that references.
    pub(super) fn removing(tree: &StoredTree, named: &BTreeMap<Repository, Selection>) -> Result<Self> {
        let mut plan = Self::default();
        let mut freed = BTreeSet::new();
        for repository in &tree.inventory.repositories {
            let Some(named) = named.get(&repository.name) else { continue };
            let graph = Graph { repository, manifests: &tree.manifests };
            let gone = graph.without(named)?;
            freed.extend(gone.revisions.iter().copied());
            freed.extend(gone.layers.iter().copied());
            plan.repositories.push(gone);
        }
        let linked = linked(tree, &plan.repositories);
        freed.retain(|digest| !linked.contains(digest) && tree.inventory.blobs.contains_key(digest));
        plan.blobs = freed.into_iter().collect();
        Ok(plan)
    }

    pub(super) fn report(&self, tree: &StoredTree) -> PruneReport {
        let each = || self.repositories.iter();
        let tags = |one: &RepositoryPlan| -> Vec<String> {
            one.tags.iter().map(|tag| format!("{}:{tag}", one.name)).collect()
        };
        let manifests = |one: &RepositoryPlan| -> Vec<String> {
            one.revisions.iter().map(|digest| format!("{}@{digest}", one.name)).collect()
        };
        let is_of_image = |tag: &&Tag| !tag.is_of_referrers();
        let all = tree.inventory.repositories.iter().flat_map(|repository| repository.tags.keys());
        let removed = each().flat_map(|one| &one.tags).filter(is_of_image).count();
        let tags: Vec<String> = each().flat_map(tags).collect();
        PruneReport {
            schema: PruneReport::SCHEMA,
            dry_run: false,
            image_tags: removed,
            tags_kept: all.filter(is_of_image).count() - removed,
            tags,
            manifests: each().flat_map(manifests).collect(),
            layer_links: each().map(|one| one.layers.len()).sum(),
            bytes_freed: self.blobs.iter().filter_map(|digest| tree.inventory.blobs.get(digest)).sum(),
            blobs: self.blobs.clone(),
            repositories: each().filter(|one| one.empty).map(|one| one.name.clone()).collect(),
            absent: Vec::new(),
            unclear: each().filter(|one| one.unclear).map(|one| one.name.clone()).collect(),
            internal: InternalFiles::default(),
            internal_removed: InternalFiles::default(),
            seconds: 0.0,
        }
    }
}

impl RepositoryPlan {
    fn new(
        graph: &Graph<'_>,
        tags_kept: &BTreeSet<Tag>,
        gone: &BTreeSet<Digest>,
        layers: Vec<Digest>,
        unclear: bool,
    ) -> Self {
        let repository = graph.repository;
        let tags: Vec<Tag> = repository.tags.keys().filter(|tag| !tags_kept.contains(tag)).cloned().collect();
        let empty = tags.len() == repository.tags.len()
            && gone.len() == repository.revisions.len()
            && layers.len() == repository.layers.len();
        let revisions = top_down(gone, graph.manifests);
        Self { name: repository.name.clone(), tags, revisions, layers, empty, unclear }
    }
}

/// The digests that will still be linked.
fn linked(tree: &StoredTree, plans: &[RepositoryPlan]) -> HashSet<Digest> {
    let plans: HashMap<&Repository, &RepositoryPlan> = plans.iter().map(|plan| (&plan.name, plan)).collect();
    let mut linked = HashSet::new();
    for repository in &tree.inventory.repositories {
        let plan = plans.get(&repository.name);
        let gone = |pick: fn(&RepositoryPlan) -> &Vec<Digest>| -> HashSet<Digest> {
            plan.into_iter().flat_map(|plan| pick(plan)).copied().collect()
        };
        let (revisions, layers) = (gone(|plan| &plan.revisions), gone(|plan| &plan.layers));
        linked.extend(repository.revisions.keys().filter(|digest| !revisions.contains(digest)));
        linked.extend(repository.layers.keys().filter(|digest| !layers.contains(digest)));
    }
    linked
}

/// The manifests of a repository and their references.
struct Graph<'a> {
    repository: &'a RepositoryInventory,
    manifests: &'a HashMap<Digest, StoredManifest>,
}

impl Graph<'_> {
    /// The digest that the tag points to.
    fn current(&self, tag: &Tag) -> Option<Digest> {
        self.repository.tags.get(tag)?.digest()
    }

    /// All manifests that these tags and digests need, and the tags that stay with them. Referrers in `removed` do not stay.
    fn kept(
        &self,
        tags: &BTreeSet<Tag>,
        digests: &BTreeSet<Digest>,
        removed: &Selection,
    ) -> (BTreeSet<Digest>, BTreeSet<Tag>) {
        let mut tags = tags.clone();
        let named = tags.iter().filter_map(|tag| self.current(tag));
        let mut kept = self.reach(named.chain(digests.iter().copied()), BTreeSet::new());
        loop {
            let (mut of_kept, mut more) = self.referrers(&kept, &tags);
            of_kept.retain(|tag| !removed.tags.contains(tag));
            more.retain(|digest| !removed.digests.contains(digest));
            if of_kept.is_empty() && more.is_empty() {
                return (kept, tags);
            }
            tags.extend(of_kept);
            kept = self.reach(more.into_iter(), kept);
        }
    }

    /// The tags and manifests that refer to one of `these` and are not among them.
    fn referrers(&self, these: &BTreeSet<Digest>, tags: &BTreeSet<Tag>) -> (BTreeSet<Tag>, BTreeSet<Digest>) {
        let fallback = self.repository.tags.keys().filter(|tag| !tags.contains(tag));
        let fallback =
            fallback.filter(|tag| tag.referrers_subject().is_some_and(|digest| these.contains(&digest)));
        let fallback: BTreeSet<Tag> = fallback.cloned().collect();
        let named = fallback.iter().filter_map(|tag| self.current(tag));
        let refer = self.repository.revisions.keys().filter(|digest| {
            let subject = self.manifests.get(digest).and_then(|document| document.subject);
            subject.is_some_and(|subject| these.contains(&subject))
        });
        let sources = self.repository.revisions.keys().filter(|digest| self.is_source_of(digest, these));
        let more = named.chain(refer.copied()).chain(sources.copied());
        let more = more.filter(|digest| !these.contains(digest)).collect();
        (fallback, more)
    }

    /// Whether an index was kept for its signatures when another was tagged in its place: it has no tag, it has referrers, and it
    /// names one of `these`.
    fn is_source_of(&self, digest: &Digest, these: &BTreeSet<Digest>) -> bool {
        let Some(StoredManifest { content: ManifestContent::Index(entries), .. }) =
            self.manifests.get(digest)
        else {
            return false;
        };
        let is_subject = || {
            let by_tag = self.repository.tags.keys().any(|tag| tag.referrers_subject() == Some(*digest));
            let of = |other: &Digest| self.manifests.get(other).and_then(|document| document.subject);
            by_tag || self.repository.revisions.keys().any(|other| of(other) == Some(*digest))
        };
        entries.iter().any(|entry| these.contains(&entry.digest))
            && !these.contains(digest)
            && self.repository.tags.keys().all(|tag| self.current(tag) != Some(*digest))
            && is_subject()
    }

    /// Adds to `reached` the manifests that the repository has, from these down.
    fn reach(&self, from: impl Iterator<Item = Digest>, mut reached: BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut open: Vec<Digest> = from.collect();
        while let Some(digest) = open.pop() {
            if self.repository.revisions.contains_key(&digest) && reached.insert(digest) {
                let below = self.manifests.get(&digest).map(StoredManifest::references).unwrap_or_default();
                open.extend(below.iter().map(|entry| entry.digest));
            }
        }
        reached
    }

    /// Whether all of these can be read, so that it is known what they need.
    fn is_clear(&self, kept: &BTreeSet<Digest>) -> bool {
        kept.iter().filter_map(|digest| self.manifests.get(digest)).all(|document| match &document.content {
            ManifestContent::Index(_) | ManifestContent::Image(_) => true,
            ManifestContent::ContentFault(fault) => *fault == ContentFault::Missing,
            ManifestContent::Opaque(_) => false,
        })
    }

    /// The blobs that these manifests reference.
    fn needed(&self, kept: &BTreeSet<Digest>) -> HashSet<Digest> {
        let manifests = kept.iter().filter_map(|digest| self.manifests.get(digest));
        let named = |document: &StoredManifest| -> Vec<Digest> {
            document
                .references()
                .iter()
                .map(|blob| blob.digest)
                .chain(document.foreign.iter().copied())
                .collect()
        };
        manifests.flat_map(named).collect()
    }

    /// Plans the removal of the named tags and manifests.
    fn without(&self, named: &Selection) -> Result<RepositoryPlan> {
        let mut tags = named.tags.clone();
        // As in registries, a manifest is removed with its tags.
        let own = self.repository.tags.keys();
        tags.extend(
            own.filter(|tag| self.current(tag).is_some_and(|of| named.digests.contains(&of))).cloned(),
        );
        let tops = tags.iter().filter_map(|tag| self.current(tag)).chain(named.digests.iter().copied());
        let named_here = Selection { digests: tops.collect(), tags };
        let (candidates, theirs) = self.kept(&named_here.tags, &named.digests, &Selection::default());
        let others: BTreeSet<Tag> =
            self.repository.tags.keys().filter(|tag| !theirs.contains(tag)).cloned().collect();
        let outside: BTreeSet<Digest> =
            self.repository.revisions.keys().filter(|digest| !candidates.contains(digest)).copied().collect();
        let (kept, tags_kept) = self.kept(&others, &outside, &named_here);
        if let Some(digest) = named.digests.iter().find(|digest| kept.contains(digest)) {
            let subject = format!("{}@{digest}", self.repository.name);
            return Err(Error::new(ErrorKind::InvalidInput, subject, "it is part of an image that stays")
                .with_hint("remove that image; saver ls --json lists the digests of all tags"));
        }
        let unclear = !self.is_clear(&kept) || !self.is_clear(&candidates);
        let (needed, mut gone) = (self.needed(&kept), BTreeSet::new());
        let mut layers = Vec::new();
        if !unclear {
            gone = candidates.difference(&kept).copied().collect();
            let theirs = self.needed(&gone);
            let theirs = theirs.into_iter().filter(|digest| !needed.contains(digest));
            layers = theirs.filter(|digest| self.repository.layers.contains_key(digest)).collect();
            layers.sort();
        }
        Ok(RepositoryPlan::new(self, &tags_kept, &gone, layers, unclear))
    }
}
