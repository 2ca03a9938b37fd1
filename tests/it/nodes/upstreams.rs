//! The sample images as images of `docker.io` and `quay.example`, in a tree of either form of names.

use crate::support::peers::samples;
use crate::support::scratch::Scratch;
use crate::support::tree::copy_tree;
use saver::oci::Digest;
use saver::store::Store;
use serde_json::Value;
use std::path::Path;

/// The original names, each with its repository among the samples.
pub(super) const IMAGES: [(&str, &str); 2] =
    [("docker.io/library/hello:1.0", "library/hello:1.0"), ("quay.example/demo/app:1.0", "demo/app:1.0")];

/// The registries of the original names.
pub(super) const REGISTRIES: [&str; 2] = ["docker.io", "quay.example"];

/// The samples in a tree saved with these names: `strip` or `domain`.
pub(super) fn tree(names: &str) -> Scratch {
    let dir = Scratch::new();
    copy_tree(&samples(), dir.path());
    if names == "domain" {
        let repositories = dir.path().join("docker/registry/v2/repositories");
        for entry in std::fs::read_dir(&repositories).unwrap() {
            let name = entry.unwrap().file_name();
            let registry = if name == "library" { "docker.io" } else { "quay.example" };
            std::fs::create_dir_all(repositories.join(registry)).unwrap();
            std::fs::rename(repositories.join(&name), repositories.join(registry).join(&name)).unwrap();
        }
    }
    dir
}

/// The digest of a sample.
pub(super) fn digest(sample: &str) -> Digest {
    let (repository, tag) = sample.split_once(':').unwrap();
    stored().read_tag(&repository.parse().unwrap(), &tag.parse().unwrap()).unwrap().unwrap()
}

/// The digest of the configuration of a sample for amd64.
pub(super) fn config(sample: &str) -> Digest {
    let read = |digest: &Digest| -> Value {
        serde_json::from_slice(&stored().read_content(digest, 4 << 20).unwrap().unwrap()).unwrap()
    };
    let of = |descriptor: &Value| -> Digest { descriptor["digest"].as_str().unwrap().parse().unwrap() };
    let mut manifest = read(&digest(sample));
    if let Some(entries) = manifest["manifests"].as_array() {
        let entry = entries.iter().find(|entry| entry["platform"]["architecture"] == "amd64").unwrap();
        manifest = read(&of(entry));
    }
    of(&manifest["config"])
}

fn stored() -> Store {
    Store::open_read_only(Path::new(&samples())).unwrap()
}
