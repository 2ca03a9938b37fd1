//! A source of some dozen megabytes: images for two platforms that share their bases.

use super::handmade::Tree;
use saver::oci::Descriptor;

/// Images in a tree of their own, for a registry to serve.
pub(crate) struct Fleet {
    pub(crate) tree: Tree,
    names: Vec<String>,
}

impl Fleet {
    /// So many images, each with a base, a layer of its own and a little one.
    pub(crate) fn make(count: usize) -> Self {
        let tree = Tree::new();
        let bases: Vec<Vec<u8>> = (0..3).map(|number| noise(number, 3 << 20)).collect();
        let names: Vec<String> = (0..count).map(|number| format!("fleet/app-{number:02}")).collect();
        for (number, name) in names.iter().enumerate() {
            image(&tree, name, number as u64, &bases[number % bases.len()]);
        }
        Self { tree, names }
    }

    /// The images' references at `registry`.
    pub(crate) fn references(&self, registry: &str) -> Vec<String> {
        self.names.iter().map(|name| format!("{registry}/{name}:1.0")).collect()
    }

    /// The repositories.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Gives the image's tag another image to name, which shares nothing with it.
    pub(crate) fn renew(&self, name: &str, seed: u64) -> Descriptor {
        image(&self.tree, name, seed, &noise(seed + 5000, 1 << 20))
    }
}

fn image(tree: &Tree, name: &str, seed: u64, base: &[u8]) -> Descriptor {
    let own = noise(seed + 100, (1 << 20) + 700_000 * (seed as usize % 3));
    let little = noise(seed + 1000, 9000);
    let amd64 = tree.image(name, "linux/amd64", &[base, &own, &little]);
    let arm64 = tree.image(name, "linux/arm64", &[&noise(seed + 2000, 3000)]);
    let index = tree.index(name, &[amd64, arm64]);
    tree.tag(name, "1.0", &index.digest);
    index
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Bytes of every blob below a directory of a registry, manifests among them.
pub(crate) fn blob_bytes(dir: &std::path::Path) -> u64 {
    let files = walkdir::WalkDir::new(dir.join("docker/registry/v2/blobs")).into_iter().map(Result::unwrap);
    files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.metadata().unwrap().len()).sum()
}

/// Asserts that nothing is wrong with the tree in `dir`, every byte hashed.
pub(crate) fn assert_true(dir: &std::path::Path, context: &str) {
    let store = saver::store::Store::open_read_only(dir).unwrap();
    let mut options = saver::verify::VerifyOptions::default();
    options.deep = true;
    let report = saver::verify::verify(&store, &options).unwrap();
    assert!(report.is_clean(), "{context}: {:#?}", report.problems);
    let problems = super::registry_model::problems(dir);
    assert!(problems.is_empty(), "{context}: {problems:#?}");
}
