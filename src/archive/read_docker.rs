//! Reads the format of `docker save` ("Image Tarball", `manifest.json`) as written by Docker, podman, skopeo and crane.
//!
//! The format has no image manifests, so one is generated for each image, always the same for the same image. It
//! lists the layers as they are stored in the archive. The digest of an uncompressed layer is its diff_id in the
//! configuration, which the engine verifies; a compressed layer is read and hashed here, and its diff_id compared.

use super::layer::{Compression, LayerDigests, hash};
use super::tar_index::{MemberData, TarIndex};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::layout::ListedImage;
use crate::oci::{Descriptor, Digest, RawManifest, json, media_type};
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
/// The most images in one archive.
const MAX_IMAGES: usize = 10_000;
/// The most layers in one image.
const MAX_LAYERS: usize = 10_000;
/// The most bytes of manifests that are generated for one archive.
const MAX_GENERATED_BYTES: usize = 64 << 20;
/// The compression ratio that any layer may have; gzip reaches 1032 at most.
const MAX_RATIO: u64 = 1100;
/// How many bytes all layers of an archive may decompress to beyond that ratio: zstd compresses zeros much better
/// than gzip.
const MAX_DECOMPRESSED_BYTES: u64 = 256 << 30;

/// An image in `manifest.json`. Go writes empty lists as null.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ManifestItem {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GeneratedManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What an archive contains.
#[derive(Default)]
pub(super) struct ArchiveContents {
    pub(super) images: Vec<ListedImage>,
    /// Generated manifests, which are in memory only.
    pub(super) manifests: HashMap<Digest, RawManifest>,
    /// Where in the file the content of each digest is.
    pub(super) blobs: HashMap<Digest, MemberData>,
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "", message).on(Side::Source)
}

/// Bounds decompression, so that a hostile archive cannot keep saver busy for hours.
#[derive(Clone, Copy)]
struct DecompressionLimit {
    /// Bytes shared by all layers.
    total: u64,
    layers: usize,
}

impl DecompressionLimit {
    /// The most bytes that a layer of `compressed` bytes may decompress to.
    fn of(self, compressed: u64) -> u64 {
        let share = self.total / (self.layers as u64).max(1);
        compressed.saturating_mul(MAX_RATIO).max(share)
    }
}

/// Reads the archive whose `manifest.json` is at `listing`. An image that is damaged is listed with its error.
pub(super) fn read(file: &File, index: &TarIndex, listing: MemberData) -> Result<ArchiveContents> {
    read_within(file, index, listing, MAX_DECOMPRESSED_BYTES)
}

fn read_within(
    file: &File,
    index: &TarIndex,
    listing: MemberData,
    decompressed: u64,
) -> Result<ArchiveContents> {
    if listing.size > MAX_MANIFEST_JSON {
        return Err(corrupt(format!("{MANIFEST} is too large: {} bytes", listing.size)));
    }
    let items: Vec<ManifestItem> = json::from_slice(&listing.read(file)?)
        .map_err(|error| corrupt(format!("cannot parse {MANIFEST}: {error}")))?;
    if items.len() > MAX_IMAGES {
        return Err(corrupt(format!("{MANIFEST} lists more than {MAX_IMAGES} images")));
    }
    let mut reader = DockerArchiveReader { file, index, hashed: HashMap::new() };
    reader.hash_compressed_layers(&items, decompressed);
    let mut contents = ArchiveContents::default();
    let mut generated = 0;
    for item in &items {
        let root = reader.image(item, &mut contents.blobs).map(|raw| {
            let root = raw.descriptor();
            generated += raw.bytes.len();
            contents.manifests.insert(raw.digest, raw);
            root
        });
        if generated > MAX_GENERATED_BYTES {
            return Err(corrupt("the images have too many layers"));
        }
        let mut names = item.repo_tags.clone().unwrap_or_default();
        names.retain(|name| !name.is_empty());
        if names.is_empty() {
            names.push(String::new());
        }
        contents.images.extend(names.iter().map(|name| ListedImage::full(name, root.clone())));
    }
    Ok(contents)
}

struct DockerArchiveReader<'a> {
    file: &'a File,
    index: &'a TarIndex,
    /// The compressed layers, hashed.
    hashed: HashMap<MemberData, Result<LayerDigests>>,
}

impl DockerArchiveReader<'_> {
    /// Reads and hashes the compressed layers, several at once.
    fn hash_compressed_layers(&mut self, items: &[ManifestItem], decompressed: u64) {
        let names = items.iter().filter_map(|item| item.layers.as_ref()).flatten();
        let compressed: BTreeSet<MemberData> = names
            .filter_map(|name| self.index.find(name).ok()?)
            .filter(|data| self.compression(*data).is_ok_and(|found| found != Compression::None))
            .collect();
        let compressed: Vec<MemberData> = compressed.into_iter().collect();
        let limit = DecompressionLimit { total: decompressed, layers: compressed.len() };
        let file = self.file;
        let hash_one = |data: MemberData| (data, hash(MemberReader { file, data }, limit.of(data.size)));
        self.hashed = compressed.into_par_iter().map(hash_one).collect();
    }

    fn compression(&self, data: MemberData) -> Result<Compression> {
        let mut head = [0; 4];
        let length = usize::try_from(data.size).unwrap_or(4).min(4);
        let read = self.file.read_exact_at(&mut head[..length], data.offset);
        read.map_err(|cause| corrupt(format!("cannot read a layer: {cause}")))?;
        Ok(Compression::detect(&head[..length]))
    }

    fn member(&self, name: &str) -> Result<MemberData> {
        self.index.find(name)?.ok_or_else(|| {
            let message = match self.index.link_target(name) {
                Some(target) => {
                    format!("{MANIFEST} names {name:?}, a link to {target:?}, which is not in the archive")
                }
                None => format!("{MANIFEST} names {name:?}, which is not in the archive"),
            };
            corrupt(message)
        })
    }

    /// Generates the manifest of one image.
    fn image(&self, item: &ManifestItem, blobs: &mut HashMap<Digest, MemberData>) -> Result<RawManifest> {
        let config = self.member(&item.config)?;
        if config.size > MAX_CONFIG_SIZE {
            return Err(corrupt(format!("the configuration is too large: {} bytes", config.size)));
        }
        let bytes = config.read(self.file)?;
        let config_digest = Digest::of(&bytes);
        let parsed = ImageConfig::parse(&bytes)
            .map_err(|error| corrupt(format!("cannot parse the configuration: {}", error.message())))?;
        let diff_ids = parsed.rootfs.diff_ids;
        let names = item.layers.as_deref().unwrap_or_default();
        if diff_ids.len() != names.len() || names.len() > MAX_LAYERS {
            let (listed, needed) = (names.len(), diff_ids.len());
            return Err(corrupt(format!("{MANIFEST} lists {listed} layers, the configuration {needed}")));
        }
        let mut layers = Vec::with_capacity(names.len());
        for (name, diff_id) in names.iter().zip(&diff_ids) {
            let data = self.member(name)?;
            let layer = self.layer(name, data, diff_id)?;
            blobs.insert(layer.digest, data);
            layers.push(layer);
        }
        blobs.insert(config_digest, config);
        // Docker's media types have none for zstd.
        let has_zstd = layers.iter().any(|layer| layer.media_type == media_type::OCI_LAYER_ZSTD);
        let (media_type, config_type) = if has_zstd {
            for layer in &mut layers {
                if let Some(equivalent) = media_type::oci_equivalent(&layer.media_type) {
                    layer.media_type = equivalent.to_owned();
                }
            }
            (media_type::OCI_MANIFEST, media_type::OCI_CONFIG)
        } else {
            (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG)
        };
        let config = Descriptor::new(config_type, config_digest, bytes.len() as u64);
        let manifest =
            serde_json::to_vec(&GeneratedManifest { schema_version: 2, media_type, config, layers })
                .map_err(|error| corrupt(format!("cannot generate a manifest: {error}")))?;
        RawManifest::new(manifest.into(), None)
    }

    fn layer(&self, name: &str, data: MemberData, diff_id: &Digest) -> Result<Descriptor> {
        let Some(hashed) = self.hashed.get(&data) else {
            return Ok(Descriptor::new(media_type::DOCKER_LAYER, *diff_id, data.size));
        };
        let hashed = hashed.as_ref().map_err(|error| {
            Error::new(error.kind(), "", format!("layer {name:?}: {error}")).on(Side::Source)
        })?;
        if hashed.diff_id != *diff_id {
            let actual = hashed.diff_id;
            let message =
                format!("layer {name:?} decompresses to {actual}, the configuration lists {diff_id}");
            return Err(corrupt(message));
        }
        let media_type = match hashed.compression {
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
            _ => media_type::DOCKER_LAYER_GZIP,
        };
        Ok(Descriptor::new(media_type, hashed.digest, hashed.size))
    }
}

/// Reads a member at its offset, so that several can be read at once.
struct MemberReader<'f> {
    file: &'f File,
    data: MemberData,
}

impl Read for MemberReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.data.size).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..length], self.data.offset)?;
        if count == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data.offset += count as u64;
        self.data.size -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layer::tests::gzip;

    /// An archive of one image whose configuration lists `diff_id` for its only layer.
    fn archive(layer: &[u8], diff_id: &Digest) -> File {
        listed(r#"[{"Config":"c","RepoTags":["a.io/b:1"],"Layers":["l"]}]"#, layer, diff_id)
    }

    /// As `archive`, with this `manifest.json`.
    fn listed(listing: &str, layer: &[u8], diff_id: &Digest) -> File {
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
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

    /// Docker, which ignores case, would load other layers than saver.
    #[test]
    fn manifest_json_with_folded_keys_is_refused() {
        for (key, good) in [("Other", true), ("layers", false), ("config", false), ("repoTags", false)] {
            let listing = format!(r#"[{{"Config":"c","Layers":["l"],"{key}":[]}}]"#);
            let file = listed(&listing, b"layer", &Digest::of(b"layer"));
            let index = TarIndex::read(&file).unwrap();
            let listing = index.find(MANIFEST).unwrap().unwrap();
            assert_eq!(read(&file, &index, listing).is_ok(), good, "{key}");
        }
    }

    #[test]
    fn layer_beyond_decompression_limit_is_refused() {
        let zeros = vec![0; 4 << 20];
        let diff_id = Digest::of(&zeros);
        let dense = zstd::bulk::compress(&zeros, 1).unwrap();
        for (layer, decompressed, expected) in [
            (&gzip(&zeros), 0, None),
            (&dense, 4 << 20, None),
            (&dense, (4 << 20) - 1, Some(ErrorKind::TooLarge)),
        ] {
            let file = archive(layer, &diff_id);
            let index = TarIndex::read(&file).unwrap();
            let listing = index.find(MANIFEST).unwrap().unwrap();
            let contents = read_within(&file, &index, listing, decompressed).unwrap();
            let root = contents.images[0].root.as_ref();
            assert_eq!(root.err().map(Error::kind), expected, "{} bytes", layer.len());
        }
    }

    #[test]
    fn decompression_limit_is_shared_by_layers() {
        let limit = DecompressionLimit { total: 1 << 30, layers: 4 };
        assert_eq!(limit.of(10), 1 << 28);
        assert_eq!(limit.of(1 << 30), 1100 << 30);
        assert_eq!(limit.of(u64::MAX), u64::MAX);
    }
}
