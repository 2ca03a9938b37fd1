//! The images of a tree, as the CRI sees them: for one platform each, by id, with all their names.
//!
//! An image counts as there only when all of it is: links, manifests and blobs of the right sizes. One that the tree has for other platforms
//! alone is not there. Manifests and configurations are hashed when they are first read; what they say never changes and is kept. What
//! else is kept is proven before each answer ([`Stock`]).

use super::document::{self, Blob, Facts, Node};
use super::name;
use super::snapshot::{Content, Snapshot};
use crate::error::Result;
use crate::oci::{Digest, Platform, PlatformSet, Reference, Repository};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::stock::{Shelf, Sizes, Stock};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How late the names may be in the answer about one image that others gave it elsewhere.
const NAMES_LIFE: Duration = Duration::from_secs(10);
/// How deep indexes in indexes are followed.
const MAX_DEPTH: usize = 4;

/// The images of one store for one platform.
pub(super) struct Catalog {
    store: Store,
    platform: PlatformSet,
    /// How many readings have begun.
    begun: AtomicU64,
    /// How often this service itself has changed the tree.
    changes: AtomicU64,
    known: Mutex<Known>,
}

/// What the last reading found.
#[derive(Default)]
struct Known {
    stock: Stock,
    sizes: Sizes,
    rooms: BTreeMap<Repository, Room>,
    snapshot: Arc<Snapshot>,
    /// Which reading it was, and when it began.
    number: u64,
    when: Option<Instant>,
    /// How many changes there had been.
    changes: u64,
}

/// A repository and what its manifests say.
struct Room {
    shelf: Arc<Shelf>,
    nodes: Arc<HashMap<Digest, Arc<Node>>>,
    /// Whether all of them could be read: if not, they are tried again the next time.
    is_complete: bool,
}

impl Room {
    fn is_of(&self, shelf: &Arc<Shelf>) -> bool {
        self.is_complete && Arc::ptr_eq(&self.shelf, shelf)
    }
}

impl Known {
    /// Whether one of these repositories has a link for what is named.
    fn has_link(&self, places: &[Repository], named: Option<&Reference>) -> bool {
        let Some(named) = named else { return false };
        places.iter().filter_map(|place| self.rooms.get(place)).any(|room| {
            match (&named.digest, &named.tag) {
                (Some(digest), _) => room.shelf.has_revision(digest),
                (None, tag) => room.shelf.tags().any(|(known, _)| Some(known) == tag.as_ref()),
            }
        })
    }
}

impl Catalog {
    pub(super) fn new(store: Store, platform: Platform) -> Self {
        Self {
            store,
            platform: PlatformSet::Only(vec![platform]),
            begun: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Tells that the tree was changed here.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// How often that was told.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// How many readings have begun: for [`read`](Self::read), by who asks now.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// The images that are there at some moment since `asked` readings had begun: another's reading that began after that will do.
    ///
    /// # Errors
    /// `Storage` when the tree can't be read.
    pub(super) fn read(&self, asked: u64) -> Result<Arc<Snapshot>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.number <= asked {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let (now, changes) = (Instant::now(), self.changes());
            self.refresh(&mut known)?;
            known.changes = changes;
            known.number = number;
            known.when = Some(now);
        }
        Ok(known.snapshot.clone())
    }

    /// As [`read`](Self::read), for finding the image that `text` names and nothing else: whatever bears on that is proven, and no more. What
    /// others gave the image for names elsewhere since everything was proven may be lacking, for [`NAMES_LIFE`].
    ///
    /// # Errors
    /// As `read`.
    pub(super) fn read_for(&self, text: &str, asked: u64) -> Result<Arc<Snapshot>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let young =
            known.when.is_some_and(|when| when.elapsed() < NAMES_LIFE) && known.changes == self.changes();
        if known.number > asked || young && self.still_holds(&known, text)? {
            return Ok(known.snapshot.clone());
        }
        drop(known);
        self.read(asked)
    }

    /// Whether what is known of `text` is so still.
    fn still_holds(&self, known: &Known, text: &str) -> Result<bool> {
        let named = name::parse(text).ok();
        let mut places = named.as_ref().map_or_else(Vec::new, name::places);
        match known.snapshot.find(text) {
            Ok(Some(found)) => {
                for (repository, root) in &found.image.roots {
                    places.push(repository.clone());
                    let node = known.rooms.get(repository).and_then(|room| room.nodes.get(root));
                    let blobs =
                        found.image.facts.blobs().chain(node.into_iter().flat_map(|node| node.blobs()));
                    if !all(blobs, |blob| known.sizes.is_as_it_was(&self.store, &blob.digest))? {
                        return Ok(false);
                    }
                }
            }
            // It may be the id of an image that came meanwhile, wherever that is; or something is lacking of it that may have come.
            Ok(None) if name::id(text).is_none() && !known.has_link(&places, named.as_ref()) => {}
            _ => return Ok(false),
        }
        for repository in &places {
            let incomplete = known.rooms.get(repository).is_some_and(|room| !room.is_complete);
            if incomplete || !known.stock.is_as_it_was(&self.store, repository)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn refresh(&self, known: &mut Known) -> Result<()> {
        known.stock.refresh(&self.store)?;
        let sizes_changed = known.sizes.refresh(&self.store)?;
        let shelves = known.stock.repositories();
        let same = |((name, shelf), (known, room)): ((&&Repository, &&Arc<Shelf>), (&Repository, &Room))| {
            *name == known && room.is_of(shelf)
        };
        let same = shelves.len() == known.rooms.len() && shelves.iter().zip(&known.rooms).all(same);
        if same && !sizes_changed {
            return Ok(());
        }
        let read: HashMap<Digest, Arc<Node>> = known
            .rooms
            .values()
            .flat_map(|room| room.nodes.iter().map(|(digest, node)| (*digest, node.clone())))
            .collect();
        let rooms = shelves.into_par_iter().map(|(name, shelf)| {
            let nodes = match known.rooms.get(name).filter(|room| room.is_of(shelf)) {
                Some(room) => room.nodes.clone(),
                None => Arc::new(self.nodes(shelf, &read)?),
            };
            let is_complete = nodes.len() == shelf.revisions().count();
            Ok((name.clone(), Room { shelf: shelf.clone(), nodes, is_complete }))
        });
        known.rooms = rooms.collect::<Result<_>>()?;
        let nodes = known.rooms.values().flat_map(|room| room.nodes.values());
        let blobs = nodes.flat_map(|node| node.blobs()).map(|blob| blob.digest);
        known.sizes.know(&self.store, blobs)?;
        let mut snapshot = Snapshot::default();
        for (name, room) in &known.rooms {
            snapshot.merge(name, content(room, &known.sizes));
        }
        snapshot.finish();
        known.snapshot = Arc::new(snapshot);
        Ok(())
    }

    /// What a repository's manifests say; those that can't be read are left out.
    fn nodes(&self, shelf: &Shelf, read: &HashMap<Digest, Arc<Node>>) -> Result<HashMap<Digest, Arc<Node>>> {
        let mut nodes = HashMap::new();
        for digest in shelf.revisions() {
            let node = match read.get(digest) {
                Some(node) => Some(node.clone()),
                None => document::read(&self.store, &self.platform, digest)?.map(Arc::new),
            };
            nodes.extend(node.map(|node| (*digest, node)));
        }
        Ok(nodes)
    }

    /// The id of the image that a pull of `reference` brought, looked for in its place alone; none unless all of it is there.
    ///
    /// # Errors
    /// `InvalidInput` when its name has no place in a tree; `Storage` when the tree can't be read.
    pub(super) fn id_of(&self, reference: &Reference) -> Result<Option<Digest>> {
        let place = NameRule::Domain.place(reference)?;
        let root = match (reference.digest, &place.tag) {
            (Some(digest), _) => Some(digest),
            (None, Some(tag)) => self.store.read_tag(&place.repository, tag)?,
            (None, None) => None,
        };
        root.map_or(Ok(None), |root| self.id_at(&place.repository, &root, 0))
    }

    fn id_at(&self, repository: &Repository, digest: &Digest, depth: usize) -> Result<Option<Digest>> {
        if depth > MAX_DEPTH || !self.store.has_revision(repository, digest)? {
            return Ok(None);
        }
        match document::read(&self.store, &self.platform, digest)? {
            Some(Node::Image(facts)) => {
                let is_here = |blob: &Blob| Ok(self.store.blob_size(&blob.digest)? == Some(blob.size));
                let is_linked = |blob: &Blob| self.store.has_layer(repository, &blob.digest);
                let whole = all(facts.blobs(), is_here)?
                    && all(std::iter::once(&facts.config).chain(&facts.layers), is_linked)?;
                Ok(whole.then_some(facts.config.digest))
            }
            Some(Node::Index { chosen, .. }) => {
                for entry in &chosen {
                    if let Some(id) = self.id_at(repository, entry, depth + 1)? {
                        return Ok(Some(id));
                    }
                }
                Ok(None)
            }
            Some(Node::Other) | None => Ok(None),
        }
    }
}

fn all<'a>(
    blobs: impl Iterator<Item = &'a Blob>,
    mut holds: impl FnMut(&Blob) -> Result<bool>,
) -> Result<bool> {
    for blob in blobs {
        if !holds(blob)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a repository holds, of what is whole.
fn content(room: &Room, sizes: &Sizes) -> Content {
    let mut content = Content::default();
    for (digest, node) in &*room.nodes {
        if let Node::Index { below, .. } = &**node {
            for entry in below {
                content.below.entry(*entry).or_default().push(*digest);
            }
        }
    }
    for digest in room.nodes.keys() {
        if let Some(facts) = image(room, sizes, digest, 0) {
            content.images.insert(*digest, facts);
        }
    }
    content.tags = room.shelf.tags().map(|(tag, digest)| (tag.clone(), *digest)).collect();
    content
}

/// The image that `digest` stands for in a repository; none unless all of it is there.
fn image(room: &Room, sizes: &Sizes, digest: &Digest, depth: usize) -> Option<Arc<Facts>> {
    if depth > MAX_DEPTH {
        return None;
    }
    let node = room.nodes.get(digest)?;
    let here = |blob: &Blob| sizes.of(&blob.digest) == Some(blob.size);
    match &**node {
        Node::Other => None,
        Node::Image(facts) => {
            let linked = |blob: &Blob| room.shelf.has_layer(&blob.digest);
            (facts.blobs().all(here) && linked(&facts.config) && facts.layers.iter().all(linked))
                .then(|| facts.clone())
        }
        Node::Index { own, chosen, .. } => {
            here(own).then(|| chosen.iter().find_map(|entry| image(room, sizes, entry, depth + 1))).flatten()
        }
    }
}
