//! What a tree's links say, kept in memory and proven before every use.
//!
//! Anybody may change a tree at any time: another saver, a registry, a person. So nothing that is kept is believed. Each link file and each
//! directory of links has a stamp, taken before it is read; [`Stock::refresh`] takes all stamps again, one system call each, and reads again
//! only what has others, or stamps that prove nothing (`stamps.rs`).

use super::fingerprint::{SETTLED, Seen, Stamps};
use super::{Store, path};
use crate::driver::EntryKind;
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The links of one repository: every name that was looked at, whether it is good for anything or not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    tags: Vec<(Tag, Option<Digest>)>,
    revisions: Vec<(Digest, bool)>,
    layers: Vec<(Digest, bool)>,
}

/// The links of all repositories.
pub struct Stock {
    /// By the name of the directory below the repositories', the empty one included.
    places: HashMap<String, Arc<Place>>,
    /// How old a change must be to be told from a later one.
    settled: Duration,
}

impl Default for Stock {
    fn default() -> Self {
        Self { places: HashMap::new(), settled: SETTLED }
    }
}

/// A directory among the repositories, which may be one itself.
struct Place {
    seen: Seen,
    /// The full names of the directories below that may be repositories or have some.
    below: Vec<String>,
    repository: Option<(Repository, Arc<Shelf>)>,
}

impl Shelf {
    /// What each tag names now, sorted by tag. One whose link is missing or damaged is left out.
    pub fn tags(&self) -> impl Iterator<Item = (&Tag, &Digest)> {
        self.tags.iter().filter_map(|(tag, named)| Some((tag, named.as_ref()?)))
    }

    /// What the repository may serve as a manifest, sorted.
    pub fn revisions(&self) -> impl Iterator<Item = &Digest> {
        self.revisions.iter().filter(|(_, good)| *good).map(|(digest, _)| digest)
    }

    /// Whether the repository may serve `digest` as a manifest.
    #[must_use]
    pub fn has_revision(&self, digest: &Digest) -> bool {
        is_good(&self.revisions, digest)
    }

    /// Whether the repository may serve `digest` as a blob.
    #[must_use]
    pub fn has_layer(&self, digest: &Digest) -> bool {
        is_good(&self.layers, digest)
    }

    fn read(store: &Store, repository: &Repository, stamps: &mut Stamps) -> Result<Self> {
        let mut shelf = Self::default();
        stamps.add(store, &path::tags(repository))?;
        for tag in store.tags(repository)? {
            stamps.add(store, &path::tag_current(repository, &tag))?;
            let named = store.read_tag(repository, &tag)?;
            shelf.tags.push((tag, named));
        }
        stamps.add(store, &path::revisions(repository))?;
        for digest in store.revisions(repository)? {
            stamps.add(store, &path::revision_link(repository, &digest))?;
            shelf.revisions.push((digest, store.has_revision(repository, &digest)?));
        }
        let layers = path::layer_links(repository);
        stamps.add(store, &layers)?;
        for digest in store.digests_in(&layers)? {
            stamps.add(store, &path::layer_link(repository, &digest))?;
            shelf.layers.push((digest, store.has_layer(repository, &digest)?));
        }
        Ok(shelf)
    }

    /// The stamps of everything that was read, in the same order.
    fn stamp(&self, store: &Store, repository: &Repository, stamps: &mut Stamps) -> Result<()> {
        stamps.add(store, &path::tags(repository))?;
        for (tag, _) in &self.tags {
            stamps.add(store, &path::tag_current(repository, tag))?;
        }
        stamps.add(store, &path::revisions(repository))?;
        for (digest, _) in &self.revisions {
            stamps.add(store, &path::revision_link(repository, digest))?;
        }
        stamps.add(store, &path::layer_links(repository))?;
        for (digest, _) in &self.layers {
            stamps.add(store, &path::layer_link(repository, digest))?;
        }
        Ok(())
    }
}

fn is_good(links: &[(Digest, bool)], digest: &Digest) -> bool {
    links.binary_search_by_key(digest, |(digest, _)| *digest).is_ok_and(|at| links[at].1)
}

impl Place {
    fn directory(name: &str) -> String {
        match name {
            "" => path::REPOSITORIES.to_owned(),
            name => format!("{}/{name}", path::REPOSITORIES),
        }
    }

    fn is_as_it_was(&self, store: &Store, name: &str) -> Result<bool> {
        if !self.seen.can_prove() {
            return Ok(false);
        }
        let mut stamps = Stamps::default();
        stamps.add(store, &Self::directory(name))?;
        if let Some((repository, shelf)) = &self.repository {
            shelf.stamp(store, repository, &mut stamps)?;
        }
        Ok(self.seen.is_proven_by(&stamps))
    }

    /// What stands there now; `old` is what stood there.
    fn read(store: &Store, name: &str, old: Option<&Self>, settled: Duration) -> Result<Self> {
        let now = SystemTime::now();
        let mut stamps = Stamps::default();
        let directory = Self::directory(name);
        stamps.add(store, &directory)?;
        let (mut below, mut own) = (Vec::new(), false);
        for entry in store.list(&directory)?.into_iter().filter(|entry| entry.kind == EntryKind::Directory) {
            own |= entry.name == path::LAYERS || entry.name == path::MANIFESTS;
            if !entry.name.starts_with('_') {
                let full = if name.is_empty() { entry.name } else { format!("{name}/{}", entry.name) };
                below.extend((full.len() <= super::inventory::MAX_REPOSITORY_LENGTH).then_some(full));
            }
        }
        let repository = match name.parse::<Repository>() {
            Ok(repository) if own => {
                let shelf = Shelf::read(store, &repository, &mut stamps)?;
                let known = old.and_then(|old| old.repository.as_ref().map(|(_, shelf)| shelf));
                let shelf = match known.filter(|known| ***known == shelf) {
                    Some(same) => same.clone(),
                    None => Arc::new(shelf),
                };
                Some((repository, shelf))
            }
            _ => None,
        };
        Ok(Self { seen: stamps.seen(now, settled), below, repository })
    }
}

impl Stock {
    /// Sees to it that everything is as it is in the tree now.
    ///
    /// # Errors
    /// `Storage` when something can't be read; what was known stays.
    pub fn refresh(&mut self, store: &Store) -> Result<()> {
        let mut read = HashMap::with_capacity(self.places.len());
        let mut names = vec![String::new()];
        while !names.is_empty() {
            let places = names.into_par_iter().map(|name| {
                let old = self.places.get(&name);
                let place = match old {
                    Some(old) if old.is_as_it_was(store, &name)? => old.clone(),
                    _ => Arc::new(Place::read(store, &name, old.map(|old| &**old), self.settled)?),
                };
                Ok((name, place))
            });
            let places: Vec<(String, Arc<Place>)> = places.collect::<Result<_>>()?;
            names = places.iter().flat_map(|(_, place)| place.below.iter().cloned()).collect();
            read.extend(places);
        }
        self.places = read;
        Ok(())
    }

    /// Whether a repository's links are what they were at the last refresh, or it is still not there.
    ///
    /// # Errors
    /// `Storage` when it can't be looked at.
    pub fn is_as_it_was(&self, store: &Store, repository: &Repository) -> Result<bool> {
        let Some(place) = self.places.get(repository.as_str()) else {
            return Ok(!store.has_repository(repository)?);
        };
        if place.is_as_it_was(store, repository.as_str())? {
            return Ok(true);
        }
        let now = Place::read(store, repository.as_str(), None, self.settled)?;
        Ok(now.repository == place.repository)
    }

    /// All repositories, in order. One whose links are what they were has the same [`Arc`] as before.
    #[must_use]
    pub fn repositories(&self) -> BTreeMap<&Repository, &Arc<Shelf>> {
        let known = self.places.values().filter_map(|place| place.repository.as_ref());
        known.map(|(repository, shelf)| (repository, shelf)).collect()
    }
}

/// The lengths of blobs, kept in the same way.
#[derive(Default)]
pub struct Sizes {
    known: HashMap<Digest, (Seen, Option<u64>)>,
}

impl Sizes {
    /// Looks at all blobs that are known now; whether one has another length, or is there and was not, or the other way round.
    ///
    /// # Errors
    /// `Storage` when one can't be looked at.
    pub fn refresh(&mut self, store: &Store) -> Result<bool> {
        let looked = self.known.par_iter_mut().map(|(digest, known)| {
            let before = known.1;
            *known = Self::look(store, digest, Some(*known))?;
            Ok(known.1 != before)
        });
        looked.try_reduce(|| false, |one, other| Ok(one | other))
    }

    /// Whether a blob is as long as it was at the last refresh, or still not there.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn is_as_it_was(&self, store: &Store, digest: &Digest) -> Result<bool> {
        let known = self.known.get(digest).copied();
        Ok(known.is_some() && Self::look(store, digest, known)?.1 == known.and_then(|known| known.1))
    }

    /// Knows these blobs and no others from now on. Those that were known are not looked at again.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn know(&mut self, store: &Store, blobs: impl IntoIterator<Item = Digest>) -> Result<()> {
        let blobs: std::collections::HashSet<Digest> = blobs.into_iter().collect();
        let known = blobs.into_par_iter().map(|digest| {
            let known = self.known.get(&digest).copied();
            Ok((digest, known.map_or_else(|| Self::look(store, &digest, None), Ok)?))
        });
        self.known = known.collect::<Result<_>>()?;
        Ok(())
    }

    /// The length of a blob in bytes; none when it is not there, or not known.
    #[must_use]
    pub fn of(&self, digest: &Digest) -> Option<u64> {
        self.known.get(digest)?.1
    }

    fn look(
        store: &Store,
        digest: &Digest,
        known: Option<(Seen, Option<u64>)>,
    ) -> Result<(Seen, Option<u64>)> {
        let now = SystemTime::now();
        let mut stamps = Stamps::default();
        stamps.add(store, &path::data(digest))?;
        match known {
            Some((seen, size)) if seen.is_proven_by(&stamps) => Ok((seen, size)),
            _ => Ok((stamps.seen(now, SETTLED), store.blob_size(digest)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// How long a change is young here, and a little longer.
    const YOUNG: Duration = Duration::from_millis(20);
    const LATER: Duration = Duration::from_millis(32);

    struct Tree {
        dir: tempfile::TempDir,
        store: Store,
        stock: Stock,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), Default::default()).unwrap();
            Self { dir, store, stock: Stock { settled: YOUNG, ..Stock::default() } }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.dir.path().join(path::REPOSITORIES).join(below)
        }

        fn write(&self, below: &str, content: &str) {
            let path = self.path(below);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// As a registry or saver does it: under another name first.
        fn replace(&self, below: &str, content: &str) {
            let staged = self.dir.path().join("staged");
            fs::write(&staged, content).unwrap();
            fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
            fs::rename(staged, self.path(below)).unwrap();
        }

        fn image(&self, name: &str) {
            let digest = Digest::of(name.as_bytes());
            for link in [
                format!("_layers/sha256/{}/link", digest.hex()),
                format!("_manifests/revisions/sha256/{}/link", digest.hex()),
                "_manifests/tags/v1/current/link".to_owned(),
            ] {
                self.write(&format!("{name}/{link}"), &digest.to_string());
            }
        }

        /// What is known after a refresh; it must be what somebody finds who knows nothing.
        fn refreshed(&mut self) -> BTreeMap<Repository, Arc<Shelf>> {
            let all = |stock: &Stock| -> BTreeMap<Repository, Arc<Shelf>> {
                let known = stock.repositories().into_iter();
                known.map(|(name, shelf)| (name.clone(), shelf.clone())).collect()
            };
            let mut fresh = Stock::default();
            fresh.refresh(&self.store).unwrap();
            for name in
                ["a", "a/b", "c/d", "e.io/f/g", "none"].map(|name| name.parse::<Repository>().unwrap())
            {
                let [known, now] =
                    [&self.stock, &fresh].map(|stock| stock.repositories().get(&name).copied());
                assert_eq!(self.stock.is_as_it_was(&self.store, &name).unwrap(), known == now, "{name}");
            }
            self.stock.refresh(&self.store).unwrap();
            assert_eq!(all(&self.stock), all(&fresh));
            all(&self.stock)
        }
    }

    #[test]
    fn what_did_not_change_is_not_read_again_and_what_changed_is() {
        let mut tree = Tree::new();
        assert!(tree.refreshed().is_empty());
        for name in ["a", "a/b/c", "localhost_5000/d"] {
            tree.image(name);
        }
        assert_eq!(tree.refreshed().len(), 3);
        std::thread::sleep(LATER);
        let first = tree.refreshed();
        let places = tree.stock.places.clone();
        let again = tree.refreshed();
        assert!(tree.stock.places.iter().all(|(name, place)| Arc::ptr_eq(place, &places[name])));
        assert!(first.values().zip(again.values()).all(|(one, other)| Arc::ptr_eq(one, other)));
        tree.replace("a/b/c/_manifests/tags/v2/current/link", &Digest::of(b"a/b/c").to_string());
        let changed = tree.refreshed();
        let names = |known: &BTreeMap<Repository, Arc<Shelf>>| -> Vec<String> {
            let same = known.iter().zip(first.values()).filter(|((_, one), other)| Arc::ptr_eq(one, other));
            same.map(|((name, _), _)| name.to_string()).collect()
        };
        assert_eq!(names(&changed), ["a", "localhost_5000/d"]);
        fs::remove_dir_all(tree.path("a/b")).unwrap();
        assert_eq!(tree.refreshed().len(), 2);
    }

    #[test]
    fn young_stamps_and_media_that_cannot_tell_prove_nothing() {
        let mut tree = Tree::new();
        tree.stock.settled = Duration::from_secs(3600);
        tree.image("a");
        tree.refreshed();
        let before = tree.stock.places["a"].clone();
        tree.refreshed();
        assert!(!Arc::ptr_eq(&before, &tree.stock.places["a"]));
        let memory = Store::with_driver(Arc::new(crate::driver::MemoryDriver::new()), Default::default());
        let mut stock = Stock { settled: Duration::ZERO, ..Stock::default() };
        stock.refresh(&memory).unwrap();
        assert!(!stock.places[""].seen.can_prove());
    }

    /// Whatever anybody does to links, in whatever way, is seen by the next refresh.
    #[test]
    fn changes_of_every_kind_are_seen() {
        let mut tree = Tree::new();
        let names = ["a", "a/b", "c/d", "e.io/f/g"];
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let links = [
            "_manifests/tags/v1/current/link".to_owned(),
            "_manifests/tags/v2/current/link".to_owned(),
            format!("_manifests/revisions/sha256/{}/link", one.hex()),
            format!("_layers/sha256/{}/link", one.hex()),
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..120 {
            let name = names[random.usize(..names.len())];
            let link = format!("{name}/{}", links[random.usize(..links.len())]);
            let digest = [one, other][random.usize(..2)].to_string();
            let up = |path: &str, steps: usize| {
                (0..steps).fold(path.to_owned(), |path, _| super::super::path::parent(&path).to_owned())
            };
            match random.u8(..7) {
                0 => tree.write(&link, &digest),
                1 => tree.replace(&link, &digest),
                2 => tree.write(&link, "nonsense"),
                3 => drop(fs::remove_file(tree.path(&link))),
                4 => drop(fs::remove_dir_all(tree.path(&up(&link, 1)))),
                5 => drop(fs::remove_dir_all(tree.path(&up(&link, 3)))),
                _ => drop(fs::remove_dir_all(tree.path(name))),
            }
            seen.insert(format!("{:?}", tree.refreshed()));
            std::thread::sleep(LATER);
        }
        assert!(seen.len() > 40, "{}", seen.len());
    }

    #[test]
    fn blobs_that_go_come_or_change_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let (digest, gone) = (Digest::of(b"x"), Digest::of(b"y"));
        let path = dir.path().join(path::data(&digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut sizes = Sizes::default();
        sizes.know(&store, [digest, gone]).unwrap();
        assert_eq!((sizes.of(&digest), sizes.refresh(&store).unwrap()), (None, false));
        for content in [Some(&b"x"[..]), Some(&b"longer"[..]), None, Some(&b"x"[..])] {
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            assert!(sizes.refresh(&store).unwrap());
            assert_eq!(sizes.of(&digest), content.map(|content| content.len() as u64));
            assert!(!sizes.refresh(&store).unwrap());
        }
        sizes.know(&store, [gone]).unwrap();
        assert_eq!(sizes.of(&digest), None);
    }
}
