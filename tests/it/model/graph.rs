//! Random registries: manifests that share blobs, indexes that share manifests, names that share both.

use crate::support::images::noise;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use saver::content::memory::Memory;
use saver::oci::{Digest, RawManifest, Repository, media_type};
use serde_json::{Value, json};

/// System, architecture, variant's number, and the variant as it is written.
pub(crate) type Platform = (&'static str, &'static str, u32, Option<&'static str>);

pub(crate) const PLATFORMS: [Platform; 7] = [
    ("linux", "amd64", 1, None),
    ("linux", "arm64", 8, None),
    ("linux", "arm64", 8, Some("v8")),
    ("linux", "arm", 7, Some("v7")),
    ("linux", "arm", 6, Some("v6")),
    ("linux", "s390x", 0, None),
    ("windows", "amd64", 1, None),
];

pub(crate) const REGISTRIES: [&str; 2] = ["one.example", "two.example"];
pub(crate) const REPOSITORIES: [&str; 3] = ["app", "team/app", "tool"];

#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) artifact: bool,
    pub(crate) docker: bool,
    pub(crate) platform: usize,
    pub(crate) salt: u8,
    /// A blob of the pool, and whether the layer is foreign.
    pub(crate) layers: Vec<(usize, bool)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Stated {
    Own,
    Nothing,
    Other(usize),
    /// It is said to attest the entry before it.
    Attests,
}

#[derive(Clone, Debug)]
pub(crate) struct ImageSpec {
    pub(crate) registry: usize,
    pub(crate) repository: usize,
    pub(crate) tag: usize,
    pub(crate) root: usize,
    /// By tag, by digest, by both.
    pub(crate) form: usize,
    /// A choice of platforms of its own: bits of [`PLATFORMS`], none for all.
    pub(crate) platforms: Option<u8>,
    pub(crate) alias: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) blobs: Vec<usize>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) indexes: Vec<Vec<(usize, Stated)>>,
    pub(crate) images: Vec<ImageSpec>,
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let layers = proptest::collection::vec((0usize..8, prop::bool::weighted(0.15)), 0..4);
    (prop::bool::weighted(0.2), any::<bool>(), 0..PLATFORMS.len(), 0u8..2, layers).prop_map(
        |(artifact, docker, platform, salt, layers)| Leaf { artifact, docker, platform, salt, layers },
    )
}

fn entry() -> impl Strategy<Value = (usize, Stated)> {
    let stated = prop_oneof![
        6 => Just(Stated::Own),
        2 => Just(Stated::Nothing),
        1 => (0..PLATFORMS.len()).prop_map(Stated::Other),
        1 => Just(Stated::Attests),
    ];
    (0usize..12, stated)
}

fn image() -> impl Strategy<Value = ImageSpec> {
    let own = proptest::option::weighted(0.3, 0u8..128);
    let form = select(vec![0usize, 0, 0, 1, 2]);
    (0usize..2, 0usize..3, 0usize..3, 0usize..12, form, own, prop::bool::weighted(0.3)).prop_map(
        |(registry, repository, tag, root, form, platforms, alias)| ImageSpec {
            registry,
            repository,
            tag,
            root,
            form,
            platforms,
            alias,
        },
    )
}

pub(crate) fn spec() -> impl Strategy<Value = Spec> {
    let size = prop_oneof![
        1 => Just(0usize),
        6 => 1usize..3000,
        1 => select(vec![(256 << 10) - 1, 256 << 10, (256 << 10) + 1]),
        1 => (256usize << 10)..(1400 << 10),
    ];
    (
        proptest::collection::vec(size, 1..7),
        proptest::collection::vec(leaf(), 1..6),
        proptest::collection::vec(proptest::collection::vec(entry(), 0..5), 0..4),
        proptest::collection::vec(image(), 1..7),
    )
        .prop_map(|(blobs, leaves, indexes, images)| Spec { blobs, leaves, indexes, images })
}

/// A manifest or index, with what it points at.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) raw: RawManifest,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Leaf {
        artifact: bool,
        platform: usize,
        config: Digest,
        /// Digest, size, and whether it is foreign; the configuration first.
        blobs: Vec<(Digest, u64, bool)>,
    },
    Index {
        document: Value,
        entries: Vec<Entry>,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) node: usize,
    pub(crate) platform: Option<usize>,
    pub(crate) attests: Option<Digest>,
}

/// All nodes, children before parents, and the content of all blobs.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) blobs: Vec<Bytes>,
}

fn named(platform: usize) -> Value {
    let (os, architecture, _, variant) = PLATFORMS[platform];
    let mut value = json!({"os": os, "architecture": architecture});
    if let Some(variant) = variant {
        value["variant"] = variant.into();
    }
    value
}

fn raw(document: &Value) -> RawManifest {
    RawManifest::new(serde_json::to_vec(document).unwrap().into(), None).unwrap()
}

impl World {
    pub(crate) fn new(spec: &Spec) -> Self {
        let blobs = spec.blobs.iter().enumerate();
        let mut blobs: Vec<Bytes> =
            blobs.map(|(number, size)| noise(&format!("blob {number}"), *size)).collect();
        let pool = blobs.clone();
        let mut nodes: Vec<Node> = Vec::new();
        for leaf in &spec.leaves {
            nodes.push(Self::leaf(leaf, &pool, &mut blobs));
        }
        for index in &spec.indexes {
            let node = Self::index(index, &nodes);
            nodes.push(node);
        }
        Self { nodes, blobs }
    }

    fn leaf(leaf: &Leaf, pool: &[Bytes], blobs: &mut Vec<Bytes>) -> Node {
        let config = if leaf.artifact {
            Bytes::from_static(b"{}")
        } else {
            let mut config = named(leaf.platform);
            config["salt"] = leaf.salt.into();
            Bytes::from(config.to_string())
        };
        let (kind, config_type, layer_type, foreign_type) = match (leaf.artifact, leaf.docker) {
            (true, _) => (media_type::OCI_MANIFEST, media_type::OCI_EMPTY, "text/plain", None),
            (false, true) => (
                media_type::DOCKER_MANIFEST,
                media_type::DOCKER_CONFIG,
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Some("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            ),
            (false, false) => (
                media_type::OCI_MANIFEST,
                media_type::OCI_CONFIG,
                "application/vnd.oci.image.layer.v1.tar",
                Some("application/vnd.oci.image.layer.nondistributable.v1.tar"),
            ),
        };
        let describe = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(content).to_string(), "size": content.len()});
        let mut kept = vec![(Digest::of(&config), config.len() as u64, false)];
        let mut layers = Vec::new();
        for (blob, foreign) in &leaf.layers {
            let content = &pool[blob % pool.len()];
            let foreign = foreign_type.filter(|_| *foreign);
            layers.push(describe(foreign.unwrap_or(layer_type), content));
            kept.push((Digest::of(content), content.len() as u64, foreign.is_some()));
        }
        let raw = raw(&json!({
            "schemaVersion": 2, "mediaType": kind, "config": describe(config_type, &config), "layers": layers,
        }));
        let digest = Digest::of(&config);
        blobs.push(config);
        let kind =
            Kind::Leaf { artifact: leaf.artifact, platform: leaf.platform, config: digest, blobs: kept };
        Node { raw, kind }
    }

    fn index(spec: &[(usize, Stated)], nodes: &[Node]) -> Node {
        let (mut entries, mut values): (Vec<Entry>, Vec<Value>) = (Vec::new(), Vec::new());
        for (target, stated) in spec {
            let target = target % nodes.len();
            let node = &nodes[target];
            let mut value = json!({"mediaType": node.raw.media_type, "digest": node.raw.digest.to_string(), "size": node.raw.bytes.len()});
            let (mut platform, mut attests) = (None, None);
            let before = entries.last().map(|entry: &Entry| nodes[entry.node].raw.digest);
            match (stated, &node.kind) {
                (Stated::Own, Kind::Leaf { platform: own, artifact: false, .. }) => platform = Some(*own),
                (Stated::Other(other), _) => platform = Some(*other),
                (Stated::Attests, Kind::Leaf { .. }) if before.is_some() => {
                    attests = before;
                    value["platform"] = json!({"os": "unknown", "architecture": "unknown"});
                    value["annotations"] = json!({
                        "vnd.docker.reference.type": "attestation-manifest",
                        "vnd.docker.reference.digest": before.unwrap().to_string(),
                    });
                }
                _ => {}
            }
            if let Some(platform) = platform {
                value["platform"] = named(platform);
            }
            entries.push(Entry { node: target, platform, attests });
            values.push(value);
        }
        let document = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": values});
        Node { raw: raw(&document), kind: Kind::Index { document, entries } }
    }

    /// Puts the node and everything below it into `repository`.
    pub(crate) fn fill(&self, source: &Memory, repository: &Repository, node: usize) {
        source.insert_manifest(repository, None, &self.nodes[node].raw);
        match &self.nodes[node].kind {
            Kind::Leaf { blobs, .. } => {
                for (digest, _, _) in blobs {
                    let content = self.blobs.iter().find(|content| Digest::of(content) == *digest).unwrap();
                    source.insert_blob(repository, content.clone());
                }
            }
            Kind::Index { entries, .. } => {
                entries.iter().for_each(|entry| self.fill(source, repository, entry.node));
            }
        }
    }
}
