//! The selected part of an image: a tree of manifests.

use super::report::{ManifestReport, ReferrerReport};
use super::rewrite;
use crate::content::PublishedReferrers;
use crate::error::Result;
use crate::oci::manifest::ImageManifest;
use crate::oci::{Descriptor, Digest, Index, Platform, RawManifest, media_type};
use bytes::Bytes;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Everything that must exist before the image is tagged.
#[derive(Debug, Default)]
pub(crate) struct ImageContent {
    /// Manifests and indexes, children first, the root last.
    pub(crate) manifests: Vec<Arc<RawManifest>>,
    /// Those of them that the sink already has, byte for byte.
    pub(crate) present: HashSet<Digest>,
    /// Configurations and layers, without duplicates.
    pub(crate) blobs: Vec<Descriptor>,
    /// Configurations and signatures that were read already and need not be downloaded again.
    pub(crate) configs: Vec<(Digest, Arc<Bytes>)>,
    /// The platforms of the image manifests.
    pub(crate) platforms: Vec<Platform>,
    /// The image manifests; attestations are not among them.
    pub(crate) images: Vec<ManifestReport>,
    /// Platforms that were requested and that the image does not have.
    pub(crate) missing: Vec<Platform>,
    /// What the published indexes name and was not selected.
    pub(crate) omitted: BTreeSet<String>,
    /// Warnings about the selection.
    pub(crate) warnings: Vec<String>,
    /// The manifests whose referrers belong to the image, by their digests at the source: the root first.
    pub(crate) subjects: Vec<Digest>,
    /// The root at the source, if another is published in its place.
    pub(crate) source_root: Option<Arc<RawManifest>>,
    /// The referrers among the manifests.
    pub(crate) referrers: PublishedReferrers,
    /// The referrers, for the report.
    pub(crate) referrer_rows: Vec<ReferrerReport>,
}

/// The referrers of an image and everything that they consist of.
#[derive(Debug, Default)]
pub(super) struct ReferrerContent {
    /// Their manifests, children first.
    pub(super) manifests: Vec<Arc<RawManifest>>,
    /// Their configurations and layers.
    pub(super) blobs: Vec<Descriptor>,
    /// How they are connected with their subjects.
    pub(super) published: PublishedReferrers,
    /// The root at the source, if it has referrers and is not published as the image's own.
    pub(super) source_root: Option<Arc<RawManifest>>,
    pub(super) rows: Vec<ReferrerReport>,
    pub(super) warnings: Vec<String>,
}

impl ImageContent {
    /// Adds what was found to refer to the image. `present` is what the sink has of it.
    pub(super) fn attach(&mut self, found: ReferrerContent, present: HashSet<Digest>) {
        let empty = Digest::of(EMPTY_CONFIG);
        if found.blobs.iter().any(|blob| blob.digest == empty && blob.size == EMPTY_CONFIG.len() as u64) {
            self.configs.push((empty, Arc::new(Bytes::from_static(EMPTY_CONFIG))));
        }
        let mut blobs: HashSet<(Digest, u64)> =
            self.blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        self.blobs.extend(found.blobs.into_iter().filter(|blob| blobs.insert((blob.digest, blob.size))));
        // The image's own root stays the last.
        if let Some(root) = found.source_root {
            self.manifests.insert(self.manifests.len().saturating_sub(1), root);
        }
        self.manifests.splice(0..0, found.manifests);
        self.present.extend(present);
        self.warnings.extend(found.warnings);
        self.referrers = found.published;
        self.referrer_rows = found.rows;
    }
}

/// The configuration of artifacts that need none (image-spec, "Guidance for an Empty Descriptor"): its content is known.
const EMPTY_CONFIG: &[u8] = b"{}";

/// A manifest with everything that was selected below it.
pub(super) struct ManifestNode {
    pub(super) raw: Arc<RawManifest>,
    pub(super) kind: NodeKind,
    pub(super) children: Vec<ManifestNode>,
    /// The selected entries of its index: several where platforms share a manifest, none for the root.
    pub(super) entries: Vec<Descriptor>,
}

pub(super) enum NodeKind {
    Index(Index),
    Image { manifest: Box<ImageManifest>, platforms: Vec<Platform>, config: Option<(Digest, Arc<Bytes>)> },
}

/// What was collected already.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) manifests: HashSet<Digest>,
    /// With their sizes: if two manifests claim different sizes, both are checked and one of them fails.
    pub(super) blobs: HashSet<(Digest, u64)>,
}

impl ManifestNode {
    pub(super) fn is_attestation(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(Descriptor::is_attestation)
    }

    /// The platform of an image.
    pub(super) fn platform(&self) -> Option<Platform> {
        match &self.kind {
            NodeKind::Index(_) => None,
            NodeKind::Image { platforms, .. } => platforms.first().cloned(),
        }
    }

    pub(super) fn into_leaves(self, leaves: &mut Vec<Self>) {
        if matches!(self.kind, NodeKind::Index(_)) {
            self.children.into_iter().for_each(|child| child.into_leaves(leaves));
        } else {
            leaves.push(self);
        }
    }

    /// Collects the platforms of the images; returns whether there are artifacts too.
    pub(super) fn platforms(&self, selected: &mut Vec<Platform>) -> bool {
        match &self.kind {
            NodeKind::Index(_) => {
                self.children.iter().fold(false, |any, child| child.platforms(selected) | any)
            }
            NodeKind::Image { platforms, .. } => {
                selected.extend_from_slice(platforms);
                platforms.is_empty() && !self.is_attestation()
            }
        }
    }

    /// Rewrites every index to name only what was selected. A complete index is kept as it is; a nested one of which nothing was
    /// selected is removed.
    pub(super) fn prune(mut self) -> Result<Self> {
        let NodeKind::Index(index) = &self.kind else { return Ok(self) };
        let children = self.children.into_iter().filter(|child| !child.is_bare());
        let children: Vec<Self> = children.map(Self::prune).collect::<Result<_>>()?;
        let named = |child: &Self| {
            let now = child.raw.descriptor();
            child.entries.iter().map(|was| (was.clone(), now.clone())).collect::<Vec<_>>()
        };
        let kept: Vec<(Descriptor, Descriptor)> = children.iter().flat_map(named).collect();
        let whole =
            kept.len() == index.manifests.len() && kept.iter().all(|(was, now)| was.digest == now.digest);
        if !whole {
            self.raw = Arc::new(rewrite::index(&self.raw, &kept)?);
        }
        self.children = children;
        Ok(self)
    }

    /// Whether it is an index with entries of which none was selected.
    fn is_bare(&self) -> bool {
        let NodeKind::Index(index) = &self.kind else { return false };
        !index.manifests.is_empty() && self.children.iter().all(Self::is_bare)
    }

    /// What the index names and was not selected: platforms, or `attestation`.
    pub(super) fn omitted(&self, omitted: &mut BTreeSet<String>) {
        let NodeKind::Index(index) = &self.kind else { return };
        let selected: HashSet<Digest> = self.children.iter().map(|child| child.raw.digest).collect();
        let name = |platform: Option<&Platform>, is_attestation| match platform {
            _ if is_attestation => "attestation".to_owned(),
            Some(platform) if !platform.is_unknown() => platform.to_string(),
            _ => "manifest without a platform".to_owned(),
        };
        for entry in index.manifests.iter().filter(|entry| !selected.contains(&entry.digest)) {
            omitted.insert(name(entry.platform.as_ref(), entry.is_attestation()));
        }
        for entry in &index.unsupported {
            omitted.insert(name(entry.platform.as_ref(), entry.is_attestation));
        }
        self.children.iter().for_each(|child| child.omitted(omitted));
    }

    pub(super) fn gather(self, content: &mut ImageContent, seen: &mut Gathered, foreign: bool) {
        let is_attestation = self.is_attestation();
        for child in self.children {
            child.gather(content, seen, foreign);
        }
        if !seen.manifests.insert(self.raw.digest) {
            return;
        }
        let (digest, size) = (self.raw.digest, self.raw.bytes.len() as u64);
        content.manifests.push(self.raw);
        if let NodeKind::Image { manifest, platforms, config } = self.kind {
            let wanted = |blob: &&Descriptor| foreign || !media_type::is_foreign_layer(&blob.media_type);
            let blobs: HashSet<(Digest, u64)> =
                manifest.blobs().filter(wanted).map(|blob| (blob.digest, blob.size)).collect();
            let bytes = blobs.iter().fold(size, |sum, (_, size)| sum.saturating_add(*size));
            let row = |platform| ManifestReport { platform, digest, bytes };
            if platforms.is_empty() && !is_attestation {
                content.images.push(row(None));
            }
            content.images.extend(platforms.iter().map(|platform| row(Some(platform.to_string()))));
            for platform in platforms {
                if !content.platforms.contains(&platform) {
                    content.platforms.push(platform);
                }
            }
            content.configs.extend(config);
            for blob in manifest.blobs().filter(wanted) {
                if seen.blobs.insert((blob.digest, blob.size)) {
                    content.blobs.push(blob.clone());
                }
            }
        }
    }
}
