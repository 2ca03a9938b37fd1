//! Reading the form of `docker save` (Docker's "Image Tarball", `manifest.json`), as Docker, podman, skopeo and crane write it.
//!
//! It has no manifests. One is made for each image, the same for the same image every time: it lists the layers as they stand in
//! the archive. An uncompressed layer's digest is the diff_id that the configuration has, which the engine then holds its bytes to;
//! a compressed one is read and hashed here, and its diff_id compared.

use super::index::{Part, TarIndex};
use super::layer::{Compression, Measured, measure};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::layout::Offer;
use crate::oci::{Descriptor, Digest, RawManifest, media_type};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// The document that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";
/// The largest `manifest.json` that is read, in bytes.
const MAX_MANIFEST_JSON: u64 = 16 << 20;
/// The most images of one archive.
const MAX_IMAGES: usize = 10_000;
/// The most layers of one image.
const MAX_LAYERS: usize = 10_000;
/// The most bytes that the manifests made for one archive may have together.
const MAX_MADE_BYTES: usize = 64 << 20;
/// How many times its own length a layer may have inflated, whatever else there is; gzip comes to 1032 at most.
const MAX_RATIO: u64 = 1100;
/// What one archive's layers may have inflated together where that is more: zstd packs zeros much closer.
const MAX_INFLATED_BYTES: u64 = 256 << 30;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An archive's images, and where the content of their digests stands.
#[derive(Default)]
pub(super) struct Found {
    pub(super) offers: Vec<Offer>,
    pub(super) manifests: HashMap<Digest, RawManifest>,
    pub(super) blobs: HashMap<Digest, Part>,
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "", why).on(Side::Source)
}

struct Reader<'a> {
    file: &'a File,
    index: &'a TarIndex,
    /// What the layers may have inflated together.
    inflated: u64,
    /// The compressed layers, read.
    measured: HashMap<Part, Result<Measured>>,
}

/// How far layers are inflated: what is made to grow is given up early, and costs no hours.
struct Limits {
    inflated: u64,
    layers: usize,
}

impl Limits {
    /// The most bytes that the layer in `part` is read to.
    fn of(&self, part: Part) -> u64 {
        let share = self.inflated / (self.layers as u64).max(1);
        part.size.saturating_mul(MAX_RATIO).max(share)
    }
}

/// Reads what the archive says it holds. What is wrong with one image is said of that image.
pub(super) fn read(file: &File, index: &TarIndex, listing: Part) -> Result<Found> {
    read_within(file, index, listing, MAX_INFLATED_BYTES)
}

fn read_within(file: &File, index: &TarIndex, listing: Part, inflated: u64) -> Result<Found> {
    if listing.size > MAX_MANIFEST_JSON {
        return Err(corrupt(format!("its {MANIFEST} has {} bytes", listing.size)));
    }
    let items: Vec<Item> = serde_json::from_slice(&listing.read(file)?)
        .map_err(|error| corrupt(format!("its {MANIFEST} cannot be read: {error}")))?;
    if items.len() > MAX_IMAGES {
        return Err(corrupt(format!("it lists more than {MAX_IMAGES} images")));
    }
    let mut reader = Reader { file, index, inflated, measured: HashMap::new() };
    reader.measure(&items);
    let (mut found, mut made) = (Found::default(), 0);
    for item in &items {
        let root = reader.image(item, &mut found.blobs).map(|raw| {
            let root = raw.descriptor();
            made += raw.bytes.len();
            found.manifests.insert(raw.digest, raw);
            root
        });
        if made > MAX_MADE_BYTES {
            return Err(corrupt("its images have too many layers"));
        }
        let mut names = item.repo_tags.clone().unwrap_or_default();
        names.retain(|name| !name.is_empty());
        if names.is_empty() {
            names.push(String::new());
        }
        found.offers.extend(names.iter().map(|name| Offer::full(name, root.clone())));
    }
    Ok(found)
}

impl Reader<'_> {
    /// Reads the compressed layers, several at once.
    fn measure(&mut self, items: &[Item]) {
        let names = items.iter().filter_map(|item| item.layers.as_ref()).flatten();
        let parts: BTreeSet<(u64, u64)> = names
            .filter_map(|name| self.index.find(name).ok()?)
            .filter(|part| self.compression(*part).is_ok_and(|found| found != Compression::None))
            .map(|part| (part.offset, part.size))
            .collect();
        let parts: Vec<Part> = parts.into_iter().map(|(offset, size)| Part { offset, size }).collect();
        let limits = Limits { inflated: self.inflated, layers: parts.len() };
        let read = |part: Part| (part, measure(PartReader { file: self.file, part }, limits.of(part)));
        self.measured = parts.into_par_iter().map(read).collect();
    }

    fn compression(&self, part: Part) -> Result<Compression> {
        let mut head = [0; 4];
        let length = usize::try_from(part.size).unwrap_or(4).min(4);
        let read = self.file.read_exact_at(&mut head[..length], part.offset);
        read.map_err(|cause| corrupt(format!("a layer cannot be read: {cause}")))?;
        Ok(Compression::of(&head[..length]))
    }

    fn member(&self, name: &str) -> Result<Part> {
        self.index
            .find(name)?
            .ok_or_else(|| corrupt(format!("its {MANIFEST} names {name:?}, which is not there")))
    }

    /// Makes the manifest of one image.
    fn image(&self, item: &Item, blobs: &mut HashMap<Digest, Part>) -> Result<RawManifest> {
        let config = self.member(&item.config)?;
        if config.size > MAX_CONFIG_SIZE {
            return Err(corrupt(format!("a configuration of {} bytes", config.size)));
        }
        let bytes = config.read(self.file)?;
        let config_digest = Digest::of(&bytes);
        let read = ImageConfig::parse(&bytes)
            .map_err(|error| corrupt(format!("its configuration cannot be read: {}", error.message())))?;
        let (diff_ids, names) = (read.rootfs.diff_ids, item.layers.as_deref().unwrap_or_default());
        if diff_ids.len() != names.len() || names.len() > MAX_LAYERS {
            let (listed, needed) = (names.len(), diff_ids.len());
            return Err(corrupt(format!("it lists {listed} layers, and its configuration {needed}")));
        }
        let mut layers = Vec::with_capacity(names.len());
        for (name, diff_id) in names.iter().zip(&diff_ids) {
            let part = self.member(name)?;
            let layer = self.layer(name, part, diff_id)?;
            blobs.insert(layer.digest, part);
            layers.push(layer);
        }
        blobs.insert(config_digest, config);
        // Docker's own form has no zstd.
        let zstd = layers.iter().any(|layer| layer.media_type == media_type::OCI_LAYER_ZSTD);
        let (media_type, config_type) = match zstd {
            true => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
            false => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
        };
        if zstd {
            for layer in &mut layers {
                layer.media_type = in_oci(&layer.media_type).to_owned();
            }
        }
        let config = Descriptor::new(config_type, config_digest, bytes.len() as u64);
        let made = serde_json::to_vec(&Made { schema_version: 2, media_type, config, layers })
            .map_err(|error| corrupt(format!("no manifest can be made for it: {error}")))?;
        RawManifest::new(made.into(), None)
    }

    fn layer(&self, name: &str, part: Part, diff_id: &Digest) -> Result<Descriptor> {
        let Some(measured) = self.measured.get(&part) else {
            return Ok(Descriptor::new(media_type::DOCKER_LAYER, *diff_id, part.size));
        };
        let measured = measured.as_ref().map_err(|error| {
            Error::new(error.kind(), "", format!("its layer {name:?}: {error}")).on(Side::Source)
        })?;
        if measured.diff_id != *diff_id {
            let found = measured.diff_id;
            return Err(corrupt(format!("its layer {name:?} is {found} inflated, and should be {diff_id}")));
        }
        let media_type = match measured.compression {
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
            _ => media_type::DOCKER_LAYER_GZIP,
        };
        Ok(Descriptor::new(media_type, measured.digest, measured.size))
    }
}

fn in_oci(layer: &str) -> &str {
    match layer {
        media_type::DOCKER_LAYER => media_type::OCI_LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        other => other,
    }
}

/// Reads a member from where it stands; many may be read at once.
struct PartReader<'f> {
    file: &'f File,
    part: Part,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.part.size).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.part.offset)?;
        if count == 0 && left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.part.offset += count as u64;
        self.part.size -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layer::tests::gzip;

    /// An archive of one image, whose configuration says `diff_id` of its one layer.
    fn archive(layer: &[u8], diff_id: &Digest) -> File {
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
        let listing = r#"[{"Config":"c","RepoTags":["a.io/b:1"],"Layers":["l"]}]"#;
        let file = tempfile::tempfile().unwrap();
        let mut archive = tar::Builder::new(&file);
        for (name, content) in [("c", config.as_bytes()), (MANIFEST, listing.as_bytes()), ("l", layer)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content).unwrap();
        }
        archive.finish().unwrap();
        drop(archive);
        file
    }

    #[test]
    fn a_layer_that_grows_without_end_is_given_up() {
        let zeros = vec![0; 4 << 20];
        let diff_id = Digest::of(&zeros);
        let close = zstd::bulk::compress(&zeros, 1).unwrap();
        for (layer, inflated, expected) in [
            (&gzip(&zeros), 0, None),
            (&close, 4 << 20, None),
            (&close, (4 << 20) - 1, Some(ErrorKind::TooLarge)),
        ] {
            let file = archive(layer, &diff_id);
            let index = TarIndex::read(&file).unwrap();
            let listing = index.find(MANIFEST).unwrap().unwrap();
            let found = read_within(&file, &index, listing, inflated).unwrap();
            let root = found.offers[0].root.as_ref();
            assert_eq!(root.err().map(Error::kind), expected, "{} bytes", layer.len());
        }
    }

    #[test]
    fn layers_share_what_may_be_inflated() {
        let limits = Limits { inflated: 1 << 30, layers: 4 };
        assert_eq!(limits.of(Part { offset: 0, size: 10 }), 1 << 28);
        assert_eq!(limits.of(Part { offset: 0, size: 1 << 30 }), 1100 << 30);
        assert_eq!(limits.of(Part { offset: 0, size: u64::MAX }), u64::MAX);
    }
}
