//! An in-memory cache of the links in a tree, validated before every use.
//!
//! Other processes may change the tree at any time: another saver, a registry, an administrator. So cached links are never trusted
//! as they are. The state of each link file and directory is recorded before it is read; [`LinkCache::refresh`] takes all states
//! again, with one system call each, and reads only those again that differ or that prove nothing (`fingerprint.rs`).

use super::fingerprint::{Fingerprint, FingerprintBuilder, SETTLED};
use super::{Store, path};
use crate::driver::EntryKind;
use crate::error::Result;
use crate::oci::{Digest, Repository, Tag};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The links of one repository: every entry that was read, whether its link is valid or not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RepositoryLinks {
    tags: Vec<(Tag, Option<Digest>)>,
    revisions: Vec<(Digest, bool)>,
    layers: Vec<(Digest, bool)>,
}

/// The links of all repositories.
pub struct LinkCache {
    /// By the path of the directory below that of the repositories, which is the empty path.
    directories: HashMap<String, Arc<CachedDirectory>>,
    /// Minimum age of a change for which a later change would have another time.
    settled: Duration,
}

impl Default for LinkCache {
    fn default() -> Self {
        Self { directories: HashMap::new(), settled: SETTLED }
    }
}

/// A directory below that of the repositories, which may be a repository itself.
struct CachedDirectory {
    seen: Fingerprint,
    /// The paths of its subdirectories that may be repositories or contain some.
    below: Vec<String>,
    repository: Option<(Repository, Arc<RepositoryLinks>)>,
}

impl RepositoryLinks {
    /// The digest that each tag points to, sorted by tag. Tags whose link is missing or damaged are left out.
    pub fn tags(&self) -> impl Iterator<Item = (&Tag, &Digest)> {
        self.tags.iter().filter_map(|(tag, named)| Some((tag, named.as_ref()?)))
    }

    /// The digests that the repository serves as manifests, sorted.
    pub fn revisions(&self) -> impl Iterator<Item = &Digest> {
        self.revisions.iter().filter(|(_, good)| *good).map(|(digest, _)| digest)
    }

    /// Whether the repository serves `digest` as a manifest.
    #[must_use]
    pub fn has_revision(&self, digest: &Digest) -> bool {
        is_good(&self.revisions, digest)
    }

    /// Whether the repository serves `digest` as a blob.
    #[must_use]
    pub fn has_layer(&self, digest: &Digest) -> bool {
        is_good(&self.layers, digest)
    }

    fn read(store: &Store, repository: &Repository, stamps: &mut FingerprintBuilder) -> Result<Self> {
        let mut links = Self::default();
        stamps.add(store, &path::tags(repository))?;
        // Also tags without a `current` link: it may appear later, which does not change the directory of tags.
        for tag in store.tag_directories(repository)? {
            stamps.add(store, &path::tag_current(repository, &tag))?;
            let named = store.read_tag(repository, &tag)?;
            links.tags.push((tag, named));
        }
        stamps.add(store, &path::revisions(repository))?;
        for digest in store.revisions(repository)? {
            stamps.add(store, &path::revision_link(repository, &digest))?;
            links.revisions.push((digest, store.has_revision(repository, &digest)?));
        }
        let layers = path::layer_links(repository);
        stamps.add(store, &layers)?;
        for digest in store.digests_in(&layers)? {
            stamps.add(store, &path::layer_link(repository, &digest))?;
            links.layers.push((digest, store.has_layer(repository, &digest)?));
        }
        Ok(links)
    }

    /// Adds the states of everything that was read, in the same order.
    fn stamp(&self, store: &Store, repository: &Repository, stamps: &mut FingerprintBuilder) -> Result<()> {
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

impl CachedDirectory {
    fn path(name: &str) -> String {
        match name {
            "" => path::REPOSITORIES.to_owned(),
            name => format!("{}/{name}", path::REPOSITORIES),
        }
    }

    fn is_unchanged(&self, store: &Store, name: &str) -> Result<bool> {
        if !self.seen.is_conclusive() {
            return Ok(false);
        }
        let mut stamps = FingerprintBuilder::default();
        stamps.add(store, &Self::path(name))?;
        if let Some((repository, links)) = &self.repository {
            links.stamp(store, repository, &mut stamps)?;
        }
        Ok(self.seen.matches(&stamps))
    }

    /// Reads the directory. `old` is its previous state, whose links are kept if they are the same.
    fn read(store: &Store, name: &str, old: Option<&Self>, settled: Duration) -> Result<Self> {
        let now = SystemTime::now();
        let mut stamps = FingerprintBuilder::default();
        let path = Self::path(name);
        stamps.add(store, &path)?;
        let (mut below, mut own) = (Vec::new(), false);
        for entry in store.list(&path)?.into_iter().filter(|entry| entry.kind == EntryKind::Directory) {
            own |= entry.name == path::LAYERS || entry.name == path::MANIFESTS;
            if !entry.name.starts_with('_') {
                let full = if name.is_empty() { entry.name } else { format!("{name}/{}", entry.name) };
                below.extend((full.len() <= super::inventory::MAX_REPOSITORY_LENGTH).then_some(full));
            }
        }
        let repository = match name.parse::<Repository>() {
            Ok(repository) if own => {
                let links = RepositoryLinks::read(store, &repository, &mut stamps)?;
                let known = old.and_then(|old| old.repository.as_ref().map(|(_, links)| links));
                let links = match known.filter(|known| ***known == links) {
                    Some(same) => same.clone(),
                    None => Arc::new(links),
                };
                Some((repository, links))
            }
            _ => None,
        };
        Ok(Self { seen: stamps.fingerprint(now, settled), below, repository })
    }
}

impl LinkCache {
    /// Brings the cache up to date with the tree.
    ///
    /// # Errors
    /// `Storage` if something can't be read. The cache is unchanged then.
    pub fn refresh(&mut self, store: &Store) -> Result<()> {
        let mut read = HashMap::with_capacity(self.directories.len());
        let mut names = vec![String::new()];
        while !names.is_empty() {
            let directories = names.into_par_iter().map(|name| {
                let old = self.directories.get(&name);
                let directory = match old {
                    Some(old) if old.is_unchanged(store, &name)? => old.clone(),
                    _ => Arc::new(CachedDirectory::read(store, &name, old.map(|old| &**old), self.settled)?),
                };
                Ok((name, directory))
            });
            let directories: Vec<(String, Arc<CachedDirectory>)> = directories.collect::<Result<_>>()?;
            names = directories.iter().flat_map(|(_, directory)| directory.below.iter().cloned()).collect();
            read.extend(directories);
        }
        self.directories = read;
        Ok(())
    }

    /// Whether the links of a repository are the same as at the last refresh, or it still does not exist.
    ///
    /// # Errors
    /// `Storage` if it can't be accessed.
    pub fn is_unchanged(&self, store: &Store, repository: &Repository) -> Result<bool> {
        let Some(directory) = self.directories.get(repository.as_str()) else {
            return Ok(!store.has_repository(repository)?);
        };
        if directory.is_unchanged(store, repository.as_str())? {
            return Ok(true);
        }
        let now = CachedDirectory::read(store, repository.as_str(), None, self.settled)?;
        Ok(now.repository == directory.repository)
    }

    /// All repositories, sorted. A repository whose links are unchanged has the same [`Arc`] as before.
    #[must_use]
    pub fn repositories(&self) -> BTreeMap<&Repository, &Arc<RepositoryLinks>> {
        let known = self.directories.values().filter_map(|directory| directory.repository.as_ref());
        known.map(|(repository, links)| (repository, links)).collect()
    }
}

/// A cache of the sizes of blobs, validated in the same way.
#[derive(Default)]
pub struct BlobSizes {
    known: HashMap<Digest, (Fingerprint, Option<u64>)>,
}

impl BlobSizes {
    /// Checks all cached blobs. Returns whether any of them has another size, has appeared or has disappeared.
    ///
    /// # Errors
    /// `Storage` if one can't be accessed.
    pub fn refresh(&mut self, store: &Store) -> Result<bool> {
        let looked = self.known.par_iter_mut().map(|(digest, known)| {
            let before = known.1;
            *known = Self::look(store, digest, Some(*known))?;
            Ok(known.1 != before)
        });
        looked.try_reduce(|| false, |one, other| Ok(one | other))
    }

    /// Whether a blob has the same size as at the last refresh, or still does not exist.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn is_unchanged(&self, store: &Store, digest: &Digest) -> Result<bool> {
        let known = self.known.get(digest).copied();
        Ok(known.is_some() && Self::look(store, digest, known)?.1 == known.and_then(|known| known.1))
    }

    /// Caches these blobs and no others from now on. Blobs that are cached already are not checked again.
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

    /// The size of a blob in bytes, or `None` if it does not exist or is not cached.
    #[must_use]
    pub fn of(&self, digest: &Digest) -> Option<u64> {
        self.known.get(digest)?.1
    }

    fn look(
        store: &Store,
        digest: &Digest,
        known: Option<(Fingerprint, Option<u64>)>,
    ) -> Result<(Fingerprint, Option<u64>)> {
        let now = SystemTime::now();
        let mut stamps = FingerprintBuilder::default();
        stamps.add(store, &path::data(digest))?;
        match known {
            Some((seen, size)) if seen.matches(&stamps) => Ok((seen, size)),
            _ => Ok((stamps.fingerprint(now, SETTLED), store.blob_size(digest)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// The minimum age in these tests, and a little more.
    const YOUNG: Duration = Duration::from_millis(20);
    const LATER: Duration = Duration::from_millis(32);

    struct Tree {
        dir: tempfile::TempDir,
        store: Store,
        cache: LinkCache,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), Default::default()).unwrap();
            Self { dir, store, cache: LinkCache { settled: YOUNG, ..LinkCache::default() } }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.dir.path().join(path::REPOSITORIES).join(below)
        }

        fn write(&self, below: &str, content: &str) {
            let path = self.path(below);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// As a registry or saver does it: write a temporary file and rename it.
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

        /// The cache after a refresh, which must be the same as that of a new cache.
        fn refreshed(&mut self) -> BTreeMap<Repository, Arc<RepositoryLinks>> {
            let all = |cache: &LinkCache| -> BTreeMap<Repository, Arc<RepositoryLinks>> {
                let known = cache.repositories().into_iter();
                known.map(|(name, links)| (name.clone(), links.clone())).collect()
            };
            let mut fresh = LinkCache::default();
            fresh.refresh(&self.store).unwrap();
            for name in
                ["a", "a/b", "c/d", "e.io/f/g", "none"].map(|name| name.parse::<Repository>().unwrap())
            {
                let [known, now] =
                    [&self.cache, &fresh].map(|cache| cache.repositories().get(&name).copied());
                assert_eq!(self.cache.is_unchanged(&self.store, &name).unwrap(), known == now, "{name}");
            }
            self.cache.refresh(&self.store).unwrap();
            assert_eq!(all(&self.cache), all(&fresh));
            all(&self.cache)
        }
    }

    #[test]
    fn only_changed_repositories_are_read_again() {
        let mut tree = Tree::new();
        assert!(tree.refreshed().is_empty());
        for name in ["a", "a/b/c", "localhost_5000/d"] {
            tree.image(name);
        }
        assert_eq!(tree.refreshed().len(), 3);
        std::thread::sleep(LATER);
        let first = tree.refreshed();
        let directories = tree.cache.directories.clone();
        let again = tree.refreshed();
        assert!(
            tree.cache.directories.iter().all(|(name, directory)| Arc::ptr_eq(directory, &directories[name]))
        );
        assert!(first.values().zip(again.values()).all(|(one, other)| Arc::ptr_eq(one, other)));
        tree.replace("a/b/c/_manifests/tags/v2/current/link", &Digest::of(b"a/b/c").to_string());
        let changed = tree.refreshed();
        let names = |known: &BTreeMap<Repository, Arc<RepositoryLinks>>| -> Vec<String> {
            let same = known.iter().zip(first.values()).filter(|((_, one), other)| Arc::ptr_eq(one, other));
            same.map(|((name, _), _)| name.to_string()).collect()
        };
        assert_eq!(names(&changed), ["a", "localhost_5000/d"]);
        fs::remove_dir_all(tree.path("a/b")).unwrap();
        assert_eq!(tree.refreshed().len(), 2);
    }

    #[test]
    fn recent_or_unknown_states_prove_nothing() {
        let mut tree = Tree::new();
        tree.cache.settled = Duration::from_secs(3600);
        tree.image("a");
        tree.refreshed();
        let before = tree.cache.directories["a"].clone();
        tree.refreshed();
        assert!(!Arc::ptr_eq(&before, &tree.cache.directories["a"]));
        let memory = Store::with_driver(Arc::new(crate::driver::MemoryDriver::new()), Default::default());
        let mut cache = LinkCache { settled: Duration::ZERO, ..LinkCache::default() };
        cache.refresh(&memory).unwrap();
        assert!(!cache.directories[""].seen.is_conclusive());
    }

    #[test]
    fn changes_of_every_kind_are_detected() {
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
    fn appearing_changing_and_disappearing_blobs_are_detected() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let (digest, gone) = (Digest::of(b"x"), Digest::of(b"y"));
        let path = dir.path().join(path::data(&digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut sizes = BlobSizes::default();
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
