//! What the manifests of a tree say, as far as answers need it: small, since it is kept for every image.

use crate::error::Result;
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::manifest::{ImageManifest, MAX_MANIFEST_SIZE};
use crate::oci::{Descriptor, Digest, Manifest, PlatformSet, RawManifest, media_type};
use crate::store::Store;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// A content and its length in bytes, as what references it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl From<&Descriptor> for Blob {
    fn from(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest, size: descriptor.size }
    }
}

/// What a manifest says to one platform.
pub(super) enum Node {
    Index {
        own: Blob,
        /// All its entries.
        below: Box<[Digest]>,
        /// Those for the platform, best first.
        chosen: Box<[Digest]>,
    },
    Image(Arc<Facts>),
    /// Nothing that runs on the platform.
    Other,
}

impl Node {
    /// What must be there for it to count, of the content that it names itself.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let (own, facts) = match self {
            Self::Index { own, .. } => (Some(own), None),
            Self::Image(facts) => (None, Some(facts)),
            Self::Other => (None, None),
        };
        own.into_iter().chain(facts.into_iter().flat_map(|facts| facts.blobs()))
    }
}

/// What is known of an image of one platform.
#[derive(Debug)]
pub(super) struct Facts {
    /// Its manifest.
    pub(super) manifest: Blob,
    /// Its configuration, whose digest is the image's id.
    pub(super) config: Blob,
    /// Its layers, base first, but for those that have to be had from elsewhere.
    pub(super) layers: Box<[Blob]>,
    /// The user that its processes run as, as the configuration says it.
    pub(super) user: Box<str>,
}

impl Facts {
    /// All content that it is made of: manifest, configuration, layers.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers)
    }

    /// What it takes on disk in bytes: each content once.
    pub(super) fn size(&self) -> u64 {
        let unique: HashMap<Digest, u64> = self.blobs().map(|blob| (blob.digest, blob.size)).collect();
        unique.values().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

/// What the manifest `digest` says; none when it, or the configuration that it names, is not there or has other bytes.
///
/// # Errors
/// `Storage` when it can't be read.
pub(super) fn read(store: &Store, platform: &PlatformSet, digest: &Digest) -> Result<Option<Node>> {
    let Some((raw, manifest)) = manifest(store, digest)? else { return Ok(None) };
    Ok(Some(match manifest {
        Manifest::Index(index) => {
            let (chosen, _) = platform.choose(&index.manifests);
            Node::Index {
                own: Blob::from(&raw.descriptor()),
                chosen: chosen.into_iter().map(|entry| entry.digest).collect(),
                below: index.manifests.iter().map(|entry| entry.digest).collect(),
            }
        }
        Manifest::Image(image) if image.is_image() && image.subject.is_none() => {
            let Some(config) = config(store, &image.config.digest)? else { return Ok(None) };
            facts(&raw, &image, platform, &config).map_or(Node::Other, |facts| Node::Image(Arc::new(facts)))
        }
        Manifest::Image(_) => Node::Other,
    }))
}

/// What is known of an image; nothing when its configuration is no runnable image's, or one of another platform.
fn facts(raw: &RawManifest, image: &ImageManifest, platform: &PlatformSet, config: &[u8]) -> Option<Facts> {
    let config = ImageConfig::parse(config).ok().filter(|config| platform.accepts(&config.platform))?;
    let here = image.layers.iter().filter(|layer| !media_type::is_foreign_layer(&layer.media_type));
    Some(Facts {
        manifest: Blob::from(&raw.descriptor()),
        config: Blob::from(&image.config),
        layers: here.map(Blob::from).collect(),
        user: config.config.user.into(),
    })
}

/// A manifest, as it is, and what it says; none when it is not there, has other bytes or is none.
///
/// # Errors
/// `Storage` when it can't be read.
pub(super) fn manifest(store: &Store, digest: &Digest) -> Result<Option<(RawManifest, Manifest)>> {
    let Some(bytes) = store.read_content(digest, MAX_MANIFEST_SIZE)? else { return Ok(None) };
    Ok(RawManifest::verified(bytes, *digest).ok().flatten())
}

/// A configuration, as it is; none when it is not there or has other bytes.
///
/// # Errors
/// `Storage` when it can't be read.
pub(super) fn config(store: &Store, digest: &Digest) -> Result<Option<Bytes>> {
    let bytes = store.read_content(digest, MAX_CONFIG_SIZE)?;
    Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
}
