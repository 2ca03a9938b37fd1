//! Signature policies: which images `save` and `copy` accept. Signatures are made by openssl.

mod peers;
mod tree;

use crate::support::fault::{Fault, FaultServer};
use crate::support::peers::succeed;
use crate::support::program::{Home, Ran, run};
use crate::support::signing::{
    BUNDLE, Key, KeyKind, attach_bundle, attach_simple, message_bundle, payload, simple_signature,
    statement_bundle,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use saver::oci::referrer::{ReferrerTag, ReferrerTagKind};
use saver::oci::{Digest, media_type};
use saver::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// A registry with images, each in a repository of its own, and the policy for them.
struct Signed {
    server: FaultServer,
    home: Home,
    scopes: BTreeMap<String, Value>,
    arch: &'static str,
}

impl Signed {
    async fn start() -> Self {
        let server = FaultServer::start().await;
        server.serve_referrers();
        Self { server, home: Home::new(), scopes: BTreeMap::new(), arch: "amd64" }
    }

    /// The name of an image without its tag.
    fn name(&self, case: &str) -> String {
        format!("{}/team/{case}", self.server.registry())
    }

    /// Adds the image `team/CASE:v1` with its requirements.
    fn image(&mut self, case: &str, requirements: Value) -> Digest {
        self.scopes.insert(self.name(case), requirements);
        self.server.add_image(&format!("team/{case}"), "v1", &[case.as_bytes()]).manifest
    }

    /// Adds an image with cosign's signatures, each of a payload with a key.
    fn simple(&mut self, case: &str, requirements: Value, signatures: &[(&Key, &str)]) {
        let digest = self.image(case, requirements);
        self.sign(case, &digest, signatures);
    }

    /// Signs `team/CASE` by these keys, as the image `reference`.
    fn sign(&self, case: &str, digest: &Digest, signatures: &[(&Key, &str)]) {
        let signature =
            |(key, reference): &(&Key, &str)| simple_signature(&self.home, key, &payload(reference, digest));
        let signatures: Vec<_> = signatures.iter().map(signature).collect();
        attach_simple(&self.server, &format!("team/{case}"), digest, &signatures);
    }

    fn policy(&self) -> String {
        let policy = json!({ "default": [{ "type": "reject" }], "transports": { "docker": self.scopes } });
        self.home.write("policy.json", &policy.to_string()).to_str().unwrap().to_owned()
    }

    /// Saves all images by the policy; the report's row of each.
    async fn save(&self, more: &[&str], code: i32) -> BTreeMap<String, Value> {
        let cases: Vec<&String> = self.scopes.keys().collect();
        let images: Vec<String> = cases.iter().map(|name| format!("{name}:v1")).collect();
        let policy = self.policy();
        let report = self.home.path("report.json");
        let mut command = self.home.saving(&self.home.path("tree"), self.arch, &images);
        command.args(["--policy", &policy, "--report"]).arg(&report).args(more);
        tokio::task::spawn_blocking(move || run(&mut command).expect(code)).await.unwrap();
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let rows = report["images"].as_array().unwrap().iter();
        rows.map(|row| {
            let name = row["reference"].as_str().unwrap();
            (name.rsplit('/').next().unwrap().trim_end_matches(":v1").to_owned(), row.clone())
        })
        .collect()
    }

    /// Runs `verify` by the policy over a directory, without any registry; its report.
    fn verify(&self, dir: &str, more: &[&str], code: i32) -> Value {
        let dir = self.home.path(dir);
        let mut command = self.home.saver(["verify", "--json", "--policy", &self.policy(), "--dir"]);
        let ran = run(command.arg(&dir).args(more)).expect(code);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Whether the tree has the tag of an image.
    fn has(&self, case: &str) -> bool {
        let store = Store::open_read_only(&self.home.path("tree")).unwrap();
        let repository = format!("team/{case}").parse().unwrap();
        store.read_tag(&repository, &"v1".parse().unwrap()).unwrap().is_some()
    }

    /// Asserts that the images whose reasons are given are untrusted and have no tag, and the others are saved.
    fn assert_untrusted(&self, rows: &BTreeMap<String, Value>, untrusted: &[(&str, &str)]) {
        for (case, row) in rows {
            let reason = untrusted.iter().find(|(name, _)| name == case).map(|(_, reason)| *reason);
            assert_eq!(self.has(case), reason.is_none(), "{case}: {row:#}");
            if let Some(reason) = reason {
                assert_eq!(row["error"]["kind"], "untrusted", "{case}: {row:#}");
                let message = row["error"]["message"].as_str().unwrap();
                assert!(message.contains(reason), "{case}: {message}");
            }
        }
        for (case, _) in untrusted {
            assert!(rows.contains_key(*case), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_images_with_an_accepted_signature_are_saved() {
    let mut signed = Signed::start().await;
    let keys: Vec<Key> = [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa]
        .into_iter()
        .enumerate()
        .map(|(number, kind)| Key::new(&signed.home, &format!("key{number}"), kind))
        .collect();
    let [p256, p384, ed25519, rsa] = keys.as_slice() else { panic!() };
    let none = || json!({});
    for (case, key) in [("p256", p256), ("p384", p384), ("ed25519", ed25519), ("rsa", rsa)] {
        let name = format!("{}:v1", signed.name(case));
        signed.simple(case, json!([key.requirement(none())]), &[(key, &name)]);
    }
    // The sources of keys.
    let data = |key: &Key| STANDARD.encode(std::fs::read(&key.public).unwrap());
    for (case, field, value) in [
        ("paths", "keyPaths", json!([rsa.public, p256.public])),
        ("data", "keyData", json!(data(p256))),
        ("datas", "keyDatas", json!([data(rsa), data(p256)])),
    ] {
        let name = format!("{}:v1", signed.name(case));
        signed.simple(case, json!([{ "type": "sigstoreSigned", field: value }]), &[(p256, &name)]);
    }
    // One of several signatures is enough; each requirement must be satisfied.
    let (several, both, one) = (signed.name("several"), signed.name("both"), signed.name("one"));
    let (several, both, one) = (format!("{several}:v1"), format!("{both}:v1"), format!("{one}:v1"));
    signed.simple("several", json!([p256.requirement(none())]), &[(rsa, &several), (p256, &several)]);
    let two = json!([p256.requirement(none()), rsa.requirement(none())]);
    signed.simple("both", two.clone(), &[(rsa, &both), (p256, &both)]);
    signed.simple("one", two, &[(p256, &one)]);
    // Names: cosign signs a repository, without a tag.
    let identity = |identity: Value| json!([p256.requirement(json!({ "signedIdentity": identity }))]);
    let bare = signed.name("bare");
    signed.simple("bare", json!([p256.requirement(none())]), &[(p256, &bare)]);
    let repository = signed.name("repository");
    signed.simple("repository", identity(json!({ "type": "matchRepository" })), &[(p256, &repository)]);
    let exact = json!({ "type": "exactRepository", "dockerRepository": "example.com/upstream" });
    signed.simple("exact", identity(exact.clone()), &[(p256, "example.com/upstream:v9")]);
    signed.simple("other-name", identity(exact), &[(p256, "example.com/other:v9")]);
    let registry = signed.server.registry().to_string();
    let remap = json!({ "type": "remapIdentity", "prefix": registry, "signedPrefix": "example.com" });
    signed.simple("remapped", identity(remap), &[(p256, "example.com/team/remapped:v1")]);
    // Everything that is wrong with a signature.
    signed.image("unsigned", json!([p256.requirement(none())]));
    let wrong = format!("{}:v1", signed.name("wrong-key"));
    signed.simple("wrong-key", json!([p256.requirement(none())]), &[(p384, &wrong)]);
    let replayed = signed.image("replayed", json!([p256.requirement(none())]));
    let of_another = simple_signature(
        &signed.home,
        p256,
        &payload(&format!("{}:v1", signed.name("replayed")), &Digest::of(b"another image")),
    );
    attach_simple(&signed.server, "team/replayed", &replayed, &[of_another]);
    let altered = signed.image("altered", json!([p256.requirement(none())]));
    let name = format!("{}:v1", signed.name("altered"));
    let (_, annotations) = simple_signature(&signed.home, p256, &payload(&name, &Digest::of(b"old")));
    attach_simple(&signed.server, "team/altered", &altered, &[(payload(&name, &altered), annotations)]);
    let bare_annotation = signed.image("no-annotation", json!([p256.requirement(none())]));
    let name = format!("{}:v1", signed.name("no-annotation"));
    attach_simple(
        &signed.server,
        "team/no-annotation",
        &bare_annotation,
        &[(payload(&name, &bare_annotation), json!({}))],
    );
    signed.image("anything", json!([{ "type": "insecureAcceptAnything" }]));
    signed.image("rejected", json!([{ "type": "insecureAcceptAnything" }, { "type": "reject" }]));

    let rows = signed.save(&[], 1).await;
    signed.assert_untrusted(
        &rows,
        &[
            ("one", "it was not made with this key"),
            ("bare", "only with matchRepository"),
            ("other-name", "it is for the image example.com/other:v9"),
            ("unsigned", "has no signature"),
            ("wrong-key", "it was not made with this key"),
            ("replayed", "it is for the digest"),
            ("altered", "it was not made with this key"),
            ("no-annotation", "annotation dev.cosignproject.cosign/signature is missing"),
            ("rejected", "the policy rejects all images"),
        ],
    );
    // --referrers none is the default of these tests: signatures are read, and not saved.
    let store = Store::open_read_only(&signed.home.path("tree")).unwrap();
    assert_eq!(store.tags(&"team/p256".parse().unwrap()).unwrap().len(), 1);
    // A second run judges again: a tag that is there already proves nothing.
    let again = signed.save(&["--referrers", "all"], 1).await;
    assert_eq!(again["unsigned"]["error"]["kind"], "untrusted");
    assert_eq!(again["p256"]["referrers"].as_array().unwrap().len(), 1, "{:#}", again["p256"]);
    // What was read to judge is not downloaded again.
    let subject = rows["p256"]["digest"].as_str().unwrap().parse().unwrap();
    let tag = ReferrerTag { subject, kind: ReferrerTagKind::Signature }.tag();
    let (_, manifest) = signed.server.manifest("team/p256", tag.as_str()).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(signed.server.count("GET", layer), 2, "once in each run");
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_verified_with_public_keys() {
    let mut signed = Signed::start().await;
    let kinds = [("p256", KeyKind::P256), ("ed25519", KeyKind::Ed25519), ("rsa", KeyKind::Rsa)];
    let keys: Vec<(&str, Key)> =
        kinds.into_iter().map(|(name, kind)| (name, Key::new(&signed.home, name, kind))).collect();
    let key = &keys[0].1;
    let required =
        |key: &Key| json!([key.requirement(json!({ "signedIdentity": { "type": "matchRepository" } }))]);
    let attach = |signed: &Signed, case: &str, digest: &Digest, bundle: &Value| {
        attach_bundle(&signed.server, &format!("team/{case}"), digest, &bundle.to_string());
    };
    for (name, key) in &keys {
        let case = format!("statement-{name}");
        let digest = signed.image(&case, required(key));
        let bundle = statement_bundle(&signed.home, key, &signed.name(&case), &digest.hex(), SIGN);
        attach(&signed, &case, &digest, &bundle);
    }
    // These name no image.
    for (name, key) in &keys {
        let case = format!("message-{name}");
        let digest = signed.image(&case, required(key));
        let (_, manifest) = signed.server.manifest(&format!("team/{case}"), "v1").unwrap();
        attach(&signed, &case, &digest, &message_bundle(&signed.home, key, &manifest));
    }
    let digest = signed.image("cosign3", required(key));
    attach(&signed, "cosign3", &digest, &statement_bundle(&signed.home, key, "", &digest.hex(), SIGN));
    // Everything that is wrong with a bundle.
    let digest = signed.image("attestation", required(key));
    let predicate = "https://spdx.dev/Document";
    let bundle = statement_bundle(&signed.home, key, &signed.name("attestation"), &digest.hex(), predicate);
    attach(&signed, "attestation", &digest, &bundle);
    let digest = signed.image("other-name", required(key));
    let bundle = statement_bundle(&signed.home, key, "example.com/other", &digest.hex(), SIGN);
    attach(&signed, "other-name", &digest, &bundle);
    let digest = signed.image("replayed", required(key));
    let bundle =
        statement_bundle(&signed.home, key, &signed.name("replayed"), &Digest::of(b"another").hex(), SIGN);
    attach(&signed, "replayed", &digest, &bundle);
    let digest = signed.image("wrong-key", required(key));
    let bundle = statement_bundle(&signed.home, &keys[2].1, &signed.name("wrong-key"), &digest.hex(), SIGN);
    attach(&signed, "wrong-key", &digest, &bundle);
    let digest = signed.image("truncated", required(key));
    let bundle =
        statement_bundle(&signed.home, key, &signed.name("truncated"), &digest.hex(), SIGN).to_string();
    attach_bundle(&signed.server, "team/truncated", &digest, &bundle[..bundle.len() / 2]);
    let digest = signed.image("altered", required(key));
    let mut bundle = statement_bundle(&signed.home, key, "x.io/old", &digest.hex(), SIGN);
    let other = statement_bundle(&signed.home, key, &signed.name("altered"), &digest.hex(), SIGN);
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone();
    attach(&signed, "altered", &digest, &bundle);
    // A referrer that is listed for an image and refers to another is no signature of it.
    let digest = signed.image("lie", required(key));
    let bundle = statement_bundle(&signed.home, key, &signed.name("lie"), &digest.hex(), SIGN).to_string();
    let elsewhere = signed.server.add_image("team/elsewhere", "v1", &[b"elsewhere"]).manifest;
    let (_, manifest) = signed.server.manifest("team/elsewhere", "v1").unwrap();
    signed.server.add_manifest("team/lie", None, media_type::OCI_MANIFEST, manifest);
    let referrer = attach_bundle(&signed.server, "team/lie", &elsewhere, &bundle);
    let (_, manifest) = signed.server.manifest("team/lie", &referrer.to_string()).unwrap();
    let list = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [{
        "mediaType": media_type::OCI_MANIFEST, "artifactType": BUNDLE, "digest": referrer, "size": manifest.len(),
    }]});
    signed
        .server
        .on("GET", &format!("/v2/team/lie/referrers/{digest}"))
        .answer(Fault::Body(list.to_string().into()));

    let wrong = [
        ("attestation", "it is an attestation (https://spdx.dev/Document)"),
        ("other-name", "it is for the image example.com/other"),
        ("replayed", "is about another digest"),
        ("wrong-key", "it was not made with this key"),
        ("truncated", "the bundle cannot be parsed"),
        ("altered", "it was not made with this key"),
        ("lie", "has no signature"),
    ];
    let unnamed = [
        ("cosign3", "names no image"),
        ("message-p256", "names no image"),
        ("message-ed25519", "names no image"),
        ("message-rsa", "names no image"),
    ];
    let strict: Vec<_> = wrong.into_iter().chain(unnamed).collect();
    let rows = signed.save(&[], 1).await;
    signed.assert_untrusted(&rows, &strict);
    let rows = signed.save(&["--unnamed-signatures", "accept"], 1).await;
    signed.assert_untrusted(&rows, &wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn index_or_each_of_its_images_must_be_signed() {
    let mut signed = Signed::start().await;
    let key = Key::new(&signed.home, "key", KeyKind::P256);
    let requirements = json!([key.requirement(json!({}))]);
    for (case, of_index, of_images) in [
        ("index", true, [false, false]),
        ("images", false, [true, true]),
        ("one", false, [true, false]),
        ("neither", false, [false, false]),
    ] {
        let repository = format!("team/{case}");
        signed.scopes.insert(signed.name(case), requirements.clone());
        let name = format!("{}:v1", signed.name(case));
        let mut entries = Vec::new();
        for (number, is_signed) in of_images.into_iter().enumerate() {
            let tag = format!("part{number}");
            let digest =
                signed.server.add_image(&repository, &tag, &[tag.as_bytes(), case.as_bytes()]).manifest;
            let (_, bytes) = signed.server.manifest(&repository, &tag).unwrap();
            entries.push(json!({
                "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": bytes.len(),
                "platform": { "os": "linux", "architecture": "amd64", "variant": format!("v{}", number + 1) },
            }));
            if is_signed {
                signed.sign(case, &digest, &[(&key, &name)]);
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
        let index =
            signed.server.add_manifest(&repository, Some("v1"), media_type::OCI_INDEX, index.to_string());
        if of_index {
            signed.sign(case, &index, &[(&key, &name)]);
        }
    }
    signed.arch = "all";
    let rows = signed.save(&[], 1).await;
    signed.assert_untrusted(&rows, &[("one", "has no signature"), ("neither", "has no signature")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signature_that_cannot_be_read_fails_the_image() {
    for (path, fault, kind) in [
        ("/referrers/", Fault::status(403), "unauthorized"),
        ("/tags/list", Fault::status(401), "unauthorized"),
        (".sig", Fault::status(403), "unauthorized"),
    ] {
        let mut signed = Signed::start().await;
        let key = Key::new(&signed.home, "key", KeyKind::P256);
        let name = format!("{}:v1", signed.name("app"));
        signed.simple("app", json!([key.requirement(json!({}))]), &[(&key, &name)]);
        signed.server.on("GET", path).answer(fault);
        // A missing referrer may be tolerated, a missing signature not.
        let rows = signed.save(&["--missing-referrers", "warn", "--retries", "0"], 1).await;
        assert_eq!(rows["app"]["error"]["kind"], kind, "{path}: {:#}", rows["app"]);
        assert!(!signed.has("app"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_or_too_large_signatures_are_refused() {
    let mut signed = Signed::start().await;
    let key = Key::new(&signed.home, "key", KeyKind::P256);
    let requirements = json!([key.requirement(json!({}))]);
    let many = signed.image("many", requirements.clone());
    let junk: Vec<_> = (0..65).map(|number| (format!("{number}"), json!({}))).collect();
    attach_simple(&signed.server, "team/many", &many, &junk);
    let large = signed.image("large", requirements.clone());
    attach_simple(&signed.server, "team/large", &large, &[("x".repeat((4 << 20) + 1), json!({}))]);
    let listed = signed.image("listed", requirements);
    for number in 0..65 {
        attach_bundle(&signed.server, "team/listed", &listed, &format!("{number}"));
    }
    let rows = signed.save(&[], 1).await;
    for case in ["many", "large", "listed"] {
        assert_eq!(rows[case]["error"]["kind"], "too-large", "{case}: {:#}", rows[case]);
        assert!(!signed.has(case), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_accepts_only_signed_images() {
    let mut signed = Signed::start().await;
    let key = Key::new(&signed.home, "key", KeyKind::P256);
    let name = format!("{}:v1", signed.name("signed"));
    signed.simple("signed", json!([key.requirement(json!({}))]), &[(&key, &name)]);
    signed.image("unsigned", json!([key.requirement(json!({}))]));
    let target = FaultServer::start().await;
    for (case, code) in [("signed", 0), ("unsigned", 1)] {
        let (from, to) =
            (format!("{}:v1", signed.name(case)), format!("{}/copy/{case}:v1", target.registry()));
        let mut command = signed.home.saver(["copy", "--policy", &signed.policy(), &from, &to]);
        let ran: Ran = tokio::task::spawn_blocking(move || run(&mut command).expect(code)).await.unwrap();
        assert_eq!(target.manifest(&format!("copy/{case}"), "v1").is_some(), code == 0, "{ran:?}");
        assert_eq!(
            ran.stdout.contains("not trusted by the policy")
                || ran.stderr.contains("not trusted by the policy"),
            code == 1,
            "{ran:?}"
        );
    }
}

#[test]
fn unusable_policy_ends_the_run_before_anything_is_requested() {
    let home = Home::new();
    let key = Key::new(&home, "key", KeyKind::P256);
    let curve = home.path("curve.pub");
    succeed(
        "openssl",
        ["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", home.path("k").to_str().unwrap()],
    );
    succeed(
        "openssl",
        ["ec", "-in", home.path("k").to_str().unwrap(), "-pubout", "-out", curve.to_str().unwrap()],
    );
    home.write("text.pub", "no key");
    let signed = |fields: Value| {
        let mut requirement = json!({ "type": "sigstoreSigned" });
        for (field, value) in fields.as_object().unwrap() {
            requirement[field] = value.clone();
        }
        json!({ "default": [requirement] }).to_string()
    };
    for (policy, reason) in [
        ("no JSON".to_owned(), "invalid signature policy: expected ident"),
        (r#"{"default":[{"type":"signed"}]}"#.to_owned(), "unknown variant `signed`"),
        (signed(json!({})), "exactly one of keyPath"),
        (signed(json!({ "keyPath": key.public, "keyData": "" })), "keyPath and keyData are both given"),
        (signed(json!({ "keyPath": "missing.pub" })), "missing.pub: cannot be read"),
        (signed(json!({ "keyPath": "/dev/zero" })), "/dev/zero: has 4194305 bytes, more than 4194304"),
        (signed(json!({ "keyPath": "text.pub" })), "text.pub: "),
        (signed(json!({ "keyPath": curve })), "unsupported or invalid EC curve"),
        (signed(json!({ "keyDatas": [] })), "lists no key"),
        (signed(json!({ "keyPath": key.public, "fulcio": { "caData": "" } })), "exactly one of keyPath"),
        (
            signed(json!({ "fulcio": { "caPath": key.public, "subjectEmail": "a@b.c" } })),
            "oidcIssuer is missing",
        ),
        (signed(json!({ "fulcio": { "caPath": key.public, "oidcIssuer": "i" } })), "subjectEmail is missing"),
        (
            signed(json!({ "fulcio": { "oidcIssuer": "i", "subjectEmail": "a@b.c" } })),
            "caPath or caData is missing, and no trusted root",
        ),
        (
            signed(json!({ "fulcio": { "caPath": key.public, "oidcIssuer": "i", "subjectEmail": "a@b.c" } })),
            "a rekorPublicKey is needed",
        ),
        (signed(json!({ "pki": { "caRootsPath": key.public } })), "subjectEmail or subjectHostname"),
        (
            signed(json!({ "pki": { "caRootsPath": key.public, "subjectEmail": "a" } })),
            "contains no certificate",
        ),
        (
            signed(
                json!({ "keyPath": key.public, "signedIdentity": { "type": "exactReference", "dockerReference": "a" } }),
            ),
            "neither tag nor digest",
        ),
    ] {
        let file = home.write("policy.json", &policy);
        let mut command = home.saving(&home.path("tree"), "amd64", &["localhost:1/app:v1".to_owned()]);
        let ran = run(command.arg("--policy").arg(&file)).expect(2);
        assert!(ran.stderr.contains(reason), "{policy}: {}", ran.stderr);
        assert!(!home.path("tree").exists(), "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requirement_of_gpg_signatures_is_unsupported() {
    let mut signed = Signed::start().await;
    signed.image("gpg", json!([{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/none" }]));
    signed.image("plain", json!([{ "type": "insecureAcceptAnything" }]));
    let rows = signed.save(&[], 1).await;
    assert_eq!(rows["gpg"]["error"]["kind"], "unsupported", "{:#}", rows["gpg"]);
    assert!(rows["gpg"]["error"]["message"].as_str().unwrap().contains("signedBy"));
    assert!(signed.has("plain") && !signed.has("gpg"));
}
