//! The directory is replaced while it is served.

use super::super::support::handmade::Tree;
use super::super::support::mount::{apart, mount_small};
use super::super::support::serving::Serving;
use super::reported_digest;
use crate::support::scratch::Scratch;
use saver::oci::Digest;
use std::path::Path;

/// Makes a tree with `app:v1`, moves it to `path`, and returns the image's digest.
fn tree_at(path: &Path, layer: &[u8]) -> Digest {
    let tree = Tree::new();
    let image = tree.image("app", "linux/amd64", &[layer]).digest;
    tree.tag("app", "v1", &image);
    std::fs::create_dir_all(path).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(tree.dir().join("docker")).arg(path).status();
    assert!(copied.unwrap().success());
    image
}

#[test]
fn renamed_and_recreated_directory_is_served() {
    let dir = Scratch::new();
    let path = dir.path().join("registry");
    let first = tree_at(&path, b"first");
    let serving = Serving::open(&path);
    let manifest = || serving.get("/v2/app/manifests/v1");
    assert_eq!(reported_digest(&manifest()), first);
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    let reply = manifest();
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"));
    assert!(!String::from_utf8_lossy(&reply.body).contains("registry/"), "{reply:?}");
    // An empty directory is most likely an unmounted mount point.
    std::fs::create_dir(&path).unwrap();
    assert_eq!(manifest().status, 503);
    let second = tree_at(&path, b"second");
    assert_eq!(reported_digest(&manifest()), second);
    assert_eq!(serving.get(&format!("/v2/app/manifests/{first}")).status, 404);
}

#[test]
fn mounted_and_unmounted_directory_is_served() {
    apart(|| {
        let dir = Scratch::new();
        let path = dir.path().join("registry");
        let below = tree_at(&path, b"below");
        // This creates a mount namespace for the thread, and for the server that it starts.
        let scratch = dir.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        if !mount_small(&scratch, "size=16k") {
            return;
        }
        let serving = Serving::open(&path);
        let manifest = || serving.get("/v2/app/manifests/v1");
        assert_eq!(reported_digest(&manifest()), below);
        let mount = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).arg(&path).status();
            assert!(status.unwrap().success(), "{program}");
        };
        mount("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        assert_eq!(manifest().status, 503);
        let mounted = tree_at(&path, b"mounted");
        assert_eq!(reported_digest(&manifest()), mounted);
        // The server keeps the directory open, so only a lazy unmount succeeds.
        mount("umount", &["--lazy"]);
        assert_eq!(reported_digest(&manifest()), below);
    });
}
