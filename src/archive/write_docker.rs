//! Writes the format of `docker save`, which docker load, podman, skopeo and containerd read as docker-archive.
//!
//! Layers are stored as uncompressed tars named by diff_id, so that each is stored once however many images share
//! it. A tar header states a member's length, so two passes are needed: the first decompresses every layer without
//! keeping it, several at once, and verifies digest and diff_id; the second writes.

use super::layer::{LayerDigests, hash};
use super::plan::{ArchiveImage, ArchivePlan, MemberSource, OpenContent, PlannedMember, open};
use super::read_docker::{MANIFEST, ManifestItem};
use crate::error::{ErrorKind, Result};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::ImageManifest;
use crate::oci::{Descriptor, Digest, Manifest, media_type};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

/// Reads and verifies everything that `images` consist of, and decompresses their layers. An image that is
/// incomplete, or that the format cannot represent, is left out, and its outcome says why. Reading stops at a layer
/// that decompresses to more than `limit` bytes.
#[must_use]
pub fn plan(images: &[ArchiveImage], content: &OpenContent<'_>, limit: u64) -> ArchivePlan {
    let manifests: Vec<Result<Box<ImageManifest>>> = images.iter().map(image_manifest).collect();
    let layers = manifests.iter().flatten().flat_map(|manifest| &manifest.layers);
    let layers: BTreeSet<Digest> = layers.map(|layer| layer.digest).collect();
    let layers: Vec<Digest> = layers.into_iter().collect();
    let hashed: HashMap<Digest, Result<LayerDigests>> =
        layers.into_par_iter().map(|digest| (digest, hash_layer(&digest, content, limit))).collect();
    let mut builder = PlanBuilder::new(content, hashed);
    let pairs = images.iter().zip(manifests);
    let outcomes = pairs.map(|(image, manifest)| builder.add(image, &*manifest?)).collect();
    builder.build(outcomes)
}

fn hash_layer(digest: &Digest, content: &OpenContent<'_>, limit: u64) -> Result<LayerDigests> {
    let (reader, _) = open(content, digest)?;
    hash(reader, limit).map_err(|error| {
        let is_too_large = error.kind() == ErrorKind::TooLarge;
        let error = error.with_subject(digest);
        if is_too_large {
            error
                .context("not enough disk space for the uncompressed layer")
                .with_hint("free some space, or write to another disk")
        } else {
            error
        }
    })
}

/// The single image manifest that `docker load` needs.
fn image_manifest(image: &ArchiveImage) -> Result<Box<ImageManifest>> {
    let Some(root) = image.content.manifests.last() else {
        return Err(image.error(ErrorKind::NotFound, "the image has no manifest"));
    };
    match root.parse()? {
        Manifest::Image(manifest) if manifest.is_image() => Ok(manifest),
        Manifest::Image(_) => {
            let message = "docker-archive cannot contain artifacts such as charts and signatures";
            Err(image
                .error(ErrorKind::Unsupported, message)
                .with_hint("use --format oci-layout or oci-archive"))
        }
        Manifest::Index(_) => {
            let message = "docker-archive holds a single platform of an image";
            Err(image.error(ErrorKind::InvalidInput, message).with_hint("choose one with --arch"))
        }
    }
}

/// Collects the members of the archive, image by image.
struct PlanBuilder<'a, 'c> {
    content: &'a OpenContent<'c>,
    /// The hashed layers, by the digest of their blob.
    hashed: HashMap<Digest, Result<LayerDigests>>,
    items: Vec<ManifestItem>,
    /// The position in `items` of each configuration.
    by_config: HashMap<Digest, usize>,
    /// The `repositories` document of Docker before 1.10: repository, tag, topmost layer.
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    /// Configurations and their sizes.
    configs: BTreeMap<Digest, u64>,
    /// By diff_id: the layer's blob and the length of its tar.
    layers: BTreeMap<Digest, LayerTar>,
}

/// A layer as it is written into the archive.
#[derive(Clone, Copy)]
struct LayerTar {
    blob: Digest,
    size: u64,
}

impl<'a, 'c> PlanBuilder<'a, 'c> {
    fn new(content: &'a OpenContent<'c>, hashed: HashMap<Digest, Result<LayerDigests>>) -> Self {
        Self {
            content,
            hashed,
            items: Vec::new(),
            by_config: HashMap::new(),
            repositories: BTreeMap::new(),
            configs: BTreeMap::new(),
            layers: BTreeMap::new(),
        }
    }

    /// Adds an image, or nothing of it.
    fn add(&mut self, image: &ArchiveImage, manifest: &ImageManifest) -> Result<()> {
        let diff_ids = read_config(image, &manifest.config, self.content)?.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let listed = manifest.layers.len();
            let needed = diff_ids.len();
            let message = format!("the manifest lists {listed} layers, the configuration {needed}");
            return Err(image.error(ErrorKind::Corrupt, message));
        }
        let mut tars = Vec::with_capacity(diff_ids.len());
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            let size = tar_size(image, layer, diff_id, self.hashed.get(&layer.digest))?;
            tars.push((*diff_id, LayerTar { blob: layer.digest, size }));
        }
        self.name(image, &manifest.config.digest, &diff_ids);
        self.configs.insert(manifest.config.digest, manifest.config.size);
        for (diff_id, tar) in tars {
            self.layers.entry(diff_id).or_insert(tar);
        }
        Ok(())
    }

    fn name(&mut self, image: &ArchiveImage, config: &Digest, diff_ids: &[Digest]) {
        let position = *self.by_config.entry(*config).or_insert(self.items.len());
        if position == self.items.len() {
            self.items.push(ManifestItem {
                config: config_path(config),
                repo_tags: Some(Vec::new()),
                layers: Some(diff_ids.iter().map(tar_path).collect()),
            });
        }
        // A name here needs a tag: an image pinned by digest alone has none.
        let Some(tag) = &image.reference.tag else { return };
        let name = &image.name.full;
        let names = self.items[position].repo_tags.get_or_insert_default();
        if !names.contains(name) {
            names.push(name.clone());
        }
        if let Some(top) = diff_ids.last() {
            let repository = format!("{}/{}", image.reference.registry, image.reference.repository);
            self.repositories.entry(repository).or_default().insert(tag.to_string(), top.hex());
        }
    }

    fn build(self, outcomes: Vec<Result<()>>) -> ArchivePlan {
        // Lists and maps of strings always serialize.
        let items = serde_json::to_vec(&self.items).unwrap_or_default();
        let repositories = serde_json::to_vec(&self.repositories).unwrap_or_default();
        let mut members =
            vec![PlannedMember::memory(MANIFEST, items), PlannedMember::memory("repositories", repositories)];
        members.extend(self.configs.into_iter().map(|(digest, size)| PlannedMember {
            path: config_path(&digest),
            source: MemberSource::Blob(digest),
            size,
        }));
        members.extend(self.layers.into_iter().map(|(diff_id, LayerTar { blob, size })| PlannedMember {
            path: tar_path(&diff_id),
            source: MemberSource::Decompressed { blob, diff_id },
            size,
        }));
        ArchivePlan { outcomes, members }
    }
}

fn config_path(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

fn tar_path(diff_id: &Digest) -> String {
    format!("{}.tar", diff_id.hex())
}

/// Reads and verifies a configuration.
fn read_config(image: &ArchiveImage, config: &Descriptor, content: &OpenContent<'_>) -> Result<ImageConfig> {
    let failed = |kind, why: String| image.error(kind, format!("configuration {}: {why}", config.digest));
    let opened = open(content, &config.digest);
    let (reader, size) =
        opened.map_err(|error| image.with_context(&error, format!("configuration {}", config.digest)))?;
    if size > MAX_CONFIG_SIZE || size != config.size {
        return Err(failed(ErrorKind::Corrupt, format!("has {size} bytes, expected {}", config.size)));
    }
    let mut bytes = Vec::new();
    reader
        .take(MAX_CONFIG_SIZE)
        .read_to_end(&mut bytes)
        .map_err(|cause| failed(ErrorKind::Storage, format!("cannot read it: {cause}")))?;
    let actual = Digest::of(&bytes);
    if actual != config.digest {
        return Err(failed(
            ErrorKind::Corrupt,
            format!("the directory is damaged: its bytes hash to {actual}"),
        ));
    }
    ImageConfig::parse(&bytes)
        .map_err(|error| image.with_context(&error, format!("configuration {}", config.digest)))
}

/// Checks a hashed layer against the manifest and the configuration; returns the length of its tar.
fn tar_size(
    image: &ArchiveImage,
    layer: &Descriptor,
    diff_id: &Digest,
    hashed: Option<&Result<LayerDigests>>,
) -> Result<u64> {
    let failed = |kind, why: String| image.error(kind, format!("layer {}: {why}", layer.digest));
    let hashed = match hashed {
        Some(Ok(hashed)) => hashed,
        Some(Err(error))
            if error.kind() == ErrorKind::NotFound && media_type::is_foreign_layer(&layer.media_type) =>
        {
            let why = "this foreign layer was not saved, and docker-archive needs every layer";
            return Err(
                failed(ErrorKind::Unsupported, why.into()).with_hint("save the image with --foreign-layers")
            );
        }
        Some(Err(error)) => return Err(image.with_context(error, format!("layer {}", layer.digest))),
        None => return Err(failed(ErrorKind::NotFound, "missing blob".into())),
    };
    if hashed.digest != layer.digest || hashed.size != layer.size {
        let why = format!("the directory is damaged: its {} bytes hash to {}", hashed.size, hashed.digest);
        return Err(failed(ErrorKind::Corrupt, why));
    }
    if hashed.diff_id != *diff_id {
        let why = format!("decompresses to {}, the configuration lists {diff_id}", hashed.diff_id);
        return Err(failed(ErrorKind::Corrupt, why));
    }
    Ok(hashed.tar_size)
}
