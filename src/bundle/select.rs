//! Selects the images of a bundle, and everything that they need.

use super::document::{BundledImage, BundledReferrer, BundledSource};
use super::missing::{MissingContent, RequestedImage};
use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::ls::{Reached, ReferrerListing, RepositoryWalk, TagListing};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::provenance::Provenance;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which images a bundle has.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum BundleImages {
    /// All of the directory.
    #[default]
    All,
    /// These, by the names that they were saved under.
    Named(Vec<Reference>),
    /// Those of an earlier bundle, with only the content that was missing.
    Missing(MissingContent),
}

/// An image that is left out, because the directory does not have all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OmittedImage {
    /// Its name in the directory.
    pub image: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The selected images, and what they need.
#[derive(Default)]
pub(super) struct SelectedImages {
    /// The images, sorted.
    pub(super) images: Vec<BundledImage>,
    pub(super) omitted: Vec<OmittedImage>,
    /// All content with its sizes.
    pub(super) content: BTreeMap<Digest, u64>,
    /// The links of each repository.
    pub(super) links: BTreeMap<Repository, RepositoryLinks>,
}

/// The links of a repository.
#[derive(Default)]
pub(super) struct RepositoryLinks {
    pub(super) layers: BTreeSet<Digest>,
    pub(super) revisions: BTreeSet<Digest>,
    /// The tags of lists of referrers, and those of cosign.
    pub(super) referrer_tags: BTreeMap<Tag, Digest>,
    pub(super) tags: BTreeMap<Tag, Digest>,
}

/// An image, where the walk of its repository begins.
type Wanted = BTreeMap<Repository, Option<BTreeSet<(Option<Tag>, Option<Digest>)>>>;

impl SelectedImages {
    /// Selects images of the tree in `store`.
    ///
    /// # Errors
    /// `NotFound` for an image that the tree does not have; `InvalidInput` if there is none at all; `Storage`.
    pub(super) fn select(store: &Store, names: &NameRule, images: &BundleImages) -> Result<Self> {
        let provenance = store.provenance()?;
        let wanted = wanted(store, names, images)?;
        let walked: Vec<Vec<(Repository, TagListing, Reached)>> = wanted
            .into_par_iter()
            .map(|(repository, which)| walk(store, &provenance, repository, which))
            .collect::<Result<_>>()?;
        let mut selected = Self::default();
        for (repository, listing, reached) in walked.into_iter().flatten() {
            selected.add(store, &provenance, repository, listing, reached)?;
        }
        if selected.images.is_empty() {
            let error = match selected.omitted.first() {
                Some(omitted) => Error::new(ErrorKind::Corrupt, &omitted.image, &omitted.problem)
                    .with_hint("saver verify --dir DIR shows what is damaged"),
                None => Error::new(ErrorKind::InvalidInput, "", "the directory has no images to bundle"),
            };
            return Err(error);
        }
        let key = |image: &BundledImage| (image.repository.clone(), image.tag.clone(), image.digest);
        selected.images.sort_by_cached_key(key);
        selected.images.dedup_by_key(|image| key(image));
        Ok(selected)
    }

    fn add(
        &mut self,
        store: &Store,
        provenance: &Provenance,
        repository: Repository,
        listing: TagListing,
        mut reached: Reached,
    ) -> Result<()> {
        let place = Place { repository: repository.clone(), tag: listing.tag.clone() };
        if let Some(problem) = listing.problems.into_iter().next() {
            self.omitted.push(OmittedImage { image: place.to_string(), problem });
            return Ok(());
        }
        let Some(digest) = listing.digest else { return Ok(()) };
        let mut referrers = BTreeSet::new();
        flatten(&listing.referrers, &mut referrers);
        for subject in referrers.iter().map(|referrer| referrer.subject) {
            // An index that was pruned or flattened is kept for its signatures.
            if !reached.0.contains_key(&subject)
                && let Some(size) = store.blob_size(&subject)?
            {
                reached.0.insert(subject, size);
            }
        }
        let mut manifests = BTreeSet::new();
        for digest in reached.0.keys() {
            if store.has_revision(&repository, digest)? {
                manifests.insert(*digest);
            }
        }
        let links = self.links.entry(repository.clone()).or_default();
        links.revisions.extend(&manifests);
        links.layers.extend(reached.0.keys().filter(|digest| !manifests.contains(digest)));
        self.content.extend(reached.0);
        for referrer in &referrers {
            match &referrer.tag {
                Some(tag) => {
                    links.referrer_tags.insert(tag.clone(), referrer.digest);
                }
                None => {
                    let tag = Tag::referrers(&referrer.subject);
                    let Some(list) = store.read_tag(&repository, &tag)? else { continue };
                    let Some(size) = store.blob_size(&list)? else { continue };
                    self.content.insert(list, size);
                    links.revisions.insert(list);
                    links.referrer_tags.insert(tag, list);
                }
            }
        }
        if let Some(tag) = &place.tag {
            links.tags.insert(tag.clone(), digest);
        }
        let source = provenance.source(&place, &digest).map(|record| BundledSource {
            digest: record.source_digest,
            index: record.index.clone(),
            platforms: record.platforms.clone(),
            reference: record.source.clone(),
        });
        let present = listing.platforms.into_iter().filter(|platform| platform.present);
        self.images.push(BundledImage {
            digest,
            manifests: manifests.into_iter().collect(),
            platforms: present.map(|platform| platform.platform).collect(),
            referrers: referrers.into_iter().collect(),
            repository,
            source,
            tag: place.tag,
        });
        Ok(())
    }
}

/// The repositories to walk, and the images in each; `None` for all of them.
fn wanted(store: &Store, names: &NameRule, images: &BundleImages) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    let mut want = |repository, tag, digest| {
        let images = wanted.entry(repository).or_insert_with(|| Some(BTreeSet::new()));
        images.get_or_insert_default().insert((tag, digest));
    };
    match images {
        BundleImages::All => return Ok(store.repositories()?.into_iter().map(|name| (name, None)).collect()),
        BundleImages::Named(references) => {
            for reference in references {
                let Place { repository, tag } = names.find(store, reference)?;
                want(repository, tag, reference.digest);
            }
        }
        BundleImages::Missing(missing) => {
            for RequestedImage { digest, repository, tag } in &missing.images {
                if !store.has_revision(repository, digest)? {
                    let image = format!("{repository}@{digest}");
                    let why = "the directory no longer has this image of the earlier bundle";
                    return Err(Error::new(ErrorKind::NotFound, image, why)
                        .with_hint("make a new bundle with --since, from a list of saver have"));
                }
                want(repository.clone(), tag.clone(), Some(*digest));
            }
        }
    }
    Ok(wanted)
}

fn walk(
    store: &Store,
    provenance: &Provenance,
    repository: Repository,
    which: Option<BTreeSet<(Option<Tag>, Option<Digest>)>>,
) -> Result<Vec<(Repository, TagListing, Reached)>> {
    let walk = RepositoryWalk::read(store, &repository)?;
    let found = match which {
        None => {
            let mut found = Vec::new();
            for tag in walk.tags() {
                found.push(walk.tag(tag, provenance)?);
            }
            found.extend(walk.saved_by_digest(provenance)?);
            found
        }
        Some(which) => {
            let image = |(tag, digest): (Option<Tag>, Option<Digest>)| match (tag, digest) {
                (tag, Some(digest)) => walk.image(tag, digest, provenance),
                (Some(tag), None) => walk.tag(&tag, provenance),
                (None, None) => Err(Error::internal(&repository)),
            };
            which.into_iter().map(image).collect::<Result<_>>()?
        }
    };
    Ok(found.into_iter().map(|(listing, reached)| (repository.clone(), listing, reached)).collect())
}

fn flatten(listings: &[ReferrerListing], found: &mut BTreeSet<BundledReferrer>) {
    for listing in listings {
        let ReferrerListing { subject, digest, tag, .. } = listing;
        found.insert(BundledReferrer { digest: *digest, subject: *subject, tag: tag.clone() });
        flatten(&listing.referrers, found);
    }
}
