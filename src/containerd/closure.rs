//! What an image consists of, read from a tree: the content to load, children before parents.

use super::LoadOptions;
use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::{ImageManifest, MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE};
use crate::oci::{Descriptor, Digest, Index, Manifest, RawManifest, media_type};
use crate::store::Store;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Maximum number of manifests of one image.
const MAX_MANIFESTS: usize = 1000;

/// Content to load.
pub(super) struct ContentItem {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The reference of its ingest: the one that containerd's own pulls use, so that either resumes the other.
    pub(super) ingest: String,
    /// Whether it is a manifest or an index, which is written after its children.
    pub(super) is_manifest: bool,
    pub(super) labels: BTreeMap<String, String>,
}

/// The layers of a runnable image.
pub(super) struct Rootfs {
    pub(super) config: Digest,
    pub(super) layers: Vec<(Descriptor, Digest)>,
}

/// An image.
#[derive(Default)]
pub(super) struct ImageClosure {
    pub(super) items: Vec<ContentItem>,
    pub(super) rootfs: Vec<Rootfs>,
}

/// Reads the image at `place`. `source` is its original registry and repository, which become a label of all content.
///
/// # Errors
/// `PlatformNotFound` if no selected platform is stored; `NotFound` and `Corrupt` for content that is missing or damaged.
pub(super) fn read(
    store: &Store,
    place: &Place,
    root: Digest,
    source: (&str, &str),
    options: &LoadOptions,
) -> Result<(RawManifest, ImageClosure)> {
    let mut walk = Walk {
        store,
        place,
        options,
        source_label: (format!("containerd.io/distribution.source.{}", source.0), source.1.to_owned()),
        seen: HashSet::new(),
        closure: ImageClosure::default(),
    };
    let raw = walk.manifest_bytes(&root)?.ok_or_else(|| walk.missing(&root))?;
    walk.manifest(&raw, 0)?;
    if walk.closure.items.len() == 1 && media_type::is_index(&raw.media_type) {
        let why = format!("no manifest for {}", options.platforms);
        return Err(Error::new(ErrorKind::PlatformNotFound, place, why)
            .with_hint("saver ls lists the platforms that are saved; select one with --arch"));
    }
    Ok((raw, walk.closure))
}

struct Walk<'a> {
    store: &'a Store,
    place: &'a Place,
    options: &'a LoadOptions,
    source_label: (String, String),
    seen: HashSet<Digest>,
    closure: ImageClosure,
}

impl Walk<'_> {
    fn missing(&self, digest: &Digest) -> Error {
        Error::new(ErrorKind::NotFound, self.place, format!("{} is missing", digest.short()))
            .with_hint("saver verify --dir DIR lists what is missing")
    }

    /// A manifest that the repository has, or `None`.
    fn manifest_bytes(&self, digest: &Digest) -> Result<Option<RawManifest>> {
        if !self.store.has_revision(&self.place.repository, digest)? {
            return Ok(None);
        }
        let bytes = self.store.read_content(digest, MAX_MANIFEST_SIZE)?;
        let bytes = bytes.ok_or_else(|| self.missing(digest))?;
        RawManifest::expecting(bytes, None, Some(*digest)).map(Some)
    }

    fn manifest(&mut self, raw: &RawManifest, depth: usize) -> Result<()> {
        if depth > MAX_INDEX_DEPTH || self.seen.len() > MAX_MANIFESTS {
            let why = "its indexes are nested too deeply, or have too many manifests";
            return Err(Error::new(ErrorKind::TooLarge, self.place, why));
        }
        let (kind, labels) = match raw.parse()? {
            Manifest::Index(index) => {
                self.children(&index, depth)?;
                ("index", children_labels(&index.manifests.iter().collect::<Vec<_>>()))
            }
            Manifest::Image(image) => {
                self.image(&image)?;
                ("manifest", children_labels(&image.blobs().collect::<Vec<_>>()))
            }
        };
        self.item(kind, raw.digest, raw.bytes.len() as u64, labels);
        Ok(())
    }

    /// The selected platforms of an index, as far as they are stored.
    fn children(&mut self, index: &Index, depth: usize) -> Result<()> {
        for entry in self.options.platforms.choose(&index.manifests) {
            if !self.seen.contains(&entry.digest)
                && let Some(child) = self.manifest_bytes(&entry.digest)?
            {
                self.manifest(&child, depth + 1)?;
            }
        }
        Ok(())
    }

    fn image(&mut self, image: &ImageManifest) -> Result<()> {
        for layer in image.layers.iter().filter(|layer| !media_type::is_foreign_layer(&layer.media_type)) {
            self.blob("layer", layer)?;
        }
        self.blob("config", &image.config)?;
        if self.options.unpack.is_some() && image.is_image() {
            let rootfs = self.rootfs(image)?;
            self.closure.rootfs.push(rootfs);
        }
        Ok(())
    }

    fn rootfs(&self, image: &ImageManifest) -> Result<Rootfs> {
        let config = self.store.read_content(&image.config.digest, MAX_CONFIG_SIZE)?;
        let config = ImageConfig::parse(&config.ok_or_else(|| self.missing(&image.config.digest))?)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let why = format!("{} layers, but {} diff_ids", image.layers.len(), diff_ids.len());
            return Err(Error::new(ErrorKind::Corrupt, image.config.digest, why));
        }
        let pairs = image.layers.iter().cloned().zip(diff_ids);
        Ok(Rootfs { config: image.config.digest, layers: pairs.collect() })
    }

    fn blob(&mut self, kind: &str, blob: &Descriptor) -> Result<()> {
        match self.store.blob_size(&blob.digest)? {
            Some(size) if size == blob.size => {}
            Some(size) => {
                let why = format!("{} has {size} bytes instead of {}", blob.digest.short(), blob.size);
                return Err(Error::new(ErrorKind::Corrupt, self.place, why));
            }
            None => return Err(self.missing(&blob.digest)),
        }
        self.item(kind, blob.digest, blob.size, BTreeMap::new());
        Ok(())
    }

    fn item(&mut self, kind: &str, digest: Digest, size: u64, mut labels: BTreeMap<String, String>) {
        if !self.seen.insert(digest) {
            return;
        }
        let (key, value) = self.source_label.clone();
        labels.insert(key, value);
        let ingest = format!("{kind}-{digest}");
        let is_manifest = matches!(kind, "manifest" | "index");
        self.closure.items.push(ContentItem { digest, size, ingest, is_manifest, labels });
    }
}

/// The labels by which containerd's garbage collection finds the children of a manifest (containerd, docs/garbage-collection.md).
fn children_labels(children: &[&Descriptor]) -> BTreeMap<String, String> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut labels = BTreeMap::new();
    for child in children {
        let kind = if media_type::is_index(&child.media_type) || media_type::is_manifest(&child.media_type) {
            "m."
        } else if media_type::is_image_config(&child.media_type) {
            "config"
        } else {
            "l."
        };
        let number = numbers.entry(kind).or_default();
        let key = if kind == "config" && *number == 0 { kind.to_owned() } else { format!("{kind}{number}") };
        *number += 1;
        labels.insert(format!("containerd.io/gc.ref.content.{key}"), child.digest.to_string());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_have_the_labels_of_containerd() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let config = Descriptor::new(media_type::OCI_CONFIG, digest("c"), 1);
        let layers = ["a", "b"].map(|text| Descriptor::new(media_type::OCI_LAYER_GZIP, digest(text), 1));
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, digest("m"), 1);
        let labels = children_labels(&[&config, &layers[0], &layers[1]]);
        let expected = [("config", "c"), ("l.0", "a"), ("l.1", "b")]
            .map(|(key, text)| (format!("containerd.io/gc.ref.content.{key}"), digest(text).to_string()));
        assert_eq!(labels, BTreeMap::from(expected));
        let labels = children_labels(&[&manifest, &manifest]);
        assert!(labels.keys().eq(["containerd.io/gc.ref.content.m.0", "containerd.io/gc.ref.content.m.1"]));
    }
}
