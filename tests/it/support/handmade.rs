//! A tree as registries keep it, written by hand: whole by default, and damaged where a test wants it so.

use super::scratch::Scratch;
use saver::oci::{Descriptor, Digest, Platform, media_type};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The type of the layers, whose content no test here unpacks.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The type of a Helm chart's archive.
const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// A directory with a registry's tree in it, removed when dropped.
pub(crate) struct Tree {
    dir: Scratch,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self::at(Scratch::new())
    }

    /// In memory: for ten thousands of files, which take minutes on a busy disk.
    pub(crate) fn in_memory() -> Self {
        Self::at(Scratch::in_memory())
    }

    fn at(dir: Scratch) -> Self {
        fs::create_dir_all(dir.path().join("docker/registry/v2/repositories")).unwrap();
        Self { dir }
    }

    /// The tree is damaged on purpose; `how` says what is wrong with it.
    pub(crate) fn allow_damage(&self, how: &str) {
        self.dir.allow_damage(how);
    }

    /// The directory that a registry would mount.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("docker/registry/v2")
    }

    /// The repository's own directory.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.root().join("repositories").join(name)
    }

    /// The file of some content.
    pub(crate) fn data(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root().join("blobs/sha256").join(&hex[..2]).join(&hex).join("data")
    }

    /// The file that lets the repository serve a blob.
    pub(crate) fn layer_link(&self, name: &str, digest: &Digest) -> PathBuf {
        self.repository(name).join("_layers/sha256").join(digest.hex()).join("link")
    }

    /// The file that lets the repository serve a manifest.
    pub(crate) fn revision_link(&self, name: &str, digest: &Digest) -> PathBuf {
        self.repository(name).join("_manifests/revisions/sha256").join(digest.hex()).join("link")
    }

    /// The file that says what a tag names.
    pub(crate) fn tag_link(&self, name: &str, tag: &str) -> PathBuf {
        self.repository(name).join("_manifests/tags").join(tag).join("current/link")
    }

    /// Content without any link to it.
    pub(crate) fn content(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        write(&self.data(&digest), bytes);
        digest
    }

    /// A blob that the repository serves.
    pub(crate) fn blob(&self, name: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = self.content(bytes);
        write(&self.layer_link(name, &digest), digest.to_string().as_bytes());
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// A manifest that the repository serves by its digest: a document of `media_type`.
    pub(crate) fn manifest(&self, name: &str, media_type: &str, document: &Value) -> Descriptor {
        for directory in ["_layers", "_manifests/tags"] {
            fs::create_dir_all(self.repository(name).join(directory)).unwrap();
        }
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = self.content(&bytes);
        write(&self.revision_link(name, &digest), digest.to_string().as_bytes());
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// Lets `name:tag` name `digest`.
    pub(crate) fn tag(&self, name: &str, tag: &str, digest: &Digest) {
        let history = self.repository(name).join("_manifests/tags").join(tag).join("index/sha256");
        write(&history.join(digest.hex()).join("link"), digest.to_string().as_bytes());
        write(&self.tag_link(name, tag), digest.to_string().as_bytes());
    }

    /// An image for `platform` (`linux/arm/v7`) of these layers; the descriptor says its platform.
    pub(crate) fn image(&self, name: &str, platform: &str, layers: &[&[u8]]) -> Descriptor {
        let mut parts = platform.split('/');
        let mut platform = Platform::new(parts.next().unwrap(), parts.next().unwrap());
        platform.variant = parts.next().map(str::to_owned);
        let mut config = serde_json::to_value(&platform).unwrap();
        config["rootfs"] = json!({"type": "layers", "diff_ids": []});
        let config = self.blob(name, media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(name, LAYER, layer)).collect();
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
        });
        let mut descriptor = self.manifest(name, media_type::OCI_MANIFEST, &document);
        descriptor.platform = Some(platform);
        descriptor
    }

    /// An index of these manifests.
    pub(crate) fn index(&self, name: &str, manifests: &[Descriptor]) -> Descriptor {
        let document =
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests});
        self.manifest(name, media_type::OCI_INDEX, &document)
    }

    /// A Helm chart.
    pub(crate) fn chart(&self, name: &str, version: &str) -> Descriptor {
        let config = json!({"name": name, "version": version, "apiVersion": "v2"});
        let config = self.blob(name, media_type::HELM_CONFIG, &serde_json::to_vec(&config).unwrap());
        let layer = self.blob(name, CHART, format!("chart {name} {version}").as_bytes());
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        self.manifest(name, media_type::OCI_MANIFEST, &document)
    }

    /// An artifact of `artifact_type` that refers to `subject`.
    pub(crate) fn artifact(&self, name: &str, artifact_type: &str, subject: &Descriptor) -> Descriptor {
        let empty = self.blob(name, media_type::OCI_EMPTY, b"{}");
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": artifact_type,
            "config": empty, "layers": [empty], "annotations": {"kind": artifact_type},
            "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
        });
        self.manifest(name, media_type::OCI_MANIFEST, &document)
    }
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
