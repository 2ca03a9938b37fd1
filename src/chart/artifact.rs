//! The OCI artifact of a chart (Helm, "Use OCI-based registries": Helm chart manifest).

use super::metadata::{ChartMetadata, go_json};
use crate::content::memory::Memory;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag, media_type};
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

/// The manifest of a chart, and the blobs that it names.
#[derive(Clone, Debug)]
pub struct ChartArtifact {
    /// The manifest.
    pub manifest: RawManifest,
    /// The configuration, the archive, and the provenance file if there is one.
    pub blobs: Vec<(Digest, Bytes)>,
}

/// A manifest, with the fields in the order in which Helm writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument {
    schema_version: u32,
    config: BlobDocument,
    layers: Vec<BlobDocument>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlobDocument {
    media_type: &'static str,
    digest: Digest,
    size: usize,
}

impl BlobDocument {
    fn of(media_type: &'static str, content: &[u8]) -> Self {
        Self { media_type, digest: Digest::of(content), size: content.len() }
    }
}

impl ChartArtifact {
    pub(super) fn new(metadata: &ChartMetadata, archive: Bytes, provenance: Option<Bytes>) -> Result<Self> {
        let internal = |_| Error::internal("chart");
        let config = Bytes::from(metadata.to_json().map_err(internal)?);
        let mut layers = vec![BlobDocument::of(media_type::HELM_CHART, &archive)];
        layers.extend(provenance.as_ref().map(|file| BlobDocument::of(media_type::HELM_PROVENANCE, file)));
        let document = ManifestDocument {
            schema_version: 2,
            config: BlobDocument::of(media_type::HELM_CONFIG, &config),
            layers,
            annotations: metadata.manifest_annotations(),
        };
        let document = go_json(&serde_json::to_string(&document).map_err(internal)?);
        let manifest = RawManifest::new(document.into_bytes().into(), Some(media_type::OCI_MANIFEST))?;
        let blobs = [config, archive].into_iter().chain(provenance);
        let blobs = blobs.map(|blob| (Digest::of(&blob), blob)).collect();
        Ok(Self { manifest, blobs })
    }

    /// Its content as a source.
    #[must_use]
    pub fn to_source(&self, repository: &Repository, tag: &Tag) -> Memory {
        let source = Memory::new();
        for (_, blob) in &self.blobs {
            source.insert_blob(repository, blob.clone());
        }
        source.insert_manifest(repository, Some(tag), &self.manifest);
        source
    }

    /// The descriptor of its manifest.
    #[must_use]
    pub fn root(&self) -> Descriptor {
        self.manifest.descriptor()
    }
}
