//! Real clients pull, and responses equal those of docker-registry over the same tree.

use super::super::support::peers::containerd::Containerd;
use super::super::support::peers::registry::Registry;
use super::super::support::peers::tls::Tls;
use super::super::support::peers::{run, samples, succeed};
use super::super::support::serving::{Serving, ask};
use crate::support::scratch::Scratch;
use saver::oci::Digest;
use saver::serve::http::{ServeOptions, TlsIdentity};
use saver::store::Store;

fn tag(name: &str, tag: &str) -> Digest {
    let store = Store::open_read_only(&samples()).unwrap();
    store.read_tag(&name.parse().unwrap(), &tag.parse().unwrap()).unwrap().unwrap()
}

#[test]
fn skopeo_copies_every_sample() {
    let serving = Serving::start(&samples());
    let store = Store::open_read_only(&samples()).unwrap();
    let dir = Scratch::new();
    for repository in store.repositories().unwrap() {
        if repository.as_str() == "demo/nested" {
            // skopeo does not support nested indexes.
            continue;
        }
        for tag in store.tags(&repository).unwrap() {
            let from = format!("docker://{}/{repository}:{tag}", serving.address);
            let to = format!("dir:{}", dir.path().join("copy").display());
            succeed("skopeo", ["copy", "-q", "--all", "--src-tls-verify=false", &from, &to]);
            let manifest = std::fs::read(dir.path().join("copy/manifest.json")).unwrap();
            assert_eq!(Some(Digest::of(&manifest)), store.read_tag(&repository, &tag).unwrap(), "{from}");
            std::fs::remove_dir_all(dir.path().join("copy")).unwrap();
        }
    }
}

#[test]
fn skopeo_lists_tags() {
    let serving = Serving::start(&samples());
    let repository = format!("docker://{}/library/hello", serving.address);
    let listed = succeed("skopeo", ["list-tags", "--tls-verify=false", &repository]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!(["1.0", "latest"]));
}

#[test]
fn containerd_pulls() {
    let serving = Serving::start(&samples());
    let containerd = Containerd::start();
    for (name, version) in [("demo/app", "1.0"), ("demo/nested", "1.0"), ("demo/tool", "2.1")] {
        let reference = format!("{}/{name}:{version}", serving.address);
        assert_eq!(containerd.pull(&reference, "linux/amd64"), tag(name, version).to_string(), "{name}");
    }
}

#[test]
fn podman_and_buildah_pull() {
    let serving = Serving::start(&samples());
    let state = Scratch::new();
    let at = |name: &str| state.path().join(name).to_str().unwrap().to_owned();
    let storage =
        ["--root", &at("root"), "--runroot", &at("run"), "--storage-driver", "vfs"].map(String::from);
    for (program, name) in [("podman", "library/hello:1.0"), ("buildah", "demo/tool:2.1")] {
        let reference = format!("{}/{name}", serving.address);
        let pull = ["pull", "-q", "--tls-verify=false", &reference].map(String::from);
        let id = succeed(program, storage.iter().chain(&pull));
        assert!(id.trim().len() >= 64, "{program}: {id}");
    }
}

#[test]
fn clients_pull_over_tls() {
    let dir = Scratch::new();
    let tls = Tls::make(dir.path());
    let options = ServeOptions::new(Some(TlsIdentity::from_files(&tls.certificate, &tls.key).unwrap()));
    let serving = Serving::with(&samples(), options);
    let url = format!("https://{}/v2/", serving.address);
    let ca = tls.ca.to_str().unwrap();
    assert_eq!(succeed("curl", ["-q", "-sS", "--cacert", ca, &url]), "{}");
    assert!(!run("curl", ["-q", "-sS", &url]).status.success());
    // skopeo reads ca.crt in the directory.
    let certificates = format!("--cert-dir={}", dir.path().join("trusted").display());
    std::fs::create_dir(dir.path().join("trusted")).unwrap();
    std::fs::copy(&tls.ca, dir.path().join("trusted/ca.crt")).unwrap();
    let reference = format!("docker://{}/library/hello:1.0", serving.address);
    let raw = succeed("skopeo", ["inspect", "--raw", &certificates, &reference]);
    assert_eq!(Digest::of(raw.as_bytes()), tag("library/hello", "1.0"));
}

/// A body without the trailing newline and the tag order of registry 2.8.
fn comparable(body: &[u8]) -> Vec<u8> {
    let body = body.trim_ascii_end();
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(mut document) if document["tags"].is_array() => {
            let tags = document["tags"].as_array_mut().unwrap();
            tags.sort_by_key(ToString::to_string);
            document.to_string().into_bytes()
        }
        _ => body.to_vec(),
    }
}

/// Intended differences:
///
/// - Without a matching Accept, 2.8 returns 404 for an OCI manifest and converts a schema 2 manifest to schema 1. saver serves
///   manifests as they are, because the specification has no conversion.
/// - An invalid repository name is 404 with plain text in 2.8, and 400 `NAME_INVALID` in saver, as in the specification. The same
///   holds for invalid digests. An invalid tag is 404 in both.
/// - For an unknown repository the code is always `NAME_UNKNOWN` in saver; 2.8 sometimes reports the manifest or blob instead.
/// - HEAD is supported for lists, where 2.8 returns 405. Range on HEAD is ignored (RFC 9110, 14.2), where 2.8 returns 206.
/// - Tags are sorted, as in the specification; 2.8 lists them in directory order.
/// - 2.8 has neither tag pagination nor referrers, and rejects pushes to a read-only registry in several ways.
/// - The content type of JSON is `application/json`, which has no charset parameter (RFC 8259); 2.8 adds one, and a newline.
#[test]
fn responses_equal_docker_registry() {
    let (theirs, ours) = (Registry::serve(&samples()), Serving::start(&samples()));
    let ours = ours.address.to_string();
    let hello = tag("library/hello", "1.0");
    let chart = tag("helm-charts/mysql", "8.8.19");
    let store = Store::open_read_only(&samples()).unwrap();
    let raw = store.read_content(&chart, 1 << 20).unwrap().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    let layer = document["layers"][0]["digest"].as_str().unwrap();
    let absent = Digest::of(b"absent");
    let paths = [
        "/v2/".to_owned(),
        "/v2/_catalog".into(),
        "/v2/_catalog?n=3".into(),
        "/v2/_catalog?n=3&last=demo/tool".into(),
        "/v2/library/hello/tags/list".into(),
        "/v2/no/such/tags/list".into(),
        "/v2/library/hello/manifests/1.0".into(),
        "/v2/library/hello/manifests/none".into(),
        format!("/v2/library/hello/manifests/{hello}"),
        format!("/v2/library/hello/manifests/{chart}"),
        format!("/v2/library/hello/manifests/{absent}"),
        "/v2/helm-charts/mysql/manifests/8.8.19".into(),
        "/v2/demo/nested/manifests/1.0".into(),
        "/v2/demo/bare/manifests/1.0".into(),
        format!("/v2/helm-charts/mysql/blobs/{layer}"),
        format!("/v2/library/hello/blobs/{layer}"),
        format!("/v2/library/hello/blobs/{hello}"),
        format!("/v2/library/hello/blobs/{absent}"),
    ];
    let etag = format!("\"{layer}\"");
    let extras: [&[(&str, &str)]; 5] = [
        &[],
        &[("Range", "bytes=2-9")],
        &[("Range", "bytes=-4")],
        &[("Range", "bytes=99999999-")],
        &[("If-None-Match", &etag)],
    ];
    let accept = ("Accept", saver::oci::media_type::ACCEPT);
    for path in &paths {
        for extra in extras.iter().take(if path.ends_with(layer) { extras.len() } else { 1 }) {
            for method in ["GET", "HEAD"] {
                let is_list = path.ends_with("/list") || path.contains("_catalog");
                let has_range = extra.iter().any(|(name, _)| *name == "Range");
                if method == "HEAD" && (is_list || has_range) {
                    continue;
                }
                let headers: Vec<_> = extra.iter().copied().chain([accept]).collect();
                let expected = ask(&theirs.address, method, path, &headers);
                let got = ask(&ours, method, path, &headers);
                let what = format!("{method} {path} {extra:?}");
                assert_eq!(got.status, expected.status, "{what}");
                for name in
                    ["docker-content-digest", "etag", "content-range", "docker-distribution-api-version"]
                {
                    // In 2.8, a 304 has no digest, and a 416 has one although the body is not the blob.
                    let both_tell = expected.header(name).is_some() && expected.status < 400;
                    if both_tell || expected.status < 300 {
                        assert_eq!(got.header(name), expected.header(name), "{what} {name}");
                    }
                }
                let type_of = |value: Option<&str>| value.map(saver::oci::media_type::essence);
                if matches!(expected.status, 200 | 206) {
                    let (got, expected) = (got.header("content-type"), expected.header("content-type"));
                    assert_eq!(type_of(got), type_of(expected), "{what}");
                }
                if matches!(got.status, 404) && method == "GET" {
                    assert_eq!(got.code(), expected.code(), "{what}");
                } else if got.status != 416 {
                    assert_eq!(comparable(&got.body), comparable(&expected.body), "{what}");
                }
            }
        }
    }
}
