//! Manifests and indexes that are wrong, odd or meant to harm.

use super::*;
use crate::support::fault::Fault;
use saver::oci::{Digest, media_type};
use serde_json::{Value, json};

fn put(scene: &Scene, name: &str, served_as: &str, bytes: impl Into<Bytes>) -> Digest {
    scene.server.add_manifest(&format!("team/{name}"), Some("v1"), served_as, bytes)
}

fn entry(digest: Digest, size: usize, architecture: &str) -> Value {
    json!({
        "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
        "platform": {"architecture": architecture, "os": "linux"},
    })
}

/// The raw manifest of an image of the scene.
fn raw(image: &Image, media_type: Option<&str>) -> Vec<u8> {
    let mut document = json!({"schemaVersion": 2, "config": image.config, "layers": image.layers});
    if let Some(media_type) = media_type {
        document["mediaType"] = media_type.into();
    }
    serde_json::to_vec(&document).unwrap()
}

#[tokio::test]
async fn manifest_without_media_type_is_saved_unchanged() {
    for served_as in [media_type::OCI_MANIFEST, "application/json", ""] {
        let scene = Scene::start().await;
        let image = scene.image("other", &[b"a layer"]);
        let digest = put(&scene, "app", served_as, raw(&image, None));
        scene.server.on("", "/v2/team/app/manifests/").answer(Fault::header("Content-Type", served_as));
        let report = scene.saves("app").await;
        assert_eq!(report.images[0].digest, Some(digest), "{served_as:?}");
    }
}

#[tokio::test]
async fn schema_1_manifest_is_unsupported() {
    let scene = Scene::start().await;
    let document = json!({
        "schemaVersion": 1, "name": "team/app", "tag": "v1", "architecture": "amd64",
        "fsLayers": [{"blobSum": Digest::of(b"x")}], "history": [{"v1Compatibility": "{}"}],
    });
    let served_as = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    put(&scene, "app", served_as, document.to_string());
    let failure = scene.fails("app", ErrorKind::Unsupported, "schema 1").await;
    assert!(failure.hint.is_some(), "{failure:?}");
}

#[tokio::test]
async fn sha512_content_is_unsupported_at_once_and_harmless_where_not_selected() {
    let scene = Scene::start().await;
    let digest = format!("sha512:{}", "ab".repeat(64));
    let image = scene.image("other", &[b"a layer"]);
    let mut layered: Value = serde_json::from_slice(&raw(&image, Some(media_type::OCI_MANIFEST))).unwrap();
    layered["layers"][0]["digest"] = digest.clone().into();
    put(&scene, "app", media_type::OCI_MANIFEST, layered.to_string());
    let failure = scene.fails("app", ErrorKind::Unsupported, "unsupported digest algorithm sha512").await;
    assert_eq!(failure.attempts, 1, "{failure:?}");
    assert_eq!(scene.server.count("GET", "/v2/team/app/manifests/"), 1);

    let bytes = raw(&image, Some(media_type::OCI_MANIFEST));
    let amd64 = put(&scene, "mixed", media_type::OCI_MANIFEST, bytes.clone());
    let mut strange = entry(amd64, 1000, "s390x");
    strange["digest"] = digest.into();
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [strange, entry(amd64, bytes.len(), "amd64")],
    });
    let root = put(&scene, "mixed", media_type::OCI_INDEX, index.to_string());
    assert_eq!(scene.saves("mixed").await.images[0].digest, Some(root));
}

#[tokio::test]
async fn chart_version_plus_becomes_underscore() {
    let scene = Scene::start().await;
    let error = format!("{}/charts/x:1.2.3+build.5", scene.server.registry());
    let error = error.parse::<saver::oci::Reference>().unwrap_err();
    assert!(error.hint().unwrap().contains("1.2.3_build.5"), "{error:?}");
    let config =
        scene.server.add_blob(media_type::HELM_CONFIG, &br#"{"name":"x","version":"1.2.3+build.5"}"#[..]);
    let layer =
        scene.server.add_blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &b"the chart"[..]);
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    let bytes = document.to_string();
    scene.server.add_manifest("charts/x", Some("1.2.3_build.5"), media_type::OCI_MANIFEST, bytes);
    let reference = format!("{}/charts/x:1.2.3_build.5", scene.server.registry());
    let image: SaveImage = reference.parse::<saver::oci::Reference>().unwrap().into();
    let report = ImageSaver::new(scene.save.clone()).unwrap().save(vec![image]).await.unwrap();
    assert!(report.is_success(), "{:?}", report.images[0].error);
    assert!(is_tagged(scene.dir.path(), "charts/x", "1.2.3_build.5"));
}

#[tokio::test]
async fn manifest_over_4_mib_is_refused() {
    for chunked in [false, true] {
        let scene = Scene::start().await;
        let image = scene.image("other", &[b"a layer"]);
        let mut document: Value =
            serde_json::from_slice(&raw(&image, Some(media_type::OCI_MANIFEST))).unwrap();
        document["annotations"] = json!({"x": "x".repeat(4 << 20)});
        put(&scene, "app", media_type::OCI_MANIFEST, document.to_string());
        if chunked {
            scene.server.on("GET", "/v2/team/app/manifests/").answer(Fault::Chunked);
        }
        scene.fails("app", ErrorKind::Corrupt, "4194304").await;
    }
}

#[tokio::test]
async fn large_manifest_below_the_limit_is_saved() {
    let scene = Scene::start().await;
    let image = scene.image("other", &[b"a layer"]);
    let mut document: Value = serde_json::from_slice(&raw(&image, Some(media_type::OCI_MANIFEST))).unwrap();
    document["annotations"] = json!({"x": "x".repeat((4 << 20) - 2000)});
    put(&scene, "app", media_type::OCI_MANIFEST, document.to_string());
    scene.saves("app").await;
}

/// `depth` indexes within each other around an image.
fn nested(scene: &Scene, name: &str, depth: usize) {
    let image = scene.image("inner", &[b"a layer"]);
    let bytes = raw(&image, Some(media_type::OCI_MANIFEST));
    let mut inner = entry(put(scene, name, media_type::OCI_MANIFEST, bytes.clone()), bytes.len(), "amd64");
    for _ in 0..depth {
        let document = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [inner]});
        let bytes = document.to_string();
        let size = bytes.len();
        inner = entry(put(scene, name, media_type::OCI_INDEX, bytes), size, "amd64");
        inner["mediaType"] = media_type::OCI_INDEX.into();
    }
}

#[tokio::test]
async fn deeply_nested_indexes_are_refused() {
    let scene = Scene::start().await;
    nested(&scene, "two", 2);
    scene.saves("two").await;
    nested(&scene, "app", 60);
    let before = scene.server.seen().len();
    scene.fails("app", ErrorKind::Unsupported, "nested more than").await;
    assert!(scene.server.seen().len() - before < 20, "the bottom was looked for");
}

#[tokio::test]
async fn deeply_nested_json_is_refused() {
    let scene = Scene::start().await;
    let image = scene.image("other", &[b"a layer"]);
    let text = String::from_utf8(raw(&image, Some(media_type::OCI_MANIFEST))).unwrap();
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat((3 << 20) / open.len());
        put(&scene, "app", media_type::OCI_MANIFEST, text.replacen('{', &format!("{{\"x\":{deep},"), 1));
        scene.fails("app", ErrorKind::Unsupported, "not a manifest").await;
    }
}

#[tokio::test]
async fn duplicate_json_keys_are_refused() {
    let scene = Scene::start().await;
    let image = scene.image("other", &[b"a layer"]);
    let text = String::from_utf8(raw(&image, Some(media_type::OCI_MANIFEST))).unwrap();
    for key in ["\"layers\":[]", "\"schemaVersion\":2", "\"mediaType\":\"x\""] {
        put(&scene, "app", media_type::OCI_MANIFEST, text.replacen('{', &format!("{{{key},"), 1));
        let before = scene.server.count("GET", "/team/app/manifests/");
        scene.fails("app", ErrorKind::Unsupported, "duplicate").await;
        // The bytes have the right digest: another request would return the same.
        assert_eq!(scene.server.count("GET", "/team/app/manifests/") - before, 1);
    }
}

#[tokio::test]
async fn document_of_both_kinds_is_refused() {
    let scene = Scene::start().await;
    let image = scene.image("other", &[b"a layer"]);
    for served_as in [media_type::OCI_MANIFEST, media_type::OCI_INDEX] {
        let mut document: Value = serde_json::from_slice(&raw(&image, Some(served_as))).unwrap();
        document["manifests"] = json!([entry(image.manifest, 10, "amd64")]);
        put(&scene, "app", served_as, document.to_string());
        scene.fails("app", ErrorKind::Unsupported, "both an index and an image").await;
    }
}

#[tokio::test]
async fn foreign_layers_are_fetched_only_on_request() {
    for fetched in [false, true] {
        let mut scene = Scene::start().await;
        scene.save.transfer.foreign_layers = fetched;
        let image = scene.image("other", &[b"a layer"]);
        let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        let mut foreign =
            serde_json::to_value(scene.server.add_blob(kind, &b"not ours to give"[..])).unwrap();
        foreign["urls"] = json!(["http://127.0.0.1:1/never-asked"]);
        let mut document: Value =
            serde_json::from_slice(&raw(&image, Some(media_type::OCI_MANIFEST))).unwrap();
        document["layers"].as_array_mut().unwrap().push(foreign.clone());
        put(&scene, "app", media_type::OCI_MANIFEST, document.to_string());
        scene.saves("app").await;
        let asked = scene.server.count("GET", foreign["digest"].as_str().unwrap());
        assert_eq!(asked, usize::from(fetched));
    }
}

#[tokio::test]
async fn wrong_docker_content_digest_is_detected() {
    // Of a HEAD: what it names is not there, and nothing else is taken for it.
    let scene = Scene::start().await;
    scene.image("app", &[b"a layer"]);
    let wrong = Fault::header("Docker-Content-Digest", &Digest::of(b"wrong").to_string());
    scene.server.on("", "/v2/team/app/manifests/v1").answer(wrong.clone());
    scene.fails("app", ErrorKind::NotFound, &Digest::of(b"wrong").to_string()).await;
    // Of a GET by tag, where it is all there is to compare with.
    scene.server.behave();
    scene.server.on("HEAD", "/v2/team/app/manifests/v1").answer(Fault::status(405));
    scene.server.on("GET", "/v2/team/app/manifests/v1").answer(wrong.clone());
    scene.fails("app", ErrorKind::Corrupt, "Docker-Content-Digest header").await;
    // Of a GET by digest the digest asked for is what counts.
    scene.server.behave();
    scene.server.on("GET", "/v2/team/app/manifests/sha256").answer(wrong);
    scene.saves("app").await;
}

#[tokio::test]
async fn wrong_manifest_bytes_are_never_kept() {
    let scene = Scene::start().await;
    scene.image("app", &[b"a layer"]);
    scene.server.on("GET", "/v2/team/app/manifests/").answer(Fault::Flip(40));
    scene.fails("app", ErrorKind::Corrupt, "").await;
    assert_eq!(scene.server.count("GET", "/v2/team/app/manifests/"), 3);
    scene.server.behave();
    scene.server.on("GET", "/v2/team/app/manifests/").times(1).answer(Fault::Flip(40));
    scene.saves("app").await;
}

#[tokio::test]
async fn wrong_child_size_is_corrupt() {
    let scene = Scene::start().await;
    let image = scene.image("other", &[b"a layer"]);
    let bytes = raw(&image, Some(media_type::OCI_MANIFEST));
    for (size, kind) in [
        (bytes.len() - 1, ErrorKind::Corrupt),
        (bytes.len() + 1, ErrorKind::Corrupt),
        (1 << 50, ErrorKind::Unsupported),
    ] {
        let child = scene.server.add_manifest("team/app", None, media_type::OCI_MANIFEST, bytes.clone());
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry(child, size, "amd64")],
        });
        put(&scene, "app", media_type::OCI_INDEX, document.to_string());
        scene.fails("app", kind, "bytes").await;
    }
}

#[tokio::test]
async fn index_with_missing_child_is_not_tagged() {
    let mut scene = Scene::start().await;
    let image = scene.image("other", &[b"a layer"]);
    let bytes = raw(&image, Some(media_type::OCI_MANIFEST));
    let child = scene.server.add_manifest("team/app", None, media_type::OCI_MANIFEST, bytes.clone());
    let entries = [entry(Digest::of(b"gone"), 500, "amd64"), entry(child, bytes.len(), "arm64")];
    let document = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    put(&scene, "app", media_type::OCI_INDEX, document.to_string());
    scene.fails("app", ErrorKind::NotFound, "404").await;
    scene.save.transfer.platforms = "arm64".parse().unwrap();
    // Its configuration says amd64, but the index is what is asked.
    scene.saves("app").await;
}

#[tokio::test]
async fn invalid_config_is_an_artifact() {
    let scene = Scene::start().await;
    let config = scene.server.add_blob(media_type::OCI_CONFIG, &b"[1, 2"[..]);
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [],
    });
    put(&scene, "app", media_type::OCI_MANIFEST, document.to_string());
    scene.saves("app").await;
}
