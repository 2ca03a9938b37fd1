//! `saver serve`: the pull half of the OCI distribution specification 1.1, by the headings of the specification.
//!
//! | heading | requirement | test |
//! |---|---|---|
//! | Determining Support (end-1) | `GET /v2/` is 200 | `determining_support` |
//! | Pulling manifests (end-3) | by tag and digest; Content-Type; HEAD; 404 | `pulling_manifests` |
//! | Pulling blobs (end-2) | 200 and the content; HEAD; 404; Docker-Content-Digest | `pulling_blobs` |
//! | Pulling blobs, "Range" | 206, Content-Range, 416 | `pulling_ranges_of_blobs` |
//! | Checking if content exists | HEAD: 200 with Content-Length, or 404 | `head_equals_get_without_body` |
//! | Listing Tags (end-8a, end-8b) | order, n, last, Link, n=0 | `listing_tags` |
//! | Listing Referrers (end-12a, end-12b) | an index, artifactType, no 404 | `listing_referrers` |
//! | Error Codes | format and codes | `errors_have_codes_of_specification` |
//! | Push, Content Management | not supported: 405 | `write_methods_are_rejected` |
//! | RFC 9110 13.1.2, 13.1.5 | If-None-Match, If-Range | `conditional_requests` |

mod abuse;
mod access;
mod clients;
mod namespace;
mod process;
mod replaced;

use super::support::handmade::{Tree, write};
use super::support::serving::{Reply, Serving, ask};
use saver::oci::{Descriptor, Digest, media_type};
use std::fs;

const LAYER: &[u8] = b"0123456789abcdef";

/// A tree with an image for two platforms and a chart, served.
pub(super) struct World {
    pub(super) tree: Tree,
    pub(super) index: Descriptor,
    pub(super) amd64: Descriptor,
    pub(super) layer: Digest,
    pub(super) serving: Serving,
}

impl World {
    pub(super) fn new() -> Self {
        let tree = Tree::new();
        let amd64 = tree.image("team/app", "linux/amd64", &[LAYER, b"amd64"]);
        let arm64 = tree.image("team/app", "linux/arm64", &[LAYER, b"arm64"]);
        let index = tree.index("team/app", &[amd64.clone(), arm64]);
        for tag in ["1.0", "1.1", "latest", "Z", "a_b"] {
            tree.tag("team/app", tag, &index.digest);
        }
        let chart = tree.chart("charts/web", "1.0");
        tree.tag("charts/web", "1.0", &chart.digest);
        let serving = Serving::start(tree.dir());
        Self { tree, index, amd64, layer: Digest::of(LAYER), serving }
    }

    fn manifest(&self, name: &str, reference: impl std::fmt::Display) -> Reply {
        self.serving.get(&format!("/v2/{name}/manifests/{reference}"))
    }

    fn blob(&self, name: &str, digest: &Digest) -> Reply {
        self.serving.get(&format!("/v2/{name}/blobs/{digest}"))
    }

    fn blob_with(&self, headers: &[(&str, &str)]) -> Reply {
        self.serving.get_with(&format!("/v2/team/app/blobs/{}", self.layer), headers)
    }
}

pub(super) fn reported_digest(reply: &Reply) -> Digest {
    reply.header("docker-content-digest").unwrap().parse().unwrap()
}

#[test]
fn determining_support() {
    let world = World::new();
    for path in ["/v2/", "/v2"] {
        let reply = world.serving.get(path);
        assert_eq!((reply.status, &*reply.body), (200, &b"{}"[..]));
        assert_eq!(reply.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[test]
fn pulling_manifests() {
    let world = World::new();
    let by_tag = world.manifest("team/app", "latest");
    assert_eq!((by_tag.status, by_tag.header("content-type")), (200, Some(media_type::OCI_INDEX)));
    assert_eq!(reported_digest(&by_tag), world.index.digest);
    assert_eq!(Digest::of(&by_tag.body), world.index.digest);
    let by_digest = world.manifest("team/app", world.index.digest);
    assert_eq!((by_digest.status, &by_digest.body), (200, &by_tag.body));
    let child = world.manifest("team/app", world.amd64.digest);
    assert_eq!((child.status, child.header("content-type")), (200, Some(media_type::OCI_MANIFEST)));
    assert_eq!(Digest::of(&child.body), world.amd64.digest);
    // In another repository, an unknown tag, an invalid tag, and an unknown repository.
    for (name, reference) in [
        ("charts/web", world.index.digest.to_string()),
        ("team/app", "2.0".into()),
        ("team/app", ".INVALID_MANIFEST_NAME".into()),
        ("no/such", "latest".into()),
    ] {
        assert_eq!(world.manifest(name, &reference).status, 404, "{name} {reference}");
    }
}

#[test]
fn docker_manifest_keeps_its_type() {
    let tree = Tree::new();
    let config = tree.blob("app", media_type::DOCKER_CONFIG, br#"{"os":"linux","architecture":"amd64"}"#);
    let oci_config = tree.blob("app", media_type::OCI_CONFIG, br#"{"os":"linux","architecture":"arm64"}"#);
    for (media_type, document) in [
        (
            media_type::DOCKER_MANIFEST,
            serde_json::json!({"schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST, "config": config, "layers": []}),
        ),
        (
            media_type::DOCKER_LIST,
            serde_json::json!({"schemaVersion": 2, "mediaType": media_type::DOCKER_LIST, "manifests": []}),
        ),
        // Without mediaType, the type is derived from the document.
        (
            media_type::OCI_MANIFEST,
            serde_json::json!({"schemaVersion": 2, "config": oci_config, "layers": []}),
        ),
    ] {
        let manifest = tree.manifest("app", media_type, &document);
        tree.tag("app", "1", &manifest.digest);
        let reply = Serving::start(tree.dir()).get("/v2/app/manifests/1");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(media_type)));
    }
}

#[test]
fn links_decide_what_a_repository_serves() {
    let world = World::new();
    world.tree.allow_damage("links of a manifest and a layer are removed");
    let (index, app) = (world.index.digest, "team/app");
    assert_eq!(world.manifest(app, "latest").status, 200);
    // A manifest needs its revision link, also by tag, and even if it is cached.
    fs::remove_file(world.tree.revision_link(app, &index)).unwrap();
    assert_eq!(world.manifest(app, "latest").status, 404);
    assert_eq!(world.manifest(app, index).status, 404);
    // A blob needs its layer link in that repository.
    assert_eq!(world.blob(app, &world.layer).status, 200);
    assert_eq!(world.blob("charts/web", &world.layer).status, 404);
    fs::remove_file(world.tree.layer_link(app, &world.layer)).unwrap();
    assert_eq!(world.blob(app, &world.layer).status, 404);
    // A manifest is not served as a blob.
    assert_eq!(world.blob(app, &world.amd64.digest).status, 404);
    // A moved tag is served at once.
    world.tree.tag(app, "latest", &world.amd64.digest);
    assert_eq!(reported_digest(&world.manifest(app, "latest")), world.amd64.digest);
    // A damaged link counts as missing.
    write(&world.tree.tag_link(app, "latest"), b"sha256:");
    assert_eq!(world.manifest(app, "latest").status, 404);
}

#[test]
fn corrupt_manifest_is_not_served() {
    let world = World::new();
    let mut bytes = fs::read(world.tree.data(&world.index.digest)).unwrap();
    let last = bytes.len() - 1;
    bytes.insert(last, b' ');
    write(&world.tree.data(&world.index.digest), &bytes);
    let reply = world.manifest("team/app", "latest");
    assert_eq!((reply.status, reply.code().as_str()), (500, "UNKNOWN"));
    assert!(!String::from_utf8_lossy(&reply.body).contains(world.tree.dir().to_str().unwrap()));
}

#[test]
fn pulling_blobs() {
    let world = World::new();
    let reply = world.blob("team/app", &world.layer);
    assert_eq!((reply.status, &*reply.body), (200, LAYER));
    assert_eq!(reported_digest(&reply), world.layer);
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.header("content-length"), Some("16"));
    assert_eq!(reply.header("accept-ranges"), Some("bytes"));
    let absent = world.blob("team/app", &Digest::of(b"absent"));
    assert_eq!((absent.status, absent.code().as_str()), (404, "BLOB_UNKNOWN"));
    // Larger than any buffer.
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let large = world.tree.blob("team/app", "application/octet-stream", &large);
    assert_eq!(Digest::of(&world.blob("team/app", &large.digest).body), large.digest);
    let empty = world.tree.blob("team/app", "application/octet-stream", b"");
    let reply = world.blob("team/app", &empty.digest);
    assert_eq!((reply.status, reply.header("content-length"), reply.body.len()), (200, Some("0"), 0));
}

#[test]
fn pulling_ranges_of_blobs() {
    let world = World::new();
    for (range, expected, content_range) in [
        ("bytes=0-0", &LAYER[..1], "bytes 0-0/16"),
        ("bytes=4-7", &LAYER[4..8], "bytes 4-7/16"),
        ("bytes=10-", &LAYER[10..], "bytes 10-15/16"),
        ("bytes=-3", &LAYER[13..], "bytes 13-15/16"),
        ("bytes=-99", LAYER, "bytes 0-15/16"),
        ("bytes=15-99", &LAYER[15..], "bytes 15-15/16"),
    ] {
        let reply = world.blob_with(&[("Range", range)]);
        assert_eq!((reply.status, &*reply.body), (206, expected), "{range}");
        assert_eq!(reply.header("content-range"), Some(content_range), "{range}");
        assert_eq!(reply.header("content-length"), Some(expected.len().to_string().as_str()), "{range}");
        assert_eq!(reported_digest(&reply), world.layer);
    }
    for range in ["bytes=16-", "bytes=99-100", "bytes=-0"] {
        let reply = world.blob_with(&[("Range", range)]);
        assert_eq!((reply.status, reply.header("content-range")), (416, Some("bytes */16")), "{range}");
    }
    for range in ["bytes=0-1,4-5", "bytes=5-1", "lines=1-2", "nonsense"] {
        let reply = world.blob_with(&[("Range", range)]);
        assert_eq!((reply.status, &*reply.body), (200, LAYER), "{range}");
    }
}

#[test]
fn conditional_requests() {
    let world = World::new();
    let etag = format!("\"{}\"", world.layer);
    assert_eq!(world.blob_with(&[]).header("etag"), Some(etag.as_str()));
    for (known, status) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"x\", {etag}"), 304),
        (world.layer.to_string(), 304),
        ("*".into(), 304),
        (format!("\"{}\"", Digest::of(b"x")), 200),
    ] {
        let reply = world.blob_with(&[("If-None-Match", &known)]);
        assert_eq!((reply.status, reply.body.is_empty()), (status, status == 304), "{known}");
        assert_eq!(reply.header("etag"), Some(etag.as_str()));
    }
    let path = "/v2/team/app/manifests/latest";
    let known = world.serving.get(path).header("etag").unwrap().to_owned();
    let reply = world.serving.get_with(path, &[("If-None-Match", &known)]);
    assert_eq!((reply.status, reported_digest(&reply)), (304, world.index.digest));
    // If-Range: the range is sent only if the client has this content.
    for (validator, status) in
        [(etag.as_str(), 206), ("\"other\"", 200), ("Sat, 01 Jan 2000 00:00:00 GMT", 200)]
    {
        let reply = world.blob_with(&[("Range", "bytes=0-3"), ("If-Range", validator)]);
        assert_eq!(reply.status, status, "{validator}");
    }
}

#[test]
fn head_equals_get_without_body() {
    let world = World::new();
    for path in [
        "/v2/".to_owned(),
        "/v2/_catalog".into(),
        "/v2/_catalog?n=1".into(),
        "/v2/team/app/tags/list".into(),
        "/v2/team/app/manifests/latest".into(),
        format!("/v2/team/app/manifests/{}", world.amd64.digest),
        format!("/v2/team/app/blobs/{}", world.layer),
        format!("/v2/team/app/referrers/{}", world.index.digest),
        "/v2/team/app/manifests/none".into(),
        format!("/v2/team/app/blobs/{}", Digest::of(b"none")),
        "/v2/BAD/manifests/x".into(),
        "/nothing".into(),
    ] {
        let (get, head) = (world.serving.get(&path), world.serving.head(&path));
        let headers = |reply: &Reply| {
            let kept = reply.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
            kept.cloned().collect::<Vec<_>>()
        };
        assert_eq!((head.status, headers(&head)), (get.status, headers(&get)), "{path}");
        assert!(head.body.is_empty(), "{path}");
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{path}");
    }
    // Range applies to GET only (RFC 9110, 14.2).
    let path = format!("/v2/team/app/blobs/{}", world.layer);
    let head = ask(&world.serving.address.to_string(), "HEAD", &path, &[("Range", "bytes=0-1")]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("16")));
}

#[test]
fn listing_tags() {
    let world = World::new();
    let list = |query: &str| world.serving.get(&format!("/v2/team/app/tags/list{query}"));
    let all = list("");
    assert_eq!(
        all.json(),
        serde_json::json!({"name": "team/app", "tags": ["1.0", "1.1", "Z", "a_b", "latest"]})
    );
    assert_eq!(all.header("link"), None);
    let none = list("?n=0");
    assert_eq!((none.json()["tags"].as_array().unwrap().len(), none.header("link")), (0, None));
    // Following the links lists every tag once.
    let (mut path, mut tags) = (Some("/v2/team/app/tags/list?n=2".to_owned()), Vec::new());
    while let Some(next) = path {
        let page = world.serving.get(&next);
        let names = page.json()["tags"].as_array().unwrap().clone();
        assert!(names.len() <= 2);
        tags.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
        path = page.header("link").map(|link| {
            let (target, relation) = link.split_once(">; ").unwrap();
            assert_eq!(relation, "rel=\"next\"");
            target.trim_start_matches('<').to_owned()
        });
    }
    assert_eq!(tags, ["1.0", "1.1", "Z", "a_b", "latest"]);
    assert_eq!(list("?last=a_b").json()["tags"], serde_json::json!(["latest"]));
    assert_eq!(list("?n=x").status, 400);
    let unknown = world.serving.get("/v2/no/such/tags/list");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "NAME_UNKNOWN"));
}

#[test]
fn listing_repositories() {
    let world = World::new();
    let all = world.serving.get("/v2/_catalog");
    assert_eq!(all.json(), serde_json::json!({"repositories": ["charts/web", "team/app"]}));
    let first = world.serving.get("/v2/_catalog?n=1");
    assert_eq!(first.json(), serde_json::json!({"repositories": ["charts/web"]}));
    assert_eq!(first.header("link"), Some("</v2/_catalog?last=charts%2Fweb&n=1>; rel=\"next\""));
    // A tree without repositories.
    let empty = Tree::new();
    assert_eq!(
        Serving::start(empty.dir()).get("/v2/_catalog").json(),
        serde_json::json!({"repositories": []})
    );
}

#[test]
fn listing_referrers() {
    let world = World::new();
    let subject = &world.index;
    let sbom = world.tree.artifact("team/app", "application/spdx+json", subject);
    let signature = world.tree.artifact("team/app", "application/vnd.sig", subject);
    world.tree.artifact("team/app", "application/vnd.sig", &world.amd64);
    world.tree.artifact("charts/web", "application/vnd.sig", subject);
    let list = |query: &str| world.serving.get(&format!("/v2/team/app/referrers/{}{query}", subject.digest));
    let digests = |reply: &Reply| {
        let manifests = reply.json()["manifests"].as_array().unwrap().clone();
        let mut found: Vec<Digest> =
            manifests.iter().map(|found| found["digest"].as_str().unwrap().parse().unwrap()).collect();
        found.sort();
        found
    };
    let mut both = [sbom.digest, signature.digest];
    both.sort();
    let all = list("");
    assert_eq!((all.status, all.header("content-type")), (200, Some(media_type::OCI_INDEX)));
    assert_eq!((digests(&all), all.header("oci-filters-applied")), (both.to_vec(), None));
    let filtered = list("?artifactType=application%2Fspdx%2Bjson");
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    let found = &filtered.json()["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["digest"], sbom.digest.to_string());
    assert_eq!(found[0]["size"], sbom.size);
    assert_eq!(found[0]["mediaType"], media_type::OCI_MANIFEST);
    assert_eq!(found[0]["artifactType"], "application/spdx+json");
    assert_eq!(found[0]["annotations"]["kind"], "application/spdx+json");
    // Without referrers: an empty index, and not 404.
    for path in [
        format!("/v2/team/app/referrers/{}", Digest::of(b"none")),
        format!("/v2/no/such/referrers/{}", subject.digest),
    ] {
        let reply = world.serving.get(&path);
        assert_eq!((reply.status, &reply.json()["manifests"]), (200, &serde_json::json!([])), "{path}");
    }
    assert_eq!(world.serving.get("/v2/team/app/referrers/sha256:x").status, 400);
}

#[test]
fn errors_have_codes_of_specification() {
    let world = World::new();
    let absent = Digest::of(b"absent");
    for (path, status, code) in [
        (format!("/v2/team/app/blobs/{absent}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/no/such/blobs/{absent}"), 404, "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/none".into(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/team/app/manifests/{absent}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/no/such/manifests/none".into(), 404, "NAME_UNKNOWN"),
        ("/v2/no/such/tags/list".into(), 404, "NAME_UNKNOWN"),
        ("/v2/Upper/tags/list".into(), 400, "NAME_INVALID"),
        ("/v2/team/app/blobs/sha256:00".into(), 400, "DIGEST_INVALID"),
        (format!("/v2/team/app/blobs/md5:{}", absent.hex()), 400, "DIGEST_INVALID"),
        ("/v2/team/app/manifests/sha256:zz".into(), 400, "DIGEST_INVALID"),
        ("/v2/_catalog?n=many".into(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/team/app".into(), 404, "UNSUPPORTED"),
    ] {
        let reply = world.serving.get(&path);
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{path}");
        assert!(reply.json()["errors"][0]["message"].is_string(), "{path}");
    }
}

#[test]
fn write_methods_are_rejected() {
    let world = World::new();
    let blob = format!("/v2/team/app/blobs/{}", world.layer);
    for (method, path) in [
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("PATCH", "/v2/team/app/blobs/uploads/1"),
        ("PUT", "/v2/team/app/blobs/uploads/1"),
        ("PUT", "/v2/team/app/manifests/new"),
        ("DELETE", "/v2/team/app/manifests/latest"),
        ("DELETE", blob.as_str()),
        ("OPTIONS", "/v2/"),
    ] {
        let reply = ask(&world.serving.address.to_string(), method, path, &[("Content-Length", "0")]);
        assert_eq!((reply.status, reply.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(world.blob("team/app", &world.layer).status, 200);
}
