//! Deciding what goes.

use super::{Named, PruneReport};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository, Tag};
use crate::store::Store;
use crate::store::document::{Document, DocumentContent, Fault, top_down};
use crate::store::inventory::{Census, Link, RepositoryCensus};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A tree, as far as it has to be known.
pub(super) struct Tree {
    pub(super) census: Census,
    pub(super) documents: HashMap<Digest, Document>,
}

impl Tree {
    pub(super) fn read(store: &Store) -> Result<Self> {
        let census = store.census()?;
        let documents = store.documents(&census)?;
        Ok(Self { census, documents })
    }
}

/// What goes.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) repositories: Vec<RepositoryPlan>,
    /// Blobs that nothing will link to.
    pub(super) blobs: Vec<Digest>,
}

/// What goes of one repository.
pub(super) struct RepositoryPlan {
    pub(super) name: Repository,
    pub(super) tags: Vec<Tag>,
    /// Links to manifests, those that name others first.
    pub(super) revisions: Vec<Digest>,
    pub(super) layers: Vec<Digest>,
    /// Whether nothing is left.
    pub(super) empty: bool,
    /// Whether something that stays can't be read, so that only tags go.
    unclear: bool,
}

impl Plan {
    /// Everything but what is named goes.
    pub(super) fn keeping(tree: &Tree, named: &BTreeMap<Repository, Named>) -> Self {
        let nothing = Named::default();
        let plan = |repository: &RepositoryCensus| {
            let named = named.get(&repository.name).unwrap_or(&nothing);
            let graph = Graph { repository, documents: &tree.documents };
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
            RepositoryPlan::new(tree, repository, &tags, &gone, layers, unclear)
        };
        let repositories: Vec<_> = tree.census.repositories.iter().map(plan).collect();
        let linked = linked(tree, &repositories);
        let blobs = tree.census.blobs.keys().filter(|digest| !linked.contains(digest)).copied().collect();
        Self { repositories, blobs }
    }

    /// What is named goes, and what only that references.
    pub(super) fn removing(tree: &Tree, named: &BTreeMap<Repository, Named>) -> Result<Self> {
        let mut plan = Self::default();
        let mut freed = BTreeSet::new();
        for repository in &tree.census.repositories {
            let Some(named) = named.get(&repository.name) else { continue };
            let graph = Graph { repository, documents: &tree.documents };
            let gone = graph.without(named)?;
            freed.extend(gone.revisions.iter().copied());
            freed.extend(gone.layers.iter().copied());
            plan.repositories.push(gone);
        }
        let linked = linked(tree, &plan.repositories);
        freed.retain(|digest| !linked.contains(digest) && tree.census.blobs.contains_key(digest));
        plan.blobs = freed.into_iter().collect();
        Ok(plan)
    }

    pub(super) fn report(&self, tree: &Tree) -> PruneReport {
        let each = || self.repositories.iter();
        let tags = |one: &RepositoryPlan| -> Vec<String> {
            one.tags.iter().map(|tag| format!("{}:{tag}", one.name)).collect()
        };
        let manifests = |one: &RepositoryPlan| -> Vec<String> {
            one.revisions.iter().map(|digest| format!("{}@{digest}", one.name)).collect()
        };
        let all: usize = tree.census.repositories.iter().map(|repository| repository.tags.len()).sum();
        let tags: Vec<String> = each().flat_map(tags).collect();
        PruneReport {
            schema: PruneReport::SCHEMA,
            dry_run: false,
            tags_kept: all - tags.len(),
            tags,
            manifests: each().flat_map(manifests).collect(),
            layer_links: each().map(|one| one.layers.len()).sum(),
            bytes_freed: self.blobs.iter().filter_map(|digest| tree.census.blobs.get(digest)).sum(),
            blobs: self.blobs.clone(),
            repositories: each().filter(|one| one.empty).map(|one| one.name.clone()).collect(),
            absent: Vec::new(),
            unclear: each().filter(|one| one.unclear).map(|one| one.name.clone()).collect(),
            seconds: 0.0,
        }
    }
}

impl RepositoryPlan {
    fn new(
        tree: &Tree,
        repository: &RepositoryCensus,
        tags_kept: &BTreeSet<Tag>,
        gone: &BTreeSet<Digest>,
        layers: Vec<Digest>,
        unclear: bool,
    ) -> Self {
        let tags: Vec<Tag> = repository.tags.keys().filter(|tag| !tags_kept.contains(tag)).cloned().collect();
        let empty = tags.len() == repository.tags.len()
            && gone.len() == repository.revisions.len()
            && layers.len() == repository.layers.len();
        let revisions = top_down(gone, &tree.documents);
        Self { name: repository.name.clone(), tags, revisions, layers, empty, unclear }
    }
}

/// What will still be linked.
fn linked(tree: &Tree, plans: &[RepositoryPlan]) -> HashSet<Digest> {
    let plans: HashMap<&Repository, &RepositoryPlan> = plans.iter().map(|plan| (&plan.name, plan)).collect();
    let mut linked = HashSet::new();
    for repository in &tree.census.repositories {
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

/// A repository's manifests and who names whom.
struct Graph<'a> {
    repository: &'a RepositoryCensus,
    documents: &'a HashMap<Digest, Document>,
}

impl Graph<'_> {
    /// What the tag names now.
    fn current(&self, tag: &Tag) -> Option<Digest> {
        match self.repository.tags.get(tag)?.current.as_ref()? {
            Link::To(digest) => Some(*digest),
            Link::Damaged(_) => None,
        }
    }

    /// All manifests that these tags and digests need, and all tags that stay with them; no referrer among `but` does.
    fn kept(
        &self,
        tags: &BTreeSet<Tag>,
        digests: &BTreeSet<Digest>,
        but: &Named,
    ) -> (BTreeSet<Digest>, BTreeSet<Tag>) {
        let mut tags = tags.clone();
        let named = tags.iter().filter_map(|tag| self.current(tag));
        let mut kept = self.reach(named.chain(digests.iter().copied()), BTreeSet::new());
        loop {
            let (mut of_kept, mut more) = self.referrers(&kept, &tags);
            of_kept.retain(|tag| !but.tags.contains(tag));
            more.retain(|digest| !but.digests.contains(digest));
            if of_kept.is_empty() && more.is_empty() {
                return (kept, tags);
            }
            tags.extend(of_kept);
            kept = self.reach(more.into_iter(), kept);
        }
    }

    /// The tags and manifests that refer to one of `these` and are not among them yet.
    fn referrers(&self, these: &BTreeSet<Digest>, tags: &BTreeSet<Tag>) -> (BTreeSet<Tag>, BTreeSet<Digest>) {
        let fallback = self.repository.tags.keys().filter(|tag| !tags.contains(tag));
        let fallback = fallback.filter(|tag| referred(tag).is_some_and(|digest| these.contains(&digest)));
        let fallback: BTreeSet<Tag> = fallback.cloned().collect();
        let named = fallback.iter().filter_map(|tag| self.current(tag));
        let refer = self.repository.revisions.keys().filter(|digest| {
            let subject = self.documents.get(digest).and_then(|document| document.subject);
            subject.is_some_and(|subject| these.contains(&subject))
        });
        let more = named.chain(refer.copied()).filter(|digest| !these.contains(digest)).collect();
        (fallback, more)
    }

    /// The manifests from these down that the repository has, added to `reached`.
    fn reach(&self, from: impl Iterator<Item = Digest>, mut reached: BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut open: Vec<Digest> = from.collect();
        while let Some(digest) = open.pop() {
            if self.repository.revisions.contains_key(&digest) && reached.insert(digest) {
                let below = self.documents.get(&digest).map(Document::below).unwrap_or_default();
                open.extend(below.iter().map(|entry| entry.digest));
            }
        }
        reached
    }

    /// Whether it is known of each of these what it needs.
    fn is_clear(&self, kept: &BTreeSet<Digest>) -> bool {
        kept.iter().filter_map(|digest| self.documents.get(digest)).all(|document| match &document.content {
            DocumentContent::Index(_) | DocumentContent::Image(_) => true,
            DocumentContent::Fault(fault) => *fault == Fault::Missing,
            DocumentContent::Opaque(_) => false,
        })
    }

    /// The blobs that these manifests name.
    fn needed(&self, kept: &BTreeSet<Digest>) -> HashSet<Digest> {
        let documents = kept.iter().filter_map(|digest| self.documents.get(digest));
        let named = |document: &Document| -> Vec<Digest> {
            document.below().iter().map(|blob| blob.digest).chain(document.foreign.iter().copied()).collect()
        };
        documents.flat_map(named).collect()
    }

    /// What goes when the named tags and manifests do.
    fn without(&self, named: &Named) -> Result<RepositoryPlan> {
        let mut tags = named.tags.clone();
        // As registries do it: a manifest goes with its tags.
        let own = self.repository.tags.keys();
        tags.extend(
            own.filter(|tag| self.current(tag).is_some_and(|of| named.digests.contains(&of))).cloned(),
        );
        let tops = tags.iter().filter_map(|tag| self.current(tag)).chain(named.digests.iter().copied());
        let named_here = Named { digests: tops.collect(), tags };
        let (candidates, theirs) = self.kept(&named_here.tags, &named.digests, &Named::default());
        let others: BTreeSet<Tag> =
            self.repository.tags.keys().filter(|tag| !theirs.contains(tag)).cloned().collect();
        let outside: BTreeSet<Digest> =
            self.repository.revisions.keys().filter(|digest| !candidates.contains(digest)).copied().collect();
        let (kept, tags_kept) = self.kept(&others, &outside, &named_here);
        if let Some(digest) = named.digests.iter().find(|digest| kept.contains(digest)) {
            let subject = format!("{}@{digest}", self.repository.name);
            return Err(Error::new(ErrorKind::InvalidInput, subject, "it is part of an image that stays")
                .with_hint("remove that image; saver ls --json tells what the tags name"));
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
        let revisions = top_down(&gone, self.documents);
        let tags: Vec<Tag> =
            self.repository.tags.keys().filter(|tag| !tags_kept.contains(tag)).cloned().collect();
        let empty = tags.len() == self.repository.tags.len()
            && gone.len() == self.repository.revisions.len()
            && layers.len() == self.repository.layers.len();
        Ok(RepositoryPlan { name: self.repository.name.clone(), tags, revisions, layers, empty, unclear })
    }
}

/// What a fallback tag refers to: `sha256-<hex>` (OCI distribution-spec, "Referrers Tag Schema"), or with a suffix, as cosign writes it.
fn referred(tag: &Tag) -> Option<Digest> {
    let rest = tag.as_str().strip_prefix("sha256-")?;
    let hex = rest.get(..64)?;
    matches!(rest.as_bytes().get(64), None | Some(b'.' | b'-' | b'_'))
        .then(|| Digest::from_hex(hex).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallback_tags_name_what_they_refer_to() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        for (tag, refers) in [
            (format!("sha256-{hex}"), true),
            (format!("sha256-{hex}.sig"), true),
            (format!("sha256-{hex}.att"), true),
            (format!("sha256-{hex}0"), false),
            (format!("sha256-{}", &hex[..63]), false),
            (format!("sha512-{hex}"), false),
            ("v1".into(), false),
        ] {
            let tag: Tag = tag.parse().unwrap();
            assert_eq!(referred(&tag), refers.then_some(digest), "{tag}");
        }
    }
}
