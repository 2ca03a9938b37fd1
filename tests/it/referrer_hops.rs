//! Signatures, attestations and SBOMs over every hop: save, serve, push, copy, export and import.

use crate::support::fault::{Fault, FaultServer};
use crate::support::peers::registry::{Registry, RegistryOptions};
use crate::support::peers::{run as run_peer, succeed};
use crate::support::program::{Home, run};
use crate::support::serving::Serving;
use saver::oci::referrer::{ReferrerTag, ReferrerTagKind};
use saver::oci::{Digest, Repository, Tag, media_type};
use saver::store::Store;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A registry with one signed image, saved into a tree.
struct Hops {
    server: FaultServer,
    home: Home,
    image: Digest,
    sbom: Digest,
    nested: Digest,
    signature: Digest,
}

impl Hops {
    async fn start() -> Self {
        let server = FaultServer::start().await;
        server.serve_referrers();
        let image = server.add_image("team/app", "v1", &[b"layer"]).manifest;
        let sbom = server.add_referrer("team/app", &image, SBOM, "SBOM");
        let nested = server.add_referrer("team/app", &sbom, SIGNATURE, "signature of the SBOM");
        let kind = ReferrerTagKind::Signature;
        let signature = server.add_tagged_referrer("team/app", &image, kind, "signature");
        Self { server, home: Home::new(), image, sbom, nested, signature }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    /// Runs saver, with a report.
    async fn saver(&self, arguments: &[&str], code: i32) -> Value {
        let report = self.path("report.json");
        let mut command = self.home.saver(arguments.iter().copied());
        command.env("SAVER_REFERRERS", "all");
        command.args(["--progress", "none", "--report"]).arg(&report);
        tokio::task::spawn_blocking(move || run(&mut command).expect(code)).await.unwrap();
        serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap()
    }

    /// Saves the image from `host` into the directory `name`.
    async fn save(&self, host: &str, name: &str) -> Value {
        let (dir, image) = (self.path(name), format!("{host}/team/app:v1"));
        self.saver(&["save", "--arch", "amd64", "--dir", dir.to_str().unwrap(), &image], 0).await
    }

    /// Asserts that the tree `name` has the image with all of its referrers.
    fn assert_signed(&self, name: &str, repository: &str) {
        let store = Store::open_read_only(&self.path(name)).unwrap();
        let repository: Repository = repository.parse().unwrap();
        let listed = |subject: &Digest| -> Vec<Digest> {
            let listed = store.listed_referrers(&repository, subject).unwrap();
            listed.into_iter().map(|entry| entry.digest).collect()
        };
        assert_eq!(listed(&self.image), [self.sbom], "{name}");
        assert_eq!(listed(&self.sbom), [self.nested], "{name}");
        let tag = ReferrerTag { subject: self.image, kind: ReferrerTagKind::Signature }.tag();
        assert_eq!(store.read_tag(&repository, &tag).unwrap(), Some(self.signature), "{name}");
        assert_eq!(store.read_tag(&repository, &"v1".parse().unwrap()).unwrap(), Some(self.image), "{name}");
    }

    fn dir(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

fn writable(root: &Path) -> Registry {
    std::fs::create_dir_all(root).unwrap();
    Registry::start(root, &RegistryOptions { writable: true, ..RegistryOptions::default() })
}

fn statuses(report: &Value) -> Vec<&str> {
    report["images"].as_array().unwrap().iter().map(|row| row["status"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_image_passes_registries_with_and_without_the_api() {
    let hops = Hops::start().await;
    let report = hops.save(hops.server.registry().as_str(), "first").await;
    let referrers = report["images"][0]["referrers"].as_array().unwrap();
    assert_eq!(referrers.len(), 3, "{referrers:#?}");
    hops.assert_signed("first", "team/app");
    // saver serve has the referrers API.
    let serving = Serving::start(&hops.path("first"));
    hops.save(&serving.address.to_string(), "second").await;
    hops.assert_signed("second", "team/app");
    // registry:2 has none: the index of the fallback tag is merged and pushed.
    let registry = writable(&hops.path("third"));
    let pushed = hops.saver(&["push", "--dir", &hops.dir("second"), &registry.address], 0).await;
    assert_eq!(statuses(&pushed), ["pushed"]);
    hops.assert_signed("third", "team/app");
    let again = hops.saver(&["push", "--dir", &hops.dir("second"), &registry.address], 0).await;
    assert_eq!(statuses(&again), ["unchanged"]);
    hops.save(&registry.address, "fourth").await;
    hops.assert_signed("fourth", "team/app");
    let (from, to) =
        (format!("{}/team/app:v1", registry.address), format!("{}/other/app:v1", registry.address));
    assert_eq!(statuses(&hops.saver(&["copy", &from, &to], 0).await), ["copied"]);
    hops.assert_signed("third", "other/app");
    assert_eq!(statuses(&hops.saver(&["copy", &from, &to], 0).await), ["unchanged"]);
    // What a hop without referrers leaves out.
    let none = writable(&hops.path("none"));
    hops.saver(&["push", "--dir", &hops.dir("second"), "--referrers", "none", &none.address], 0).await;
    let store = Store::open_read_only(&hops.path("none")).unwrap();
    assert_eq!(store.tags(&"team/app".parse().unwrap()).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_image_passes_archives_and_layouts() {
    let hops = Hops::start().await;
    hops.save(hops.server.registry().as_str(), "first").await;
    for (format, output) in [("oci-archive", "app.tar"), ("oci-layout", "layout")] {
        let (dir, output, into) = (hops.dir("first"), hops.dir(output), format!("from-{format}"));
        let export = ["export", "--dir", &dir, "--format", format, "-o", &output, "team/app:v1"];
        let report = hops.saver(&export, 0).await;
        assert_eq!(report["images"][0]["referrers"].as_array().unwrap().len(), 3, "{report:#}");
        let target = hops.dir(&into);
        let imported = hops.saver(&["import", "--dir", &target, "--as", "r.io/team/app", &output], 0).await;
        assert_eq!(statuses(&imported), ["imported"], "{format}");
        hops.assert_signed(&into, "team/app");
        let again = hops.saver(&["import", "--dir", &target, "--as", "r.io/team/app", &output], 0).await;
        assert_eq!(statuses(&again), ["unchanged"], "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_shows_referrers_below_their_image() {
    let hops = Hops::start().await;
    hops.save(hops.server.registry().as_str(), "tree").await;
    let list = |more: &[&str]| {
        let mut command = hops.home.saver(["ls", "--dir", &hops.dir("tree")]);
        run(command.args(more)).expect(0).stdout
    };
    let plain = list(&[]);
    assert!(plain.contains("v1") && !plain.contains("sha256-"), "{plain}");
    assert!(!plain.contains(SBOM), "{plain}");
    let shown = list(&["--referrers"]);
    assert!(shown.contains(&format!("└ {SBOM}")) && shown.contains(&format!("  └ {SIGNATURE}")), "{shown}");
    let json: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let tags = json["repositories"][0]["tags"].as_array().unwrap();
    assert_eq!(tags.len(), 1, "{json:#}");
    let referrers = tags[0]["referrers"].as_array().unwrap();
    assert_eq!(referrers.len(), 2, "{json:#}");
    let nested = referrers.iter().find_map(|one| one["referrers"].get(0)).unwrap();
    assert_eq!(nested["digest"], hops.nested.to_string());
    // Damage of a referrer is damage of its image.
    let blob = Digest::of(b"SBOM").hex();
    let data = format!("tree/docker/registry/v2/blobs/sha256/{}/{blob}/data", &blob[..2]);
    let content = std::fs::read(hops.path(&data)).unwrap();
    std::fs::remove_file(hops.path(&data)).unwrap();
    let damaged = run(&mut hops.home.saver(["ls", "--dir", &hops.dir("tree")])).expect(1).stdout;
    assert!(damaged.contains("DAMAGED") && damaged.contains("referrer"), "{damaged}");
    let verified = run(&mut hops.home.saver(["verify", "--dir", &hops.dir("tree")])).expect(1);
    assert!(verified.stdout.contains("team/app:v1"), "{}", verified.stdout);
    std::fs::write(hops.path(&data), content).unwrap();
}

/// The requests that changed the fallback index.
fn fallback_puts(target: &FaultServer, subject: &Digest) -> usize {
    let path = format!("/v2/team/app/manifests/{}", Tag::referrers(subject));
    target.seen().iter().filter(|seen| seen.method == "PUT" && seen.path == path).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn fallback_index_is_pushed_only_where_it_is_needed() {
    let hops = Hops::start().await;
    hops.save(hops.server.registry().as_str(), "tree").await;
    let push = |target: &FaultServer| {
        let (dir, host) = (hops.dir("tree"), target.registry().to_string());
        let hops = &hops;
        async move { hops.saver(&["push", "--dir", &dir, &host], 0).await }
    };
    // The registry lists what it is sent.
    let target = FaultServer::start().await;
    target.on("PUT", "/manifests/").answer(Fault::header("OCI-Subject", &hops.image.to_string()));
    push(&target).await;
    assert_eq!(fallback_puts(&target, &hops.image), 0);
    // It does not, and another client has listed something already; the first upload conflicts.
    let target = FaultServer::start().await;
    target.add_image("team/app", "other", &[b"other"]);
    let foreign = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
        { "mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(b"foreign"), "size": 7 },
    ]});
    let tag = Tag::referrers(&hops.image);
    target.add_manifest("team/app", Some(tag.as_str()), media_type::OCI_INDEX, foreign.to_string());
    // The first such request is that for cosign's tag, which has a suffix.
    target.on("PUT", &format!("/manifests/{tag}")).skip(1).times(1).answer(Fault::status(412));
    push(&target).await;
    assert_eq!(fallback_puts(&target, &hops.image), 2);
    let (_, index) = target.manifest("team/app", tag.as_str()).unwrap();
    let index = String::from_utf8(index.to_vec()).unwrap();
    for digest in [hops.sbom, Digest::of(b"foreign")] {
        assert!(index.contains(&digest.to_string()), "{index}");
    }
}

/// A signature made by openssl, as cosign would make it, verifies after it was saved.
#[tokio::test(flavor = "multi_thread")]
async fn saved_signature_verifies_as_served_by_a_registry() {
    let hops = Hops::start().await;
    let (key, public) = (hops.dir("key.pem"), hops.dir("public.pem"));
    succeed("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
    succeed("openssl", ["ec", "-in", &key, "-pubout", "-out", &public]);
    let image = hops.server.add_image("team/signed", "v1", &[b"signed"]).manifest;
    let payload = json!({ "critical": {
        "identity": { "docker-reference": "example.com/team/signed" },
        "image": { "docker-manifest-digest": image },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string();
    hops.home.write("payload.json", &payload);
    succeed(
        "openssl",
        ["dgst", "-sha256", "-sign", &key, "-out", &hops.dir("signature"), &hops.dir("payload.json")],
    );
    let signature = succeed("openssl", ["base64", "-A", "-in", &hops.dir("signature")]);
    let layer = hops.server.add_blob("application/vnd.dev.cosign.simplesigning.v1+json", payload.clone());
    let mut layer = json!(layer);
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature.trim() });
    let config = json!({ "architecture": "", "os": "", "rootfs": { "type": "layers", "diff_ids": [Digest::of(payload.as_bytes())] } });
    let config = hops.server.add_blob(media_type::OCI_CONFIG, config.to_string());
    let tag = ReferrerTag { subject: image, kind: ReferrerTagKind::Signature }.tag();
    let document = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer] });
    hops.server.add_manifest(
        "team/signed",
        Some(tag.as_str()),
        media_type::OCI_MANIFEST,
        document.to_string(),
    );
    let name = format!("{}/team/signed:v1", hops.server.registry());
    let tree = hops.dir("tree");
    hops.saver(&["save", "--arch", "amd64", "--dir", &tree, &name], 0).await;
    // What a registry serves from the tree is what was signed. (Debian builds skopeo and podman without sigstore.)
    let registry = Registry::serve(&hops.path("tree"));
    let served = |path: &str, to: &str| {
        let url = format!("http://{}/v2/team/signed/{path}", registry.address);
        let accept = format!("Accept: {}", media_type::OCI_MANIFEST);
        succeed("curl", ["-sSf", "-H", &accept, "-o", &hops.dir(to), &url]);
        std::fs::read(hops.path(to)).unwrap()
    };
    let manifest: Value =
        serde_json::from_slice(&served(&format!("manifests/{tag}"), "manifest.json")).unwrap();
    let layer = &manifest["layers"][0];
    let payload = served(&format!("blobs/{}", layer["digest"].as_str().unwrap()), "served-payload");
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["critical"]["image"]["docker-manifest-digest"], image.to_string());
    let encoded = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap();
    hops.home.write("encoded", encoded);
    succeed(
        "openssl",
        ["base64", "-d", "-A", "-in", &hops.dir("encoded"), "-out", &hops.dir("served-signature")],
    );
    let (signature, signed) = (hops.dir("served-signature"), hops.dir("served-payload"));
    let verify = |key: &str| {
        run_peer("openssl", ["dgst", "-sha256", "-verify", key, "-signature", &signature, &signed])
    };
    assert!(verify(&public).status.success(), "the signature does not verify");
    let (other, wrong) = (hops.dir("other.pem"), hops.dir("wrong.pem"));
    succeed("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &other]);
    succeed("openssl", ["ec", "-in", &other, "-pubout", "-out", &wrong]);
    assert!(!verify(&wrong).status.success(), "a signature of another key was accepted");
}
