//! Lists the referrers of an image: signatures, attestations, SBOMs.

use super::TagListing;
use super::walk::{Reached, walk_image};
use crate::error::Result;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::referrer::{ListedReferrer, ReferrerTag, ReferrerTagKind};
use crate::oci::{Digest, Manifest, RawManifest, Repository, Tag};
use crate::store::Store;
use crate::store::provenance::Provenance;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Maximum depth of referrers of referrers.
const MAX_DEPTH: usize = 8;

/// A referrer of an image, and what refers to it in turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReferrerListing {
    /// The manifest that it refers to.
    pub subject: Digest,
    /// Its digest.
    pub digest: Digest,
    /// The tag that connects it with its subject, if it is one of cosign's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Its artifact type, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Total size of the stored content that it reaches.
    pub bytes: u64,
    /// What refers to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerListing>,
}

/// The tags of referrers of one repository, by their subject.
pub(super) struct RepositoryReferrers<'a> {
    store: &'a Store,
    repository: &'a Repository,
    tags: BTreeMap<Digest, Vec<ReferrerTag>>,
    /// Subjects that are indexes, with the manifests that they name: one that was pruned or flattened is below no tag.
    sources: Vec<(Digest, HashSet<Digest>)>,
}

/// What was listed for one tag.
#[derive(Default)]
struct FoundReferrers {
    listings: Vec<ReferrerListing>,
    reached: Reached,
    problems: Vec<String>,
    seen: HashSet<Digest>,
}

impl<'a> RepositoryReferrers<'a> {
    /// Takes the tags of referrers out of `tags`. One whose subject is not stored stays, since it is listed by itself.
    pub(super) fn take(store: &'a Store, repository: &'a Repository, tags: &mut Vec<Tag>) -> Result<Self> {
        let mut found = Self { store, repository, tags: BTreeMap::new(), sources: Vec::new() };
        let mut others = Vec::with_capacity(tags.len());
        for tag in tags.drain(..) {
            match ReferrerTag::parse(&tag) {
                Some(referrer) if store.has_revision(repository, &referrer.subject)? => {
                    found.tags.entry(referrer.subject).or_default().push(referrer);
                }
                _ => others.push(tag),
            }
        }
        *tags = others;
        for subject in found.tags.keys() {
            let content = store.read_content(subject, MAX_MANIFEST_SIZE)?;
            let parsed = content.and_then(|bytes| RawManifest::verified(bytes, *subject).ok()?);
            if let Some((_, Manifest::Index(index))) = parsed {
                found.sources.push((*subject, index.manifests.iter().map(|entry| entry.digest).collect()));
            }
        }
        Ok(found)
    }

    /// The lists of referrers, now and before, and the indexes that were kept for their signatures: no images of their own.
    pub(super) fn lists_and_sources(&self) -> Result<HashSet<Digest>> {
        let mut found: HashSet<Digest> = self.sources.iter().map(|(digest, _)| *digest).collect();
        for tag in self.tags.values().flatten() {
            found.extend(self.store.tag_history(self.repository, &tag.tag())?);
        }
        Ok(found)
    }

    /// Adds the referrers of an image to its listing and to what it reaches.
    pub(super) fn add_to(&self, image: &mut TagListing, reached: &mut Reached) -> Result<()> {
        let found = self.of(reached)?;
        image.referrers = found.listings;
        image.problems.extend(found.problems);
        reached.0.extend(found.reached.0);
        image.bytes = reached.bytes();
        Ok(())
    }

    /// The referrers of everything in `reached`, and of the indexes that it was taken from.
    fn of(&self, reached: &Reached) -> Result<FoundReferrers> {
        let mut found = FoundReferrers::default();
        let is_reached = |digest: &Digest| reached.0.contains_key(digest);
        let sources = self.sources.iter().filter(|(_, names)| names.iter().any(is_reached));
        let sources: HashSet<Digest> = sources.map(|(digest, _)| *digest).collect();
        for subject in self.tags.keys().filter(|subject| is_reached(subject) || sources.contains(subject)) {
            let listings = self.list(subject, 0, &mut found)?;
            found.listings.extend(listings);
        }
        Ok(found)
    }

    fn list(
        &self,
        subject: &Digest,
        depth: usize,
        found: &mut FoundReferrers,
    ) -> Result<Vec<ReferrerListing>> {
        let mut listings = Vec::new();
        for tag in self.tags.get(subject).into_iter().flatten() {
            if tag.kind == ReferrerTagKind::Fallback {
                if let Some(list) = self.store.read_tag(self.repository, &tag.tag())? {
                    let size = self.store.blob_size(&list)?;
                    found.reached.0.extend(size.map(|size| (list, size)));
                }
                for entry in self.store.listed_referrers(self.repository, subject)? {
                    listings.extend(self.listing(subject, entry.digest, None, depth, found)?);
                }
            } else if let Some(digest) = self.store.read_tag(self.repository, &tag.tag())? {
                listings.extend(self.listing(subject, digest, Some(*tag), depth, found)?);
            }
        }
        Ok(listings)
    }

    fn listing(
        &self,
        subject: &Digest,
        digest: Digest,
        tag: Option<ReferrerTag>,
        depth: usize,
        found: &mut FoundReferrers,
    ) -> Result<Option<ReferrerListing>> {
        if depth == MAX_DEPTH || !self.store.has_revision(self.repository, &digest)? {
            return Ok(None);
        }
        let (walked, reached) =
            walk_image(self.store, self.repository, None, Some(digest), &Provenance::default())?;
        let named = format!("referrer {}", digest.short());
        found.problems.extend(walked.problems.iter().map(|problem| format!("{named}: {problem}")));
        let content = self.store.read_content(&digest, MAX_MANIFEST_SIZE)?;
        let listed = content.and_then(|bytes| ListedReferrer::read(&bytes, digest));
        let artifact_type = match tag {
            Some(tag) => tag.kind.artifact_type().map(str::to_owned),
            None => listed.and_then(|listed| listed.descriptor.artifact_type),
        };
        let bytes = reached.bytes();
        found.reached.0.extend(reached.0);
        let referrers =
            if found.seen.insert(digest) { self.list(&digest, depth + 1, found)? } else { Vec::new() };
        let tag = tag.map(|tag| tag.tag());
        Ok(Some(ReferrerListing { subject: *subject, digest, tag, artifact_type, bytes, referrers }))
    }
}
