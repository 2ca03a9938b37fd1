//! The sample images as images of `docker.io` and `quay.example`, in a tree of either form of names.

use crate::support::peers::samples;
use crate::support::scratch::Scratch;
use crate::support::tree::copy_tree;
use saver::oci::Digest;
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
    let store = saver::store::Store::open_read_only(Path::new(&samples())).unwrap();
    store.read_tag(&repository.parse().unwrap(), &tag.parse().unwrap()).unwrap().unwrap()
}
