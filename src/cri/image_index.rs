//! The images of a tree, as the CRI sees them: for one platform each, by id, with all their names.
//!
//! An image counts as there only when all of it is: links, manifests and blobs of the right sizes. One that the tree has for other platforms
//! alone is not there. Manifests and configurations are hashed when they are first read; what they say never changes and is kept. What
//! else is kept is proven before each answer ([`LinkCache`]).

use super::document::{self, Blob, Facts, Node};
use super::name;
use super::snapshot::{Content, Snapshot};
use crate::error::Result;
use crate::oci::{Digest, Platform, PlatformSet, Reference, Repository};
use crate::save::NameRule;
use crate::store::Store;
use crate::store::link_cache::{BlobSizes, LinkCache, RepositoryLinks};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    stock: LinkCache,
    sizes: BlobSizes,
    rooms: BTreeMap<Repository, Room>,
    snapshot: Arc<Snapshot>,
    /// Whether the snapshot is what the rest says: not while a reading goes on, nor after one that failed on its way.
    is_whole: bool,
    /// Which reading it was, and when it began.
    number: u64,
    when: Option<Instant>,
    /// How many changes there had been.
    changes: u64,
}

/// A repository and what its manifests say.
struct Room {
    shelf: Arc<RepositoryLinks>,
    nodes: Arc<HashMap<Digest, Arc<Node>>>,
    /// Whether all of them could be read: if not, they are tried again the next time.
    is_complete: bool,
}

impl Room {
    fn is_of(&self, shelf: &Arc<RepositoryLinks>) -> bool {
        self.is_complete && Arc::ptr_eq(&self.shelf, shelf)
    }

    /// All that bears on which image `root` stands for.
    fn nodes_below(&self, root: &Digest) -> Vec<&Node> {
        let (mut nodes, mut seen, mut open) = (Vec::new(), HashSet::new(), vec![root]);
        while let Some(digest) = open.pop() {
            if let Some(node) = self.nodes.get(digest).filter(|_| seen.insert(digest)) {
                if let Node::Index { chosen, .. } = &**node {
                    open.extend(chosen);
                }
                nodes.push(&**node);
            }
        }
        nodes
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
        let young = known.is_whole
            && known.when.is_some_and(|when| when.elapsed() < NAMES_LIFE)
            && known.changes == self.changes();
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
                    let nodes =
                        known.rooms.get(repository).map_or_else(Vec::new, |room| room.nodes_below(root));
                    let blobs = nodes.into_iter().flat_map(Node::blobs);
                    if !all(blobs, |blob| known.sizes.is_unchanged(&self.store, &blob.digest))? {
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
            if incomplete || !known.stock.is_unchanged(&self.store, repository)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn refresh(&self, known: &mut Known) -> Result<()> {
        let was_whole = std::mem::take(&mut known.is_whole);
        known.stock.refresh(&self.store)?;
        let sizes_changed = known.sizes.refresh(&self.store)?;
        let shelves = known.stock.repositories();
        let same = |((name, shelf), (known, room)): (
            (&&Repository, &&Arc<RepositoryLinks>),
            (&Repository, &Room),
        )| { *name == known && room.is_of(shelf) };
        let same = shelves.len() == known.rooms.len() && shelves.iter().zip(&known.rooms).all(same);
        if was_whole && same && !sizes_changed {
            known.is_whole = true;
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
        known.is_whole = true;
        Ok(())
    }

    /// What a repository's manifests say; those that can't be read are left out.
    fn nodes(
        &self,
        shelf: &RepositoryLinks,
        read: &HashMap<Digest, Arc<Node>>,
    ) -> Result<HashMap<Digest, Arc<Node>>> {
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
        let mut seen = HashSet::new();
        root.map_or(Ok(None), |root| self.id_at(&place.repository, &root, 0, &mut seen))
    }

    /// `seen` is what was looked at before, and at what depth: as the search ends with the first image, none of that has one.
    fn id_at(
        &self,
        repository: &Repository,
        digest: &Digest,
        depth: usize,
        seen: &mut HashSet<(Digest, usize)>,
    ) -> Result<Option<Digest>> {
        let is_new = depth <= MAX_DEPTH && seen.insert((*digest, depth));
        if !is_new || !self.store.has_revision(repository, digest)? {
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
                    if let Some(id) = self.id_at(repository, entry, depth + 1, seen)? {
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
fn content(room: &Room, sizes: &BlobSizes) -> Content {
    let mut content = Content::default();
    for (digest, node) in &*room.nodes {
        if let Node::Index { below, .. } = &**node {
            for entry in below {
                content.below.entry(*entry).or_default().push(*digest);
            }
        }
    }
    let mut resolving = Resolving { room, sizes, known: HashMap::new() };
    for digest in room.nodes.keys() {
        if let Some(facts) = resolving.image(digest, 0) {
            content.images.insert(*digest, facts);
        }
    }
    content.tags = room.shelf.tags().map(|(tag, digest)| (tag.clone(), *digest)).collect();
    content
}

/// Finds out which images manifests stand for. Each is looked at once at each depth: there are as many ways through indexes that name
/// the same ones again and again as somebody likes.
struct Resolving<'a> {
    room: &'a Room,
    sizes: &'a BlobSizes,
    known: HashMap<(Digest, usize), Option<Arc<Facts>>>,
}

impl Resolving<'_> {
    /// The image that `digest` stands for in the repository; none unless all of it is there.
    fn image(&mut self, digest: &Digest, depth: usize) -> Option<Arc<Facts>> {
        if depth > MAX_DEPTH {
            return None;
        }
        if let Some(known) = self.known.get(&(*digest, depth)) {
            return known.clone();
        }
        let found = self.look(digest, depth);
        self.known.insert((*digest, depth), found.clone());
        found
    }

    fn look(&mut self, digest: &Digest, depth: usize) -> Option<Arc<Facts>> {
        let (room, sizes) = (self.room, self.sizes);
        let here = |blob: &Blob| sizes.of(&blob.digest) == Some(blob.size);
        match &**room.nodes.get(digest)? {
            Node::Image(facts) => {
                let linked = |blob: &Blob| room.shelf.has_layer(&blob.digest);
                let whole =
                    facts.blobs().all(here) && linked(&facts.config) && facts.layers.iter().all(linked);
                whole.then(|| facts.clone())
            }
            Node::Index { own, chosen, .. } if here(own) => {
                chosen.iter().find_map(|entry| self.image(entry, depth + 1))
            }
            Node::Index { .. } | Node::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;
    use crate::store::faulty_driver::{self, Broken};
    use serde_json::{Value, json};
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A tree that is written by hand.
    struct Tree(tempfile::TempDir);

    impl Tree {
        /// A catalog, and what makes its driver fail.
        fn catalog(&self) -> (Catalog, Broken) {
            let broken = Broken::default();
            let store = faulty_driver::open(self.0.path(), broken.clone()).unwrap();
            (Catalog::new(store, Platform::new("linux", "amd64")), broken)
        }

        fn v2(&self) -> PathBuf {
            self.0.path().join("docker/registry/v2")
        }

        fn blob_dir(&self, digest: &Digest) -> PathBuf {
            let hex = digest.hex();
            self.v2().join(format!("blobs/sha256/{}/{hex}", &hex[..2]))
        }

        fn write(path: &Path, content: &[u8]) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// Puts content into repository `a`, linked below each of `links`.
        fn add(&self, content: &[u8], links: &[&str]) -> Digest {
            let digest = Digest::of(content);
            Self::write(&self.blob_dir(&digest).join("data"), content);
            for link in links {
                let link = format!("repositories/a/{link}/sha256/{}/link", digest.hex());
                Self::write(&self.v2().join(link), digest.to_string().as_bytes());
            }
            digest
        }

        fn add_json(&self, content: &Value, links: &[&str]) -> Value {
            let bytes = serde_json::to_vec(content).unwrap();
            let media_type = content["mediaType"].as_str().unwrap_or(media_type::OCI_CONFIG);
            let digest = self.add(&bytes, links);
            json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
        }

        /// An image with one layer: its manifest, and the layer's digest.
        fn image(&self, layer: &[u8]) -> (Value, Digest) {
            let digest = self.add(layer, &["_layers"]);
            let config = json!({
                "architecture": "amd64", "os": "linux",
                "rootfs": { "type": "layers", "diff_ids": [digest] },
            });
            let config = self.add_json(&config, &["_layers"]);
            let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len() });
            let manifest = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
            });
            (self.add_json(&manifest, &["_manifests/revisions"]), digest)
        }

        fn index(&self, entries: &[Value]) -> Value {
            let index =
                json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
            self.add_json(&index, &["_manifests/revisions"])
        }
    }

    fn count(catalog: &Catalog) -> Result<usize> {
        Ok(catalog.read(catalog.begun())?.images().count())
    }

    #[test]
    fn after_a_reading_that_failed_nothing_old_is_told() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let (_, first) = tree.image(b"one");
        let (catalog, broken) = tree.catalog();
        assert_eq!(count(&catalog).unwrap(), 1);
        let (_, second) = tree.image(b"other");
        // On its way from what was known, and beyond that.
        for layer in [first, second] {
            *broken.lock() = Some(layer);
            assert!(count(&catalog).is_err());
        }
        *broken.lock() = None;
        assert_eq!(count(&catalog).unwrap(), 2);
        assert_eq!(catalog.read_for("a:v1", catalog.begun()).unwrap().images().count(), 2);
    }

    /// Of one image's status too, which proves no more than it must.
    #[test]
    fn an_image_without_an_index_on_the_way_to_it_is_not_there() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let between = tree.index(&[tree.image(b"one").0]);
        let root = tree.index(std::slice::from_ref(&between));
        let catalog = tree.catalog().0;
        let name = format!("a@{}", root["digest"].as_str().unwrap());
        let is_there = || {
            let snapshot = catalog.read_for(&name, catalog.begun()).unwrap();
            snapshot.find(&name).unwrap().is_some()
        };
        assert!(is_there() && is_there());
        let between = between["digest"].as_str().unwrap().parse().unwrap();
        fs::remove_file(tree.blob_dir(&between).join("data")).unwrap();
        assert!(!is_there());
    }

    #[test]
    fn indexes_that_name_each_other_again_and_again_are_no_work_without_end() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let missing = json!({ "mediaType": media_type::OCI_INDEX, "digest": Digest::of(b"none"), "size": 4 });
        let mut below = missing;
        for _ in 0..=MAX_DEPTH {
            below = tree.index(&vec![below; 1000]);
        }
        let catalog = tree.catalog().0;
        assert_eq!(count(&catalog).unwrap(), 0);
        let root = below["digest"].as_str().unwrap();
        let reference = Reference::parse(&format!("docker.io/library/a@{root}")).unwrap();
        assert_eq!(catalog.id_of(&reference).unwrap(), None);
        let root = root.parse().unwrap();
        assert_eq!(catalog.id_at(&"a".parse().unwrap(), &root, 0, &mut HashSet::new()).unwrap(), None);
    }
}
