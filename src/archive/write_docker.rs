//! The form of `docker save`: what docker load, podman, skopeo and containerd read as docker-archive.
//!
//! Layers stand in it as tars that are not compressed, under their diff_ids, so that each is there once whatever images share it.
//! A tar needs each member's length before its content: a first pass inflates every layer, several at once and keeping nothing,
//! and verifies its digest and its diff_id on the way; the second writes.

use super::docker::MANIFEST;
use super::images::{ArchiveImage, Content, Member, Prepared, open};
use super::layer::{Measured, measure};
use crate::error::{ErrorKind, Result};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::ImageManifest;
use crate::oci::{Descriptor, Digest, Manifest, media_type};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Reads and verifies all that `images` need, inflating their layers. An image that is not whole, or that Docker has no
/// form for, is left out, and its outcome says why. A layer that inflates to more than `limit` bytes is given up there.
#[must_use]
pub fn prepare(images: &[ArchiveImage], content: &Content<'_>, limit: u64) -> Prepared {
    let read: Vec<Result<Box<ImageManifest>>> = images.iter().map(manifest).collect();
    let layers: BTreeSet<Digest> =
        read.iter().flatten().flat_map(|image| &image.layers).map(|layer| layer.digest).collect();
    let layers: Vec<Digest> = layers.into_iter().collect();
    let measured = |digest: Digest| {
        let found = open(content, &digest).and_then(|(file, _)| {
            measure(file, limit).map_err(|error| {
                let too_large = error.kind() == ErrorKind::TooLarge;
                let error = error.with_subject(digest);
                if too_large {
                    error
                        .context("not enough disk space for the uncompressed layer")
                        .with_hint("free some space, or write to another disk")
                } else {
                    error
                }
            })
        });
        (digest, found)
    };
    let measured: HashMap<Digest, Result<Measured>> = layers.into_par_iter().map(measured).collect();
    let mut archive = Listing::default();
    let add = |(image, read): (&ArchiveImage, Result<Box<ImageManifest>>)| {
        let read = read?;
        archive.add(image, &read, &measured, content)
    };
    let outcomes = images.iter().zip(read).map(add).collect();
    archive.prepared(outcomes)
}

/// The one manifest of an image that Docker can load.
fn manifest(image: &ArchiveImage) -> Result<Box<ImageManifest>> {
    let root = image.content.manifests.last();
    match root.ok_or_else(|| image.refuse(ErrorKind::NotFound, "it has no manifest"))?.parse()? {
        Manifest::Image(read) if read.is_image() => Ok(read),
        Manifest::Image(_) => {
            let why =
                "this is an artifact (a chart, a signature) and no image: docker-archive has no form for it";
            Err(image.refuse(ErrorKind::Unsupported, why).with_hint("use --format oci-layout or oci-archive"))
        }
        Manifest::Index(_) => {
            let why = "docker-archive holds one platform of an image";
            Err(image.refuse(ErrorKind::InvalidInput, why).with_hint("choose one with --arch"))
        }
    }
}

/// The archive's images so far.
#[derive(Default)]
struct Listing {
    items: Vec<Item>,
    /// The place in `items` of each configuration.
    by_config: HashMap<Digest, usize>,
    /// What the `repositories` of Docker before 1.10 lists: name, tag, topmost layer.
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    configs: BTreeMap<Digest, u64>,
    /// By diff_id: whose content it is, and the tar's length.
    layers: BTreeMap<Digest, (Digest, u64)>,
}

impl Listing {
    fn add(
        &mut self,
        image: &ArchiveImage,
        read: &ImageManifest,
        measured: &HashMap<Digest, Result<Measured>>,
        content: &Content<'_>,
    ) -> Result<()> {
        let diff_ids = config(image, &read.config, content)?.rootfs.diff_ids;
        if diff_ids.len() != read.layers.len() {
            let (listed, needed) = (read.layers.len(), diff_ids.len());
            let why = format!("its manifest lists {listed} layers, and its configuration {needed}");
            return Err(image.refuse(ErrorKind::Corrupt, why));
        }
        let mut tars = Vec::with_capacity(diff_ids.len());
        for (layer, diff_id) in read.layers.iter().zip(&diff_ids) {
            tars.push((
                *diff_id,
                (layer.digest, fitting(image, layer, diff_id, measured.get(&layer.digest))?),
            ));
        }
        self.name(image, &read.config.digest, &diff_ids);
        self.configs.insert(read.config.digest, read.config.size);
        for (diff_id, tar) in tars {
            self.layers.entry(diff_id).or_insert(tar);
        }
        Ok(())
    }

    fn name(&mut self, image: &ArchiveImage, config: &Digest, diff_ids: &[Digest]) {
        let place = *self.by_config.entry(*config).or_insert(self.items.len());
        if place == self.items.len() {
            let layers = diff_ids.iter().map(tar_path).collect();
            self.items.push(Item { config: config_path(config), repo_tags: Vec::new(), layers });
        }
        // A digest is no tag: an image pinned by digest alone has no name here.
        let Some(tag) = &image.name.tag else { return };
        let label = image.label();
        if !self.items[place].repo_tags.contains(&label) {
            self.items[place].repo_tags.push(label);
        }
        if let Some(top) = diff_ids.last() {
            let repository = format!("{}/{}", image.name.registry, image.name.repository);
            self.repositories.entry(repository).or_default().insert(tag.to_string(), top.hex());
        }
    }

    fn prepared(self, outcomes: Vec<Result<()>>) -> Prepared {
        // Maps of strings and lists of them: these can always be written.
        let items = serde_json::to_vec(&self.items).unwrap_or_default();
        let repositories = serde_json::to_vec(&self.repositories).unwrap_or_default();
        let config = |(digest, size)| Member {
            path: config_path(&digest),
            source: digest,
            inflate: false,
            size,
            digest,
        };
        let layer = |(digest, (source, size))| Member {
            path: tar_path(&digest),
            source,
            inflate: true,
            size,
            digest,
        };
        Prepared {
            outcomes,
            documents: vec![(MANIFEST.into(), items), ("repositories".into(), repositories)],
            members: self.configs.into_iter().map(config).chain(self.layers.into_iter().map(layer)).collect(),
        }
    }
}

fn config_path(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

fn tar_path(diff_id: &Digest) -> String {
    format!("{}.tar", diff_id.hex())
}

/// Reads and verifies a configuration.
fn config(image: &ArchiveImage, config: &Descriptor, content: &Content<'_>) -> Result<ImageConfig> {
    let wrong = |kind, why: String| image.refuse(kind, format!("its configuration {}: {why}", config.digest));
    let (file, size) =
        open(content, &config.digest).map_err(|error| wrong(error.kind(), error.message().into()))?;
    if size > MAX_CONFIG_SIZE || size != config.size {
        return Err(wrong(ErrorKind::Corrupt, format!("it has {size} bytes")));
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_CONFIG_SIZE).read_to_end(&mut bytes);
    read.map_err(|cause| wrong(ErrorKind::Storage, format!("it cannot be read: {cause}")))?;
    if Digest::of(&bytes) != config.digest {
        return Err(wrong(
            ErrorKind::Corrupt,
            format!("the tree is damaged: its bytes hash to {}", Digest::of(&bytes)),
        ));
    }
    ImageConfig::parse(&bytes)
        .map_err(|error| wrong(ErrorKind::Corrupt, format!("it cannot be read: {}", error.message())))
}

/// Compares a layer with what the manifest and the configuration say of it; its tar's length.
fn fitting(
    image: &ArchiveImage,
    layer: &Descriptor,
    diff_id: &Digest,
    measured: Option<&Result<Measured>>,
) -> Result<u64> {
    let wrong = |kind, why: String| image.refuse(kind, format!("its layer {}: {why}", layer.digest));
    let measured = match measured {
        Some(Ok(measured)) => measured,
        Some(Err(error))
            if error.kind() == ErrorKind::NotFound && media_type::is_foreign_layer(&layer.media_type) =>
        {
            let why = "it is a foreign layer, which was not saved, and docker-archive needs all layers";
            return Err(
                wrong(ErrorKind::Unsupported, why.into()).with_hint("save the image with --foreign-layers")
            );
        }
        Some(Err(error)) => return Err(wrong(error.kind(), error.message().into())),
        None => return Err(wrong(ErrorKind::NotFound, "it is not there".into())),
    };
    if (measured.digest, measured.size) != (layer.digest, layer.size) {
        let (digest, size) = (measured.digest, measured.size);
        let why = format!("the tree is damaged: its {size} bytes hash to {digest}");
        return Err(wrong(ErrorKind::Corrupt, why));
    }
    if measured.diff_id != *diff_id {
        let why = format!("inflated it is {}, and the configuration says {diff_id}", measured.diff_id);
        return Err(wrong(ErrorKind::Corrupt, why));
    }
    Ok(measured.tar_size)
}
