//! The parts of manifests that the service needs, kept in memory for every manifest of the tree.

use crate::error::Result;
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::{ImageManifest, MAX_MANIFEST_SIZE};
use crate::oci::{Descriptor, Digest, Manifest, Platform, PlatformSet, RawManifest, media_type};
use crate::store::Store;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// The digest of a blob and its size in bytes, as the manifest that references it states them.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlobRef {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl From<&Descriptor> for BlobRef {
    fn from(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest, size: descriptor.size }
    }
}

/// A manifest or index, as far as one platform is concerned.
pub(super) enum ManifestSummary {
    Index(IndexSummary),
    Image(Arc<ImageSummary>),
}

pub(super) struct IndexSummary {
    own: BlobRef,
    /// Every entry.
    pub(super) entries: Box<[Digest]>,
    /// The entries to look at for the platform, in the index's order.
    pub(super) candidates: Box<[Candidate]>,
}

/// An index entry that may be the image for the platform.
pub(super) struct Candidate {
    pub(super) digest: Digest,
    /// Whether the index states the platform. Where it does not, the image's configuration decides.
    pub(super) has_platform: bool,
}

/// An image or artifact manifest.
#[derive(Debug)]
pub(super) struct ImageSummary {
    /// The digest of an image's configuration, as containerd has it. For an artifact it is the manifest's digest, as
    /// CRI-O has it: most artifacts share one empty configuration.
    pub(super) id: Digest,
    pub(super) manifest: BlobRef,
    pub(super) config: BlobRef,
    /// Base layer first, without foreign layers, which registries do not serve.
    pub(super) layers: Box<[BlobRef]>,
    /// The configuration's `User`.
    pub(super) user: Box<str>,
    /// Whether the configuration names the platform, or none. An artifact fits every platform.
    pub(super) fits_platform: bool,
    /// Whether the manifest refers to another one, as signatures do.
    pub(super) has_subject: bool,
}

impl ManifestSummary {
    /// The blobs that the tree must have before this manifest counts as present, not including those of index entries.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        let (own, image) = match self {
            Self::Index(index) => (Some(&index.own), None),
            Self::Image(image) => (None, Some(image)),
        };
        own.into_iter().chain(image.into_iter().flat_map(|image| image.blobs()))
    }

    /// The blobs that need a layer link: an image's configuration and layers.
    pub(super) fn linked_blobs(&self) -> impl Iterator<Item = &BlobRef> {
        let image = if let Self::Image(image) = self { Some(image) } else { None };
        image.into_iter().flat_map(|image| image.linked_blobs())
    }

    /// Reads the manifest `digest`; `None` if it or its configuration is missing or corrupt.
    ///
    /// # Errors
    /// `Storage` when one of them cannot be read.
    pub(super) fn read(store: &Store, platforms: &PlatformSet, digest: &Digest) -> Result<Option<Self>> {
        let Some((raw, manifest)) = read_manifest(store, digest)? else { return Ok(None) };
        Ok(match manifest {
            Manifest::Index(index) => {
                let candidates = platforms.choose(&index.manifests);
                let candidate = |entry: &Descriptor| Candidate {
                    digest: entry.digest,
                    has_platform: entry.platform.as_ref().is_some_and(|platform| !platform.is_unknown()),
                };
                Some(Self::Index(IndexSummary {
                    own: BlobRef::from(&raw.descriptor()),
                    entries: index.manifests.iter().map(|entry| entry.digest).collect(),
                    candidates: candidates.into_iter().map(candidate).collect(),
                }))
            }
            Manifest::Image(image) => {
                let config = read_config(store, &image.config.digest)?;
                config
                    .map(|config| Self::Image(Arc::new(ImageSummary::new(&raw, &image, platforms, &config))))
            }
        })
    }
}

impl ImageSummary {
    fn new(raw: &RawManifest, image: &ImageManifest, platforms: &PlatformSet, config: &[u8]) -> Self {
        let config = if image.is_image() { ImageConfig::parse(config).ok() } else { None };
        let layers = image.layers.iter().filter(|layer| !media_type::is_foreign_layer(&layer.media_type));
        Self {
            id: if config.is_some() { image.config.digest } else { raw.digest },
            manifest: BlobRef::from(&raw.descriptor()),
            config: BlobRef::from(&image.config),
            layers: layers.map(BlobRef::from).collect(),
            fits_platform: config.as_ref().is_none_or(|config| fits(platforms, &config.platform)),
            user: config.map(|config| config.config.user).unwrap_or_default().into(),
            has_subject: image.subject.is_some(),
        }
    }

    /// The manifest, the configuration and the layers.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        std::iter::once(&self.manifest).chain(self.linked_blobs())
    }

    fn linked_blobs(&self) -> impl Iterator<Item = &BlobRef> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The size on disk in bytes, with each blob counted once.
    pub(super) fn size(&self) -> u64 {
        let unique: HashMap<Digest, u64> = self.blobs().map(|blob| (blob.digest, blob.size)).collect();
        unique.values().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

/// Whether an image whose configuration names `platform` may be used for one of `platforms`. A configuration that names
/// none (`crane append` writes such) says nothing against it.
fn fits(platforms: &PlatformSet, platform: &Platform) -> bool {
    (platform.os.is_empty() && platform.architecture.is_empty()) || platforms.accepts(platform)
}

/// Reads and verifies a manifest; `None` if it is missing, corrupt or of an unknown type.
///
/// # Errors
/// `Storage` when it cannot be read.
pub(super) fn read_manifest(store: &Store, digest: &Digest) -> Result<Option<(RawManifest, Manifest)>> {
    let Some(bytes) = store.read_content(digest, MAX_MANIFEST_SIZE)? else { return Ok(None) };
    Ok(RawManifest::verified(bytes, *digest).ok().flatten())
}

/// Reads and verifies a configuration; `None` if it is missing or corrupt.
///
/// # Errors
/// `Storage` when it cannot be read.
pub(super) fn read_config(store: &Store, digest: &Digest) -> Result<Option<Bytes>> {
    let bytes = store.read_content(digest, MAX_CONFIG_SIZE)?;
    Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
}
