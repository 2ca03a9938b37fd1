//! Listing, lookup, removal and disk usage of images.

use crate::support::cri::{Client, Cri};
use crate::support::fault::FaultServer;
use crate::support::images::{Image as Made, deliver};
use crate::support::program::Home;
use crate::support::tree::files;
use saver::cri::proto::{ImageFsInfoRequest, ImageFsInfoResponse, VersionRequest, VersionResponse};
use saver::oci::{Digest, media_type};
use saver::store::{Store, StoreOptions};
use serde_json::json;

/// Adds an index of an amd64 and an arm64 image that run as `user`. Returns its digest, and the id of the amd64 image.
fn index(server: &FaultServer, name: &str, tag: &str, user: &str, layer: &[u8]) -> (Digest, Digest) {
    let layer = server.add_blob("application/vnd.oci.image.layer.v1.tar+gzip", layer.to_vec());
    let mut entries = Vec::new();
    let mut id = None;
    for architecture in ["amd64", "arm64"] {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"User": user},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer.digest.as_bytes()).to_string()]},
        });
        let config = server.add_blob(media_type::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
        id.get_or_insert(config.digest);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let size = bytes.len();
        let digest = server.add_manifest(name, None, media_type::OCI_MANIFEST, bytes);
        entries.push(json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    let bytes = serde_json::to_vec(&index).unwrap();
    (server.add_manifest(name, Some(tag), media_type::OCI_INDEX, bytes), id.unwrap())
}

#[tokio::test]
async fn image_status_matches_containerd() {
    let server = FaultServer::start().await;
    let (root, id) = index(&server, "team/app", "v1", "1000:100", b"a layer");
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let version: VersionResponse =
        client.call("RuntimeService/Version", &VersionRequest { version: "v1".into() }).await.unwrap();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("saver", "v1"));
    let name = format!("{registry}/team/app:v1");
    assert_eq!(client.status(&name).await.unwrap(), None);
    assert_eq!(client.pull(&name).await.unwrap(), id.to_string());
    let image = client.status(&name).await.unwrap().unwrap();
    assert_eq!(image.id, id.to_string());
    assert_eq!(image.repo_tags, std::slice::from_ref(&name));
    assert_eq!(image.repo_digests, [format!("{registry}/team/app@{root}")]);
    assert_eq!((image.uid.unwrap().value, image.username.as_str()), (1000, ""));
    assert!(!image.pinned);
    let inspected = client.inspect(&name, true).await.unwrap();
    let info: serde_json::Value = serde_json::from_str(&inspected.info["info"]).unwrap();
    assert_eq!(info["imageSpec"]["config"]["User"], "1000:100");
    assert_eq!(info["chainID"], Digest::of(Digest::of(b"a layer").as_bytes()).to_string());
    assert_eq!(info["layers"][0]["digest"], Digest::of(b"a layer").to_string());
    let sizes = ["manifest", "config"].iter().map(|part| info[part]["size"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(image.size, sizes + 7);
    assert!(client.inspect(&name, false).await.unwrap().info.is_empty());
    // The other platform was not fetched.
    assert_eq!(server.count("GET", "/manifests/"), 2);
}

#[tokio::test]
async fn large_configuration_with_nulls_is_read() {
    let server = FaultServer::start().await;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"User": null},
        "rootfs": {"type": "layers", "diff_ids": null}, "history": [{"created_by": "x".repeat(5 << 20)}],
    });
    let config = server.add_blob(media_type::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
    let id = config.digest.to_string();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [] });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    server.add_manifest("team/app", Some("v1"), media_type::OCI_MANIFEST, bytes);
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let name = format!("{registry}/team/app:v1");
    assert_eq!(client.pull(&name).await.unwrap(), id);
    let image = client.status(&name).await.unwrap().unwrap();
    assert_eq!((image.id, image.uid.is_none(), image.username.as_str()), (id, true, ""));
}

#[tokio::test]
async fn every_name_form_finds_the_image() {
    let server = FaultServer::start().await;
    let (root, id) = index(&server, "team/app", "v1", "app:app", b"a layer");
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let (hex, plain) = (id.hex(), format!("{registry}/team/app"));
    for name in [
        format!("{plain}:v1"),
        format!("harbor:{plain}:v1"),
        format!("docker:{plain}:v1"),
        format!("{plain}@{root}"),
        format!("{plain}:v1@{root}"),
    ] {
        assert_eq!(client.pull(&name).await.unwrap(), id.to_string(), "{name}");
        let status = client.status(&name).await.unwrap().unwrap();
        assert_eq!((status.id.as_str(), status.username.as_str()), (&*id.to_string(), "app"), "{name}");
        assert_eq!(client.list(&name).await.unwrap().len(), 1, "{name}");
        for id in [&hex, &hex[..12], &format!("sha256:{hex}"), &format!("sha256:{}", &hex[..7])] {
            assert_eq!(client.status(id).await.unwrap().unwrap(), status, "{id}");
        }
        client.remove(&name).await.unwrap();
        assert_eq!(client.status(&name).await.unwrap(), None, "{name}");
        assert_eq!(client.list("").await.unwrap(), [], "{name}");
        client.remove(&name).await.unwrap();
    }
    assert!(!files(&cri.tree()).keys().any(|path| path.ends_with("/data")), "blobs are left");
}

/// As containerd does it, and as crictl reports it: "Deleted" for each tag.
#[tokio::test]
async fn removal_by_any_name_removes_the_whole_image() {
    let server = FaultServer::start().await;
    let (root, _) = index(&server, "team/app", "v1", "", b"a layer");
    let (_, id) = index(&server, "team/app", "v2", "", b"a layer");
    index(&server, "other/app", "v1", "", b"a layer");
    let (_, kept) = index(&server, "other/app", "v9", "", b"another layer");
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let names = ["other/app:v1", "team/app:v1", "team/app:v2"].map(|name| format!("{registry}/{name}"));
    client.pull(&format!("{registry}/other/app:v9")).await.unwrap();
    for name in [&names[1], &id.to_string(), &id.hex()[..10], &format!("{registry}/team/app@{root}")] {
        for name in &names {
            client.pull(name).await.unwrap();
        }
        let image = client.status(&id.hex()).await.unwrap().unwrap();
        assert_eq!(image.repo_tags, names);
        assert_eq!(image.repo_digests.len(), 2);
        client.remove(name).await.unwrap();
        let left = client.list("").await.unwrap();
        assert_eq!(
            left.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(),
            [kept.to_string()],
            "{name}"
        );
        assert!(client.status(&names[0]).await.unwrap().is_none(), "{name}");
    }
    client.remove(&kept.to_string()).await.unwrap();
    assert_eq!(client.list("").await.unwrap(), []);
    assert!(!files(&cri.tree()).keys().any(|path| path.ends_with("/data")), "blobs are left");
}

/// The id is the manifest's digest, as CRI-O has it: both artifacts have the same configuration.
#[tokio::test]
async fn artifacts_are_listed_and_removable() {
    let server = FaultServer::start().await;
    let empty = server.add_blob(media_type::OCI_EMPTY, b"{}".to_vec());
    let mut digests = Vec::new();
    for (tag, content) in [("v1", "one"), ("v2", "two")] {
        let layer = server.add_blob("application/vnd.example.model", content.as_bytes().to_vec());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "artifactType": "application/vnd.example", "config": empty, "layers": [layer],
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        digests.push(server.add_manifest("model", Some(tag), media_type::OCI_MANIFEST, bytes));
    }
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    for (tag, digest) in ["v1", "v2"].iter().zip(&digests) {
        let name = format!("{registry}/model:{tag}");
        assert_eq!(client.pull(&name).await.unwrap(), digest.to_string());
        let image = client.status(&name).await.unwrap().unwrap();
        assert_eq!((image.id, image.repo_tags), (digest.to_string(), vec![name]));
    }
    assert_eq!(client.list("").await.unwrap().len(), 2);
    client.remove(&format!("{registry}/model:v1")).await.unwrap();
    assert_eq!(client.list("").await.unwrap().len(), 1);
    client.remove(&digests[1].to_string()).await.unwrap();
    assert_eq!(client.list("").await.unwrap(), []);
    assert!(!files(&cri.tree()).keys().any(|path| path.ends_with("/data")), "blobs are left");
}

/// A digest names one manifest, so its platform is no choice of the service: containerd pulls it as well.
#[tokio::test]
async fn manifest_of_other_platform_is_pulled_by_digest() {
    let server = FaultServer::start().await;
    let (root, id) = index(&server, "app", "v1", "", b"a layer");
    let (_, raw) = server.manifest("app", &root.to_string()).unwrap();
    let entries: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    let child = entries["manifests"][1]["digest"].as_str().unwrap().to_owned();
    assert_eq!(entries["manifests"][1]["platform"]["architecture"], "arm64");
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let name = format!("{registry}/app@{child}");
    let other = client.pull(&name).await.unwrap();
    assert_ne!(other, id.to_string());
    let listed = client.list("").await.unwrap();
    assert_eq!((listed.len(), &listed[0].repo_digests), (1, &vec![name.clone()]));
    // Next to the index that contains it, it is still found by its digest.
    client.pull(&format!("{registry}/app:v1")).await.unwrap();
    assert_eq!(client.status(&name).await.unwrap().unwrap().id, other);
    assert_eq!(client.status(&format!("{registry}/app:v1")).await.unwrap().unwrap().id, id.to_string());
    client.remove(&format!("{registry}/app:v1")).await.unwrap();
    assert_eq!(client.status(&format!("{registry}/app:v1")).await.unwrap(), None);
}

/// `crane append` and image builders write such configurations. The index names the platform, or nothing does.
#[tokio::test]
async fn configuration_without_platform_is_accepted() {
    let server = FaultServer::start().await;
    let config = json!({ "rootfs": {"type": "layers", "diff_ids": []} });
    let config = server.add_blob(media_type::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
    let id = config.digest.to_string();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [] });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let size = bytes.len();
    let digest = server.add_manifest("app", Some("single"), media_type::OCI_MANIFEST, bytes);
    let entry = |platform: serde_json::Value| json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size, "platform": platform});
    for (tag, entry) in [
        ("stated", entry(json!({"os": "linux", "architecture": "amd64"}))),
        ("unstated", entry(serde_json::Value::Null)),
    ] {
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry] });
        let bytes = serde_json::to_vec(&index).unwrap();
        server.add_manifest("app", Some(tag), media_type::OCI_INDEX, bytes);
    }
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    for tag in ["single", "stated", "unstated"] {
        let name = format!("{registry}/app:{tag}");
        assert_eq!(client.pull(&name).await.unwrap(), id, "{tag}");
        assert_eq!(client.status(&name).await.unwrap().unwrap().id, id, "{tag}");
    }
}

#[tokio::test]
async fn moved_tag_leaves_old_image_untagged() {
    let server = FaultServer::start().await;
    let (_, old) = index(&server, "app", "v1", "", b"old");
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let name = format!("{registry}/app:v1");
    client.pull(&name).await.unwrap();
    let (_, new) = index(&server, "app", "v1", "", b"new");
    assert_eq!(client.pull(&name).await.unwrap(), new.to_string());
    assert_eq!(client.status(&name).await.unwrap().unwrap().id, new.to_string());
    let dangling = client.status(&old.to_string()).await.unwrap().unwrap();
    assert_eq!((dangling.repo_tags.len(), dangling.repo_digests.len()), (0, 1));
    client.remove(&old.to_string()).await.unwrap();
    assert_eq!(client.list("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn names_without_host_are_docker_hub_names() {
    let home = Home::new();
    let store = Store::open(&home.path("tree"), StoreOptions::default()).unwrap();
    let single = |name: &str, places: &[&str]| Made::single(name, &[name.as_bytes().to_vec().into()], places);
    deliver(&store, &single("nginx", &["library/nginx:1", "nginx:1"])).await.unwrap();
    deliver(&store, &single("cilium", &["cilium/cilium:v1"])).await.unwrap();
    let cri = Cri::with(home, &[]);
    let client = cri.client().await;
    let mut tags: Vec<String> =
        client.list("").await.unwrap().into_iter().flat_map(|image| image.repo_tags).collect();
    tags.sort();
    assert_eq!(tags, ["docker.io/cilium/cilium:v1", "docker.io/library/nginx:1"]);
    for name in ["nginx:1", "docker.io/nginx:1", "library/nginx:1", "docker:nginx:1"] {
        assert!(client.status(name).await.unwrap().is_some(), "{name}");
    }
    assert!(client.status("quay.io/cilium/cilium:v1").await.unwrap().is_none());
    client.remove("nginx:1").await.unwrap();
    assert_eq!(client.list("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn image_with_missing_blob_is_absent_until_pulled() {
    let server = FaultServer::start().await;
    let (_, id) = index(&server, "app", "v1", "", b"a layer");
    let (cri, registry) = (Cri::start(), server.registry());
    let client = cri.client().await;
    let name = format!("{registry}/app:v1");
    client.pull(&name).await.unwrap();
    let hex = Digest::of(b"a layer").hex();
    let data = cri.tree().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    std::fs::remove_file(&data).unwrap();
    assert_eq!(client.status(&name).await.unwrap(), None);
    assert_eq!(client.list("").await.unwrap(), []);
    assert_eq!(client.pull(&name).await.unwrap(), id.to_string());
    assert_eq!(std::fs::read(&data).unwrap(), b"a layer");
}

/// Other processes may change the tree at any time.
#[tokio::test]
async fn changes_by_others_are_seen_by_next_call() {
    let home = Home::new();
    let store = Store::open(&home.path("tree"), StoreOptions::default()).unwrap();
    let single =
        |layer: &str, places: &[&str]| Made::single(layer, &[layer.as_bytes().to_vec().into()], places);
    let one = single("one", &["a.io/x:1", "a.io/x:2", "b.io/y:1"]);
    deliver(&store, &one).await.unwrap();
    let cri = Cri::with(home, &[]);
    let client = cri.client().await;
    let tags = async || {
        let mut tags: Vec<String> =
            client.list("").await.unwrap().into_iter().flat_map(|image| image.repo_tags).collect();
        tags.sort();
        tags
    };
    assert_eq!(tags().await, ["a.io/x:1", "a.io/x:2", "b.io/y:1"]);
    let root = cri.tree().join("docker/registry/v2");
    let repositories = root.join("repositories");
    deliver(&store, &single("two", &["b.io/y:2"])).await.unwrap();
    assert_eq!(tags().await, ["a.io/x:1", "a.io/x:2", "b.io/y:1", "b.io/y:2"]);
    // A tag is removed, and another is overwritten in place, as old registries do.
    std::fs::remove_dir_all(repositories.join("a.io/x/_manifests/tags/2")).unwrap();
    let two = std::fs::read(repositories.join("b.io/y/_manifests/tags/2/current/link")).unwrap();
    std::fs::write(repositories.join("b.io/y/_manifests/tags/1/current/link"), two).unwrap();
    assert_eq!(tags().await, ["a.io/x:1", "b.io/y:1", "b.io/y:2"]);
    assert_eq!(client.status("b.io/y:1").await.unwrap(), client.status("b.io/y:2").await.unwrap());
    // The link of a layer is removed and restored, then its content.
    let layer = Digest::of(b"one").hex();
    let link = repositories.join(format!("a.io/x/_layers/sha256/{layer}/link"));
    let data = root.join(format!("blobs/sha256/{}/{layer}/data", &layer[..2]));
    for path in [&link, &data] {
        let kept = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(client.status("a.io/x:1").await.unwrap(), None, "{path:?}");
        std::fs::write(path, kept).unwrap();
        assert!(client.status("a.io/x:1").await.unwrap().is_some(), "{path:?}");
    }
    std::fs::rename(repositories.join("a.io"), repositories.join("c.io")).unwrap();
    assert_eq!(tags().await, ["b.io/y:1", "b.io/y:2", "c.io/x:1"]);
    std::fs::remove_dir_all(&root).unwrap();
    assert!(tags().await.is_empty());
}

#[tokio::test]
async fn fs_info_matches_du() {
    let server = FaultServer::start().await;
    index(&server, "app", "v1", "", &[7; 300_000]);
    let cri = Cri::start();
    let client = cri.client().await;
    let ask = async |client: &Client| -> ImageFsInfoResponse {
        client.call("ImageService/ImageFsInfo", &ImageFsInfoRequest {}).await.unwrap()
    };
    let before = ask(&client).await;
    client.pull(&format!("{}/app:v1", server.registry())).await.unwrap();
    let after = ask(&client).await;
    assert!(after.container_filesystems.is_empty());
    let du = |more: &str| -> u64 {
        let mut command = std::process::Command::new("du");
        let output = command.args(["-s", "--block-size=1", more]).arg(cri.tree()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    };
    let usage = &after.image_filesystems[0];
    assert_eq!(usage.used_bytes.unwrap().value, du("--one-file-system"));
    assert_eq!(usage.inodes_used.unwrap().value, du("--inodes"));
    assert!(
        usage.used_bytes.unwrap().value > before.image_filesystems[0].used_bytes.unwrap().value + 300_000
    );
    let mount_point = &usage.fs_id.as_ref().unwrap().mountpoint;
    assert!(cri.tree().canonicalize().unwrap().starts_with(mount_point), "{mount_point}");
    assert!(usage.timestamp > before.image_filesystems[0].timestamp);
}

#[tokio::test]
async fn invalid_names_are_rejected() {
    let cri = Cri::start();
    let client = cri.client().await;
    const INVALID_ARGUMENT: u32 = 3;
    let id = "0".repeat(64);
    for name in ["", "UPPER", "a b", "a.b_5000/x", &id, &format!("sha256:{id}")] {
        let (code, message) = client.pull(name).await.unwrap_err();
        assert_eq!(code, INVALID_ARGUMENT, "{name}: {message}");
    }
    // Too short for an id prefix, and therefore names.
    for name in ["0", "00f", "sha256:00f"] {
        assert_eq!(client.status(name).await.unwrap(), None, "{name}");
        client.remove(name).await.unwrap();
    }
    for name in ["", "UPPER"] {
        assert_eq!(client.status(name).await.unwrap_err().0, INVALID_ARGUMENT, "{name}");
        assert_eq!(client.remove(name).await.unwrap_err().0, INVALID_ARGUMENT, "{name}");
    }
    assert_eq!(client.status(&id).await.unwrap(), None);
}
