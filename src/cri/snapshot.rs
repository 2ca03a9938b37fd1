//! The images of a tree at one moment, by id and by every name.

use super::document::Facts;
use super::name::{self, Rank};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository, Tag};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An image of the tree.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) facts: Arc<Facts>,
    /// Its names with tags, in full, sorted as all that follows.
    pub(super) tags: Vec<String>,
    /// Its names with digests, in full.
    pub(super) digests: Vec<String>,
    /// Where the tree has it: repositories, and what there stands for it: an index, or its manifest.
    pub(super) roots: Vec<(Repository, Digest)>,
}

impl Listed {
    pub(super) fn id(&self) -> Digest {
        self.facts.config.digest
    }
}

/// What a repository holds.
#[derive(Default)]
pub(super) struct Content {
    /// What stands for an image that is there.
    pub(super) images: HashMap<Digest, Arc<Facts>>,
    /// The indexes above a manifest.
    pub(super) below: HashMap<Digest, Vec<Digest>>,
    pub(super) tags: Vec<(Tag, Digest)>,
}

/// The images of a tree at one moment.
#[derive(Default)]
pub(super) struct Snapshot {
    images: BTreeMap<Digest, Listed>,
    tags: HashMap<(String, Tag), Named>,
    digests: HashMap<(String, Digest), Named>,
}

/// What a name stands for.
struct Named {
    id: Digest,
    rank: Rank,
    /// Where: the repositories with the tag, or with what stands for the digest's image.
    at: Vec<(Repository, Digest)>,
}

/// What was found by a name, and what that name is.
pub(super) struct Found<'a> {
    pub(super) image: &'a Listed,
    pub(super) by: By,
}

/// How an image was asked for.
pub(super) enum By {
    Id,
    /// A tag in these repositories.
    Tag(Tag, Vec<Repository>),
    /// What stands for the digest's image in these repositories.
    Digest(Vec<(Repository, Digest)>),
}

impl Snapshot {
    /// All images, by id.
    pub(super) fn images(&self) -> impl Iterator<Item = &Listed> {
        self.images.values()
    }

    /// What `text` names: an id, the beginning of an id, or a name in any form that a pull takes.
    ///
    /// # Errors
    /// `InvalidInput` for what can be neither, and for the beginning of several ids.
    pub(super) fn find(&self, text: &str) -> Result<Option<Found<'_>>> {
        let by_id = |id: &Digest| self.images.get(id).map(|image| Found { image, by: By::Id });
        if let Some(id) = name::whole_id(text) {
            return Ok(by_id(&id));
        }
        let named = name::parse(text).map(|reference| {
            let full = format!("{}/{}", reference.registry, reference.repository);
            match (reference.digest, reference.tag) {
                (Some(digest), _) => self.digests.get(&(full, digest)).map(|named| (named, None)),
                (None, Some(tag)) => self.tags.get(&(full, tag.clone())).map(|named| (named, Some(tag))),
                (None, None) => None,
            }
        });
        if let Ok(Some((named, tag))) = &named {
            let by = match tag {
                Some(tag) => {
                    let at = named.at.iter().map(|(repository, _)| repository.clone());
                    By::Tag(tag.clone(), at.collect())
                }
                None => By::Digest(named.at.clone()),
            };
            return Ok(self.images.get(&named.id).map(|image| Found { image, by }));
        }
        let Some(beginning) = name::id(text) else { return named.map(|_| None) };
        let mut fitting = self.images.keys().filter(|id| id.hex().starts_with(beginning));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => {
                let why = "several images have an id that begins so: write more of it";
                Err(Error::new(ErrorKind::InvalidInput, text, why))
            }
            (one, _) => Ok(one.and_then(by_id)),
        }
    }

    /// Adds what a repository holds.
    pub(super) fn merge(&mut self, repository: &Repository, content: Content) {
        let (full, rank) = name::full(repository);
        let here = |root: &Digest| (repository.clone(), *root);
        for (revision, facts) in &content.images {
            let above = content.below.get(revision);
            if above.is_none() {
                self.add(repository, *revision, facts, &full);
            }
            let at = above.map_or_else(|| vec![here(revision)], |above| above.iter().map(here).collect());
            let named = Named { id: facts.config.digest, rank, at };
            Self::name(&mut self.digests, (full.clone(), *revision), named);
        }
        for (tag, root) in content.tags {
            let Some(facts) = content.images.get(&root) else { continue };
            self.add(repository, root, facts, &full);
            let named = Named { id: facts.config.digest, rank, at: vec![here(&root)] };
            Self::name(&mut self.tags, (full.clone(), tag), named);
        }
    }

    /// Tells each image its tags. To be called once, when everything is in.
    pub(super) fn finish(&mut self) {
        for ((full, tag), named) in &self.tags {
            if let Some(image) = self.images.get_mut(&named.id) {
                image.tags.push(format!("{full}:{tag}"));
            }
        }
        for Listed { tags, digests, roots, .. } in self.images.values_mut() {
            sort(tags);
            sort(digests);
            sort(roots);
        }
    }

    fn add(&mut self, repository: &Repository, root: Digest, facts: &Arc<Facts>, full: &str) {
        let image = self.images.entry(facts.config.digest).or_insert_with(|| Listed {
            facts: facts.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            roots: Vec::new(),
        });
        image.roots.push((repository.clone(), root));
        image.digests.push(format!("{full}@{root}"));
    }

    /// A name stands for what its repository of the best rank has; those that have the same go with it.
    fn name<K: std::hash::Hash + Eq>(names: &mut HashMap<K, Named>, key: K, new: Named) {
        match names.get_mut(&key) {
            Some(known) if known.id == new.id => {
                known.at.extend(new.at);
                known.rank = known.rank.min(new.rank);
            }
            Some(known) if known.rank <= new.rank => {}
            _ => {
                names.insert(key, new);
            }
        }
    }
}

/// Each once, in order; memory for no more.
fn sort<T: Ord>(items: &mut Vec<T>) {
    items.sort();
    items.dedup();
    items.shrink_to_fit();
}
