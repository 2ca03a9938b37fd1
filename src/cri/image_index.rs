//! Finds the images of a tree for one platform.
//!
//! An image is present only if the tree has all of it: links, manifests, and blobs of the right size. Anybody may change the tree
//! at any time, so each listing reads all links and looks at all blobs again. Only the content of manifests, which cannot change
//! under its digest, is kept from one listing to the next.

use super::manifest_summary::{BlobRef, ImageSummary, ManifestSummary};
use super::name;
use super::snapshot::{ImageEntry, ImageMatch, ImageSnapshot, RepositoryImages};
use crate::error::Result;
use crate::oci::manifest::MAX_INDEX_DEPTH;
use crate::oci::{Digest, Platform, PlatformSet, Reference, Repository, Tag};
use crate::save::NameRule;
use crate::store::Store;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a lookup may use the last scan. What was asked for is checked in the tree itself; only other names of the same image
/// may be outdated by this much.
const MAX_SCAN_AGE: Duration = Duration::from_secs(10);

/// The images of one store for one platform.
pub(super) struct ImageIndex {
    store: Store,
    platforms: PlatformSet,
    scans_started: AtomicU64,
    /// The number of changes that this service has made to the tree.
    changes: AtomicU64,
    last: Mutex<LastScan>,
}

#[derive(Default)]
struct LastScan {
    snapshot: Arc<ImageSnapshot>,
    /// The scan's number; 0 before the first.
    number: u64,
    started: Option<Instant>,
    /// The number of changes before it.
    changes: u64,
    manifests: HashMap<Digest, Arc<ManifestSummary>>,
}

/// What the links of a repository say.
struct RepositoryScan {
    name: Repository,
    tags: Vec<(Tag, Digest)>,
    manifests: HashMap<Digest, Arc<ManifestSummary>>,
    layers: HashSet<Digest>,
}

impl ImageIndex {
    pub(super) fn new(store: Store, platform: Platform) -> Self {
        Self {
            store,
            platforms: PlatformSet::Only(vec![platform]),
            scans_started: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// Records that this service has changed the tree.
    pub(super) fn record_change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of changes recorded.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The number of scans started so far, for [`snapshot`](Self::snapshot).
    pub(super) fn scans_started(&self) -> u64 {
        self.scans_started.load(Ordering::SeqCst)
    }

    /// The images at some moment after `asked` scans had been started: callers that wait for one another share a scan that
    /// started after they asked.
    ///
    /// # Errors
    /// `Storage` when the tree cannot be read.
    pub(super) fn snapshot(&self, asked: u64) -> Result<Arc<ImageSnapshot>> {
        let mut last = self.last.lock();
        if last.number <= asked {
            let number = self.scans_started.fetch_add(1, Ordering::SeqCst) + 1;
            let changes = self.changes();
            let started = Instant::now();
            let (snapshot, manifests) = self.scan(&last.manifests)?;
            *last =
                LastScan { snapshot: Arc::new(snapshot), number, started: Some(started), changes, manifests };
        }
        Ok(last.snapshot.clone())
    }

    /// The image that `text` stands for now. Its other names may be as old as [`MAX_SCAN_AGE`] if others change the tree.
    ///
    /// # Errors
    /// `InvalidInput` as for [`ImageSnapshot::find`]; `Storage` when the tree cannot be read.
    pub(super) fn lookup(&self, text: &str, asked: u64) -> Result<Option<ImageEntry>> {
        if let Some(snapshot) = self.recent() {
            match snapshot.find(text)? {
                Some(found) if self.is_current(&found)? => return Ok(Some(found.image.clone())),
                None if self.is_absent(text)? => return Ok(None),
                _ => {}
            }
        }
        let snapshot = self.snapshot(asked)?;
        let Some(found) = snapshot.find(text)? else { return Ok(None) };
        Ok(self.is_current(&found)?.then(|| found.image.clone()))
    }

    /// The last snapshot, unless it is too old or the service has changed the tree since.
    fn recent(&self) -> Option<Arc<ImageSnapshot>> {
        let last = self.last.lock();
        let is_recent = last.started.is_some_and(|started| started.elapsed() < MAX_SCAN_AGE);
        (is_recent && last.changes == self.changes()).then(|| last.snapshot.clone())
    }

    fn known_manifest(&self, digest: &Digest) -> Option<Arc<ManifestSummary>> {
        self.last.lock().manifests.get(digest).cloned()
    }

    /// Whether the tree still has the image at one of the places where the scan found it.
    fn is_current(&self, found: &ImageMatch<'_>) -> Result<bool> {
        for (repository, digest) in found.places {
            if let Some(tag) = &found.tag
                && self.store.read_tag(repository, tag)?.as_ref() != Some(digest)
            {
                continue;
            }
            let image = self.image_at(repository, digest)?;
            if image.is_some_and(|image| image.id == found.image.summary.id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether no image can have come under the name `text` since the last scan. An id may be that of a new image anywhere.
    fn is_absent(&self, text: &str) -> Result<bool> {
        let Ok(reference) = name::parse(text) else { return Ok(false) };
        if name::id_prefix(text).is_some() {
            return Ok(false);
        }
        for repository in name::places(&reference) {
            if self.image_of(&repository, &reference)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The id of the image that a pull of `reference` has saved; `None` unless the image is complete.
    ///
    /// # Errors
    /// `InvalidInput` when the tree cannot hold an image of this name; `Storage` when the tree cannot be read.
    pub(super) fn id_of(&self, reference: &Reference) -> Result<Option<Digest>> {
        let place = NameRule::Domain.place(reference)?;
        Ok(self.image_of(&place.repository, reference)?.map(|image| image.id))
    }

    /// A tag names only an image for the platform; a digest names an image for any platform, as in containerd.
    fn image_of(&self, repository: &Repository, reference: &Reference) -> Result<Option<Arc<ImageSummary>>> {
        match (reference.digest, &reference.tag) {
            (Some(digest), _) => self.image_at(repository, &digest),
            (None, Some(tag)) => {
                let Some(digest) = self.store.read_tag(repository, tag)? else { return Ok(None) };
                Ok(self.image_at(repository, &digest)?.filter(|image| image.fits_platform))
            }
            (None, None) => Ok(None),
        }
    }

    fn image_at(&self, repository: &Repository, digest: &Digest) -> Result<Option<Arc<ImageSummary>>> {
        let source = StoreManifests { index: self, repository };
        Resolver { source, resolved: HashMap::new() }.image(digest, 0)
    }

    /// Reads the whole tree; `known` are the manifests of the last scan.
    fn scan(
        &self,
        known: &HashMap<Digest, Arc<ManifestSummary>>,
    ) -> Result<(ImageSnapshot, HashMap<Digest, Arc<ManifestSummary>>)> {
        let repositories = self.store.repositories()?.into_par_iter();
        let scans: Vec<RepositoryScan> =
            repositories.map(|name| self.scan_repository(name, known)).collect::<Result<_>>()?;
        let mut manifests = HashMap::new();
        for scan in &scans {
            manifests.extend(scan.manifests.iter().map(|(digest, manifest)| (*digest, manifest.clone())));
        }
        let blobs: HashSet<Digest> =
            manifests.values().flat_map(|manifest| manifest.blobs()).map(|blob| blob.digest).collect();
        let sizes: HashMap<Digest, Option<u64>> = blobs
            .into_par_iter()
            .map(|digest| Ok((digest, self.store.blob_size(&digest)?)))
            .collect::<Result<_>>()?;
        let mut snapshot = ImageSnapshot::default();
        for scan in scans {
            let images = images_of(&scan, &sizes)?;
            snapshot.add_repository(&scan.name, images);
        }
        snapshot.finish();
        Ok((snapshot, manifests))
    }

    /// Layer links are only counted by their directory here, which saves one read for each layer; a lookup reads them.
    fn scan_repository(
        &self,
        name: Repository,
        known: &HashMap<Digest, Arc<ManifestSummary>>,
    ) -> Result<RepositoryScan> {
        let mut tags = Vec::new();
        for tag in self.store.tags(&name)? {
            if let Some(digest) = self.store.read_tag(&name, &tag)? {
                tags.push((tag, digest));
            }
        }
        let mut manifests = HashMap::new();
        for digest in self.store.revisions(&name)? {
            if !self.store.has_revision(&name, &digest)? {
                continue;
            }
            let manifest = match known.get(&digest) {
                Some(manifest) => Some(manifest.clone()),
                None => ManifestSummary::read(&self.store, &self.platforms, &digest)?.map(Arc::new),
            };
            manifests.extend(manifest.map(|manifest| (digest, manifest)));
        }
        let layers = self.store.layers(&name)?.into_iter().collect();
        Ok(RepositoryScan { name, tags, manifests, layers })
    }
}

/// The complete images of a repository that was scanned.
fn images_of(scan: &RepositoryScan, sizes: &HashMap<Digest, Option<u64>>) -> Result<RepositoryImages> {
    let mut images = RepositoryImages { tags: scan.tags.clone(), ..RepositoryImages::default() };
    let source = ScannedManifests { scan, sizes };
    let mut resolver = Resolver { source, resolved: HashMap::new() };
    for (digest, manifest) in &scan.manifests {
        if let ManifestSummary::Index(index) = &**manifest {
            images.contained.extend(index.entries.iter().copied());
        }
        if let Some(image) = resolver.image(digest, 0)? {
            images.images.insert(*digest, image);
        }
    }
    Ok(images)
}

/// Where a [`Resolver`] reads the manifests of a repository.
trait ManifestSource {
    /// The manifest, if the repository serves it.
    fn manifest(&self, digest: &Digest) -> Result<Option<Arc<ManifestSummary>>>;

    /// Whether the repository has the manifest and, for an image, its configuration and layers.
    fn is_complete(&self, manifest: &ManifestSummary) -> Result<bool>;
}

struct ScannedManifests<'a> {
    scan: &'a RepositoryScan,
    sizes: &'a HashMap<Digest, Option<u64>>,
}

impl ManifestSource for ScannedManifests<'_> {
    fn manifest(&self, digest: &Digest) -> Result<Option<Arc<ManifestSummary>>> {
        Ok(self.scan.manifests.get(digest).cloned())
    }

    fn is_complete(&self, manifest: &ManifestSummary) -> Result<bool> {
        let has_size = |blob: &BlobRef| self.sizes.get(&blob.digest) == Some(&Some(blob.size));
        let is_linked = |blob: &BlobRef| self.scan.layers.contains(&blob.digest);
        Ok(manifest.blobs().all(has_size) && manifest.linked_blobs().all(is_linked))
    }
}

struct StoreManifests<'a> {
    index: &'a ImageIndex,
    repository: &'a Repository,
}

impl ManifestSource for StoreManifests<'_> {
    fn manifest(&self, digest: &Digest) -> Result<Option<Arc<ManifestSummary>>> {
        let store = &self.index.store;
        if !store.has_revision(self.repository, digest)? {
            return Ok(None);
        }
        if let Some(known) = self.index.known_manifest(digest) {
            return Ok(Some(known));
        }
        Ok(ManifestSummary::read(store, &self.index.platforms, digest)?.map(Arc::new))
    }

    fn is_complete(&self, manifest: &ManifestSummary) -> Result<bool> {
        let store = &self.index.store;
        for blob in manifest.blobs() {
            if store.blob_size(&blob.digest)? != Some(blob.size) {
                return Ok(false);
            }
        }
        for blob in manifest.linked_blobs() {
            if !store.has_layer(self.repository, &blob.digest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Finds the images that manifests stand for. Each manifest is resolved once for each depth: indexes that contain one another
/// again and again have an unbounded number of paths through them.
struct Resolver<S> {
    source: S,
    resolved: HashMap<(Digest, usize), Option<Arc<ImageSummary>>>,
}

impl<S: ManifestSource> Resolver<S> {
    /// The image that `digest` stands for; `None` if it is not complete.
    fn image(&mut self, digest: &Digest, depth: usize) -> Result<Option<Arc<ImageSummary>>> {
        if depth > MAX_INDEX_DEPTH {
            return Ok(None);
        }
        if let Some(resolved) = self.resolved.get(&(*digest, depth)) {
            return Ok(resolved.clone());
        }
        let image = self.resolve(digest, depth)?;
        self.resolved.insert((*digest, depth), image.clone());
        Ok(image)
    }

    fn resolve(&mut self, digest: &Digest, depth: usize) -> Result<Option<Arc<ImageSummary>>> {
        let Some(manifest) = self.source.manifest(digest)? else { return Ok(None) };
        if !self.source.is_complete(&manifest)? {
            return Ok(None);
        }
        match &*manifest {
            ManifestSummary::Image(image) => Ok(Some(image.clone())),
            ManifestSummary::Index(index) => {
                for candidate in &index.candidates {
                    let image = self.image(&candidate.digest, depth + 1)?;
                    if let Some(image) = image.filter(|image| candidate.has_platform || image.fits_platform) {
                        return Ok(Some(image));
                    }
                }
                Ok(None)
            }
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

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// An index of the tree, and the switch that makes its driver fail.
        fn images(&self) -> (ImageIndex, Broken) {
            let broken = Broken::default();
            let store = faulty_driver::open(self.0.path(), broken.clone()).unwrap();
            (ImageIndex::new(store, Platform::new("linux", "amd64")), broken)
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

        /// Adds content to repository `a`, with a link below each of `links`.
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

        /// Adds an image with one layer; returns its descriptor and the layer's digest.
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

    fn count(images: &ImageIndex) -> Result<usize> {
        Ok(images.snapshot(images.scans_started())?.listed().count())
    }

    #[test]
    fn failed_scan_leaves_nothing_stale() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let (_, first) = tree.image(b"one");
        let (images, broken) = tree.images();
        assert_eq!(count(&images).unwrap(), 1);
        let (_, second) = tree.image(b"other");
        for layer in [first, second] {
            *broken.lock() = Some(layer);
            assert!(count(&images).is_err());
        }
        *broken.lock() = None;
        assert_eq!(count(&images).unwrap(), 2);
    }

    #[test]
    fn image_below_missing_index_is_absent() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let between = tree.index(&[tree.image(b"one").0]);
        let root = tree.index(std::slice::from_ref(&between));
        let images = tree.images().0;
        let name = format!("a@{}", root["digest"].as_str().unwrap());
        let is_present = || images.lookup(&name, images.scans_started()).unwrap().is_some();
        assert!(is_present() && is_present());
        let between = between["digest"].as_str().unwrap().parse().unwrap();
        fs::remove_file(tree.blob_dir(&between).join("data")).unwrap();
        assert!(!is_present());
    }

    #[test]
    fn repeatedly_nested_indexes_are_resolved_once() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let missing = json!({ "mediaType": media_type::OCI_INDEX, "digest": Digest::of(b"none"), "size": 4 });
        let mut below = missing;
        for _ in 0..=MAX_INDEX_DEPTH {
            below = tree.index(&vec![below; 1000]);
        }
        let images = tree.images().0;
        assert_eq!(count(&images).unwrap(), 0);
        let root = below["digest"].as_str().unwrap().parse().unwrap();
        assert!(images.image_at(&"a".parse().unwrap(), &root).unwrap().is_none());
    }
}
