//! `?ns=HOST`: one mirror for every upstream registry, as containerd asks it.

use super::super::support::handmade::Tree;
use super::super::support::peers::containerd::Containerd;
use super::super::support::serving::Serving;
use super::reported_digest;
use crate::support::scratch::Scratch;
use saver::oci::Digest;

/// A directory whose names have the host of the registry in front, and one image from each of two registries.
fn tree_with_hosts() -> (Tree, Digest, Digest) {
    let tree = Tree::new();
    let hub = tree.image("docker.io/library/app", "linux/amd64", &[b"hub"]).digest;
    let local = tree.image("localhost_5000/library/app", "linux/amd64", &[b"local"]).digest;
    tree.tag("docker.io/library/app", "v1", &hub);
    tree.tag("localhost_5000/library/app", "v1", &local);
    (tree, hub, local)
}

#[test]
fn ns_selects_the_registry_in_a_directory_with_hosts() {
    let (tree, hub, local) = tree_with_hosts();
    let serving = Serving::start(tree.dir());
    let get = |ns: &str| serving.get(&format!("/v2/library/app/manifests/v1?ns={ns}"));
    for (ns, digest) in [
        ("docker.io", hub),
        ("index.docker.io", hub),
        ("registry-1.docker.io", hub),
        ("localhost:5000", local),
        ("localhost%3A5000", local),
    ] {
        let reply = get(ns);
        assert_eq!(reply.status, 200, "{ns}: {reply:?}");
        assert_eq!(reported_digest(&reply), digest, "{ns}");
    }
    for ns in ["quay.io", "localhost", "..", "a%2Fb", "127.0.0.1:1", "http%3A%2F%2Fdocker.io", "%00"] {
        let reply = get(ns);
        assert_eq!((reply.status, reply.code().as_str()), (404, "NAME_UNKNOWN"), "{ns}");
    }
    // Without ns, names are those of the tree. With ns, a name that starts with another host is unknown.
    let plain = "/v2/docker.io/library/app/manifests/v1";
    assert_eq!(reported_digest(&serving.get(plain)), hub);
    assert_eq!(serving.get(&format!("{plain}?ns=quay.io")).status, 404);
}

#[test]
fn ns_applies_to_every_endpoint_of_a_repository() {
    let (tree, _, local) = tree_with_hosts();
    tree.tag("localhost_5000/library/app", "v2", &local);
    let layer = Digest::of(b"local");
    let serving = Serving::start(tree.dir());
    let name = "/v2/library/app";
    let ns = "ns=localhost:5000";
    assert_eq!(serving.get(&format!("{name}/blobs/{layer}?{ns}")).body, b"local");
    assert_eq!(serving.get(&format!("{name}/blobs/{layer}?ns=docker.io")).status, 404);
    assert_eq!(serving.head(&format!("{name}/manifests/{local}?{ns}")).status, 200);
    assert_eq!(serving.get(&format!("{name}/referrers/{local}?{ns}")).status, 200);
    let page = serving.get(&format!("{name}/tags/list?n=1&{ns}"));
    assert_eq!(page.json(), serde_json::json!({"name": "library/app", "tags": ["v1"]}));
    let link = page.header("link").unwrap();
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    assert_eq!(serving.get(next).json()["tags"], serde_json::json!(["v2"]), "{link}");
}

#[test]
fn ns_is_accepted_in_a_directory_without_hosts() {
    let tree = Tree::new();
    let image = tree.image("cilium/cilium", "linux/amd64", &[b"a layer"]).digest;
    tree.tag("cilium/cilium", "v1", &image);
    let serving = Serving::start(tree.dir());
    let reply = serving.get("/v2/cilium/cilium/manifests/v1?ns=quay.io");
    assert_eq!((reply.status, reported_digest(&reply)), (200, image));
    let reply = serving.get("/v2/cilium/other/manifests/v1?ns=quay.io");
    assert_eq!((reply.status, reply.code().as_str()), (404, "NAME_UNKNOWN"));
    let reply = serving.get("/v2/cilium/cilium/manifests/v1?ns=not%20a%20host");
    assert_eq!((reply.status, reply.code().as_str()), (404, "NAME_UNKNOWN"));
}

/// One `_default/hosts.toml` for all registries: the images are pulled by their original names.
#[test]
fn containerd_pulls_original_names_from_one_mirror() {
    let tree = Tree::new();
    let hosts = Scratch::new();
    let layer = gzip_of_empty_tar();
    for (place, tag) in [("docker.io/library/app", "v1"), ("quay.example/team/tool", "v2")] {
        let image = tree.image(place, "linux/amd64", &[&layer, place.as_bytes()]);
        tree.tag(place, tag, &image.digest);
    }
    let serving = Serving::start(tree.dir());
    let config = format!("[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n", serving.address);
    std::fs::create_dir(hosts.path().join("_default")).unwrap();
    std::fs::write(hosts.path().join("_default/hosts.toml"), config).unwrap();
    let containerd = Containerd::start();
    let hosts = hosts.path().to_str().unwrap();
    for name in ["docker.io/library/app:v1", "quay.example/team/tool:v2"] {
        // The layers are not real archives, so they are fetched and not unpacked.
        containerd.ctr(&["content", "fetch", "--hosts-dir", hosts, "--platform", "linux/amd64", name]);
        assert!(containerd.ctr(&["images", "ls", "-q"]).contains(name), "{name}");
    }
}

fn gzip_of_empty_tar() -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&[0; 1024]).unwrap();
    gzip.finish().unwrap()
}
