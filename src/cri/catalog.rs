//! The images of a tree, as the CRI sees them: for one platform each, by id, with all their names.
//!
//! An image counts as there only when all of it is: links, manifests and blobs of the right sizes. One that the tree has for other platforms
//! alone is not there. Manifests and configurations are hashed when they are first read, and what they say is kept in memory, by digest.

use super::name::{self, Rank};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::{ImageManifest, MAX_MANIFEST_SIZE};
use crate::oci::{
    Descriptor, Digest, Manifest, Platform, PlatformSet, RawManifest, Repository, Tag, media_type,
};
use crate::store::Store;
use bytes::Bytes;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// What the documents that are kept in memory may have been long together, in bytes.
const MAX_KEPT: usize = 32 << 20;
/// How deep indexes in indexes are followed.
const MAX_DEPTH: usize = 4;

/// The images of one store for one platform.
pub(super) struct Catalog {
    store: Store,
    platform: PlatformSet,
    kept: Mutex<Kept>,
}

/// What manifests said that were read.
#[derive(Default)]
struct Kept {
    nodes: HashMap<Digest, Arc<Node>>,
    bytes: usize,
}

impl Kept {
    /// Keeps what a document of so many bytes said; what was kept before goes when it is too much.
    fn keep(&mut self, digest: Digest, node: Arc<Node>, bytes: usize) {
        if self.bytes.saturating_add(bytes) > MAX_KEPT {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.nodes.insert(digest, node);
    }
}

/// What a manifest says.
enum Node {
    Index(Vec<Descriptor>),
    Image(Arc<Facts>),
    /// Nothing that runs.
    Other,
}

/// What is known of an image of one platform.
#[derive(Debug)]
pub(super) struct Facts {
    /// Its manifest.
    pub(super) manifest: Descriptor,
    /// Its configuration, whose digest is the image's id.
    pub(super) config: Descriptor,
    /// Its layers, base first.
    pub(super) layers: Vec<Descriptor>,
    /// Its platform.
    pub(super) platform: Platform,
    /// The user that its processes run as, as the configuration says it.
    pub(super) user: String,
    /// The digests of its layers, unpacked.
    pub(super) diff_ids: Vec<Digest>,
}

impl Facts {
    /// What it takes on disk in bytes: manifest, configuration and layers, each content once.
    pub(super) fn size(&self) -> u64 {
        let blobs = self.blobs().chain([&self.manifest, &self.config]);
        let unique: HashMap<Digest, u64> = blobs.map(|blob| (blob.digest, blob.size)).collect();
        unique.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// The layers that are in a tree: not those that have to be had from elsewhere.
    fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().filter(|layer| !media_type::is_foreign_layer(&layer.media_type))
    }
}

/// An image of the tree.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) facts: Arc<Facts>,
    /// Its names with tags, in full.
    pub(super) tags: BTreeSet<String>,
    /// Its names with digests, in full.
    pub(super) digests: BTreeSet<String>,
    /// Where the tree has it: repositories, and what there stands for it: an index, or its manifest.
    pub(super) roots: BTreeSet<(Repository, Digest)>,
}

impl Listed {
    pub(super) fn id(&self) -> Digest {
        self.facts.config.digest
    }
}

/// The lengths of blobs that were looked at, none of those that are not there.
type Known = Mutex<HashMap<Digest, Option<u64>>>;

/// What a repository holds.
#[derive(Default)]
struct Content {
    /// What stands for an image that is there.
    images: HashMap<Digest, Arc<Facts>>,
    /// The indexes above a manifest.
    below: HashMap<Digest, Vec<Digest>>,
    tags: Vec<(Tag, Digest)>,
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

    fn merge(&mut self, repository: &Repository, content: Content) {
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

    fn add(&mut self, repository: &Repository, root: Digest, facts: &Arc<Facts>, full: &str) {
        let image = self.images.entry(facts.config.digest).or_insert_with(|| Listed {
            facts: facts.clone(),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            roots: BTreeSet::new(),
        });
        image.roots.insert((repository.clone(), root));
        image.digests.insert(format!("{full}@{root}"));
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

impl Catalog {
    pub(super) fn new(store: Store, platform: Platform) -> Self {
        Self { store, platform: PlatformSet::Only(vec![platform]), kept: Mutex::default() }
    }

    /// The images that are there now. Reads the whole tree's links.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub(super) fn read(&self) -> Result<Snapshot> {
        let known = Known::default();
        let repositories = self.store.repositories()?;
        let read = repositories.par_iter().map(|repository| self.read_repository(repository, &known));
        let mut snapshot = Snapshot::default();
        for (repository, content) in repositories.iter().zip(read.collect::<Result<Vec<_>>>()?) {
            snapshot.merge(repository, content);
        }
        for ((full, tag), named) in &snapshot.tags {
            if let Some(image) = snapshot.images.get_mut(&named.id) {
                image.tags.insert(format!("{full}:{tag}"));
            }
        }
        Ok(snapshot)
    }

    fn read_repository(&self, repository: &Repository, known: &Known) -> Result<Content> {
        let revisions: HashSet<Digest> = self.store.revisions(repository)?.into_iter().collect();
        let mut content = Content::default();
        for revision in &revisions {
            if let Some(Node::Index(entries)) = self.node(revision)?.as_deref() {
                for entry in entries {
                    content.below.entry(entry.digest).or_default().push(*revision);
                }
            }
        }
        for revision in &revisions {
            if let Some(facts) = self.image(&revisions, revision, known, 0)? {
                content.images.insert(*revision, facts);
            }
        }
        for tag in self.store.tags(repository)? {
            if let Some(root) = self.store.read_tag(repository, &tag)? {
                content.tags.push((tag, root));
            }
        }
        Ok(content)
    }

    /// The image that `digest` stands for among a repository's `revisions`; none unless all of it is there.
    fn image(
        &self,
        revisions: &HashSet<Digest>,
        digest: &Digest,
        known: &Known,
        depth: usize,
    ) -> Result<Option<Arc<Facts>>> {
        if !revisions.contains(digest) || depth > MAX_DEPTH {
            return Ok(None);
        }
        let Some(node) = self.node(digest)? else { return Ok(None) };
        match &*node {
            Node::Other => Ok(None),
            Node::Image(facts) => Ok((self.platform.accepts(&facts.platform)
                && self.is_whole(facts, known)?)
            .then(|| facts.clone())),
            Node::Index(entries) => {
                let (chosen, _) = self.platform.choose(entries);
                for entry in chosen {
                    if let Some(facts) = self.image(revisions, &entry.digest, known, depth + 1)? {
                        return Ok(Some(facts));
                    }
                }
                Ok(None)
            }
        }
    }

    fn is_whole(&self, facts: &Facts, known: &Known) -> Result<bool> {
        for blob in facts.blobs().chain([&facts.manifest, &facts.config]) {
            let looked = known.lock().unwrap_or_else(PoisonError::into_inner).get(&blob.digest).copied();
            let size = match looked {
                Some(size) => size,
                None => {
                    let size = self.store.blob_size(&blob.digest)?;
                    known.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest, size);
                    size
                }
            };
            if size != Some(blob.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the manifest `digest` says; none when it is not there or has other bytes.
    fn node(&self, digest: &Digest) -> Result<Option<Arc<Node>>> {
        if let Some(node) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).nodes.get(digest) {
            return Ok(Some(node.clone()));
        }
        let Some(bytes) = self.store.read_content(digest, MAX_MANIFEST_SIZE)? else { return Ok(None) };
        let Ok(raw) = RawManifest::new(bytes, None) else { return Ok(None) };
        if raw.digest != *digest {
            return Ok(None);
        }
        let mut length = raw.bytes.len();
        let node = match raw.parse() {
            Ok(Manifest::Index(index)) => Node::Index(index.manifests),
            Ok(Manifest::Image(image)) if image.is_image() && image.subject.is_none() => {
                let Some(config) = self.config(&image.config.digest)? else { return Ok(None) };
                length += config.len();
                Self::facts(&raw, *image, &config).map_or(Node::Other, |facts| Node::Image(Arc::new(facts)))
            }
            _ => Node::Other,
        };
        let node = Arc::new(node);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(*digest, node.clone(), length);
        Ok(Some(node))
    }

    /// An image's configuration; none when it is not there or has other bytes.
    ///
    /// # Errors
    /// `Storage` when it can't be read.
    pub(super) fn config(&self, digest: &Digest) -> Result<Option<Bytes>> {
        let bytes = self.store.read_content(digest, MAX_CONFIG_SIZE)?;
        Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
    }

    /// What is known of an image; nothing when its configuration is no runnable image's.
    fn facts(raw: &RawManifest, image: ImageManifest, config: &[u8]) -> Option<Facts> {
        let config = ImageConfig::parse(config).ok()?;
        Some(Facts {
            manifest: raw.descriptor(),
            config: image.config,
            layers: image.layers,
            platform: config.platform,
            user: config.config.user,
            diff_ids: config.rootfs.diff_ids,
        })
    }
}
