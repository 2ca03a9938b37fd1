//! The images of a tree at one moment, by id and by name.

use super::manifest_summary::ImageSummary;
use super::name::{self, NameForm};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository, Tag};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// An image or artifact of the tree.
#[derive(Clone, Debug)]
pub(super) struct ImageEntry {
    pub(super) summary: Arc<ImageSummary>,
    /// Full names with a tag, sorted like the fields that follow.
    pub(super) repo_tags: Vec<String>,
    /// Full names with a digest.
    pub(super) repo_digests: Vec<String>,
    /// The repositories that have the image, with the manifest or index that stands for it there.
    pub(super) places: Vec<(Repository, Digest)>,
    /// The places whose manifest is not part of an index in the same repository.
    pub(super) roots: Vec<(Repository, Digest)>,
    /// The tags that name it, by repository.
    pub(super) tags: Vec<(Repository, Tag)>,
    /// Whether listings include it. An image that the tree has only as a part of an index for several platforms, and a
    /// signature, can be asked for by digest, but is not listed.
    pub(super) is_listed: bool,
}

/// The complete images of one repository.
#[derive(Default)]
pub(super) struct RepositoryImages {
    /// Each manifest or index that stands for an image.
    pub(super) images: HashMap<Digest, Arc<ImageSummary>>,
    /// Every digest that an index of the repository contains.
    pub(super) contained: HashSet<Digest>,
    pub(super) tags: Vec<(Tag, Digest)>,
}

/// The images of a tree at one moment.
#[derive(Default)]
pub(super) struct ImageSnapshot {
    images: BTreeMap<Digest, ImageEntry>,
    tags: HashMap<(String, Tag), NameTarget>,
    digests: HashMap<(String, Digest), NameTarget>,
}

/// The image that a name stands for.
struct NameTarget {
    id: Digest,
    form: NameForm,
    /// The repositories with this name, and the manifest or index that the name stands for there.
    places: Vec<(Repository, Digest)>,
}

/// An image that was looked up.
pub(super) struct ImageMatch<'a> {
    pub(super) image: &'a ImageEntry,
    /// The tag, where the image was looked up by one.
    pub(super) tag: Option<Tag>,
    /// Where the tree has what was asked for.
    pub(super) places: &'a [(Repository, Digest)],
}

impl ImageSnapshot {
    /// The images to list, by id.
    pub(super) fn listed(&self) -> impl Iterator<Item = &ImageEntry> {
        self.images.values().filter(|image| image.is_listed)
    }

    /// Looks up an image by its id, a prefix of its id, or a name in any form that a pull accepts.
    ///
    /// # Errors
    /// `InvalidInput` for text that is neither, and for a prefix of several ids.
    pub(super) fn find(&self, text: &str) -> Result<Option<ImageMatch<'_>>> {
        let by_id = |id: &Digest| {
            self.images.get(id).map(|image| ImageMatch { image, tag: None, places: &image.places })
        };
        if let Some(id) = name::whole_id(text) {
            return Ok(by_id(&id));
        }
        let reference = name::parse(text);
        if let Ok(reference) = &reference {
            let full = format!("{}/{}", reference.registry, reference.repository);
            let target = match (reference.digest, &reference.tag) {
                (Some(digest), _) => self.digests.get(&(full, digest)),
                (None, Some(tag)) => self.tags.get(&(full, tag.clone())),
                (None, None) => None,
            };
            if let Some(target) = target {
                let tag = reference.tag.clone().filter(|_| reference.digest.is_none());
                let image = self.images.get(&target.id);
                return Ok(image.map(|image| ImageMatch { image, tag, places: &target.places }));
            }
        }
        let Some(prefix) = name::id_prefix(text) else { return reference.map(|_| None) };
        let mut matches = self.images.keys().filter(|id| id.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => {
                let why = "the image id is ambiguous: several images have an id with this prefix";
                Err(Error::new(ErrorKind::InvalidInput, text, why).with_hint("use a longer prefix"))
            }
            (first, _) => Ok(first.and_then(by_id)),
        }
    }

    /// Adds the images of a repository.
    pub(super) fn add_repository(&mut self, repository: &Repository, content: RepositoryImages) {
        let (full, form) = name::full(repository);
        let tagged: HashSet<Digest> = content.tags.iter().map(|(_, digest)| *digest).collect();
        for (digest, summary) in &content.images {
            let place = (repository.clone(), *digest);
            let entry = self.entry(summary);
            entry.places.push(place.clone());
            if !content.contained.contains(digest) {
                entry.roots.push(place.clone());
                entry.repo_digests.push(format!("{full}@{digest}"));
                // Only a pull by digest leaves an image of another platform without a tag.
                let is_usable = summary.fits_platform || !tagged.contains(digest);
                entry.is_listed |= is_usable && !summary.has_subject;
            }
            let target = NameTarget { id: summary.id, form, places: vec![place] };
            insert_name(&mut self.digests, (full.clone(), *digest), target);
        }
        for (tag, digest) in content.tags {
            let Some(summary) = content.images.get(&digest).filter(|image| image.fits_platform) else {
                continue;
            };
            let entry = self.entry(summary);
            entry.tags.push((repository.clone(), tag.clone()));
            entry.repo_digests.push(format!("{full}@{digest}"));
            entry.is_listed |= tag.referrers_subject().is_none();
            let target = NameTarget { id: summary.id, form, places: vec![(repository.clone(), digest)] };
            insert_name(&mut self.tags, (full.clone(), tag), target);
        }
    }

    /// Completes the entries once every repository was added.
    pub(super) fn finish(&mut self) {
        for ((full, tag), target) in &self.tags {
            if let Some(image) = self.images.get_mut(&target.id) {
                image.repo_tags.push(format!("{full}:{tag}"));
            }
        }
        for image in self.images.values_mut() {
            if image.repo_digests.is_empty() {
                let names = image.places.iter();
                image.repo_digests =
                    names.map(|(place, digest)| format!("{}@{digest}", name::full(place).0)).collect();
            }
            sort_unique(&mut image.repo_tags);
            sort_unique(&mut image.repo_digests);
            sort_unique(&mut image.places);
            sort_unique(&mut image.roots);
            sort_unique(&mut image.tags);
        }
    }

    fn entry(&mut self, summary: &Arc<ImageSummary>) -> &mut ImageEntry {
        self.images.entry(summary.id).or_insert_with(|| ImageEntry {
            summary: summary.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            places: Vec::new(),
            roots: Vec::new(),
            tags: Vec::new(),
            is_listed: false,
        })
    }
}

/// Adds a name. Where several repositories have the same full name, the one whose own name is the fullest wins; those with the
/// same image share it.
fn insert_name<K: std::hash::Hash + Eq>(names: &mut HashMap<K, NameTarget>, key: K, new: NameTarget) {
    match names.get_mut(&key) {
        Some(known) if known.id == new.id => {
            known.places.extend(new.places);
            known.form = known.form.min(new.form);
        }
        Some(known) if known.form <= new.form => {}
        _ => {
            names.insert(key, new);
        }
    }
}

fn sort_unique<T: Ord>(items: &mut Vec<T>) {
    items.sort();
    items.dedup();
    items.shrink_to_fit();
}
