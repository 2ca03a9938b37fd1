//! Policies over whole directories, offline, and for the far side.

use super::{SIGN, Signed};
use crate::support::fault::Fault;
use crate::support::program::run;
use crate::support::signing::{Key, KeyKind, attach_bundle, statement_bundle};
use saver::oci::media_type;
use saver::store::Store;
use serde_json::{Value, json};
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn verify_judges_a_whole_tree_offline() {
    let mut signed = Signed::start().await;
    let (key, other) =
        (Key::new(&signed.home, "key", KeyKind::P256), Key::new(&signed.home, "other", KeyKind::P256));
    let required = json!([key.requirement(json!({}))]);
    for (case, signer) in [("signed", &key), ("other-key", &other)] {
        let name = format!("{}:v1", signed.name(case));
        signed.simple(case, required.clone(), &[(signer, &name)]);
    }
    signed.image("unsigned", required.clone());
    let matching = json!([key.requirement(json!({ "signedIdentity": { "type": "matchRepository" } }))]);
    let digest = signed.image("bundle", matching);
    let bundle = statement_bundle(&signed.home, &key, &signed.name("bundle"), &digest.hex(), SIGN);
    attach_bundle(&signed.server, "team/bundle", &digest, &bundle.to_string());
    // An image by digest alone.
    let pinned = format!("{}@{digest}", signed.name("bundle"));
    // All of it is saved without a policy.
    let images: Vec<String> = signed.scopes.keys().map(|name| format!("{name}:v1")).chain([pinned]).collect();
    let mut command = signed.home.saving(&signed.home.path("tree"), "amd64", &images);
    command.args(["--referrers", "all"]);
    tokio::task::spawn_blocking(move || run(&mut command).expect(0)).await.unwrap();
    // Nothing answers any more.
    let registry = signed.server.registry().to_string();
    signed.server.on("GET", "/").answer(Fault::Close);
    let seen = signed.server.seen().len();
    let untrusted = |report: &Value| -> Vec<String> {
        let list = report["trust"]["untrusted"].as_array().unwrap().iter();
        list.map(|one| one["image"].as_str().unwrap().to_owned()).collect()
    };
    let report = signed.verify("tree", &[], 1);
    assert_eq!(report["trust"]["images"], 5, "{report:#}");
    assert_eq!(untrusted(&report), ["team/other-key:v1", "team/unsigned:v1"], "{report:#}");
    assert_eq!(report["trust"]["untrusted"][0]["error"]["kind"], "untrusted");
    assert_eq!(report["trust"]["untrusted"][0]["source"], format!("{registry}/team/other-key:v1"));
    assert_eq!(report["problems"], json!([]));
    let text = run(&mut signed.home.saver([
        "verify",
        "--dir",
        signed.home.path("tree").to_str().unwrap(),
        "--policy",
        &signed.policy(),
    ]))
    .expect(1)
    .stdout;
    assert!(
        text.contains("untrusted: team/unsigned:v1 (from ") && text.contains("untrusted (2 of 5 images)"),
        "{text}"
    );
    // With another policy, all are trusted; without one, nothing is judged.
    let accept = json!([{ "type": "insecureAcceptAnything" }]);
    signed.scopes.values_mut().for_each(|requirements| *requirements = accept.clone());
    let report = signed.verify("tree", &[], 0);
    assert_eq!(report["trust"]["untrusted"], json!([]), "{report:#}");
    let plain = run(&mut signed.home.saver([
        "verify",
        "--json",
        "--dir",
        signed.home.path("tree").to_str().unwrap(),
    ]));
    assert!(!plain.expect(0).stdout.contains("\"trust\""));
    assert_eq!(signed.server.seen().len(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn image_of_a_tree_passes_only_under_its_own_name() {
    let mut signed = Signed::start().await;
    let key = Key::new(&signed.home, "key", KeyKind::P256);
    let name = format!("{}:v1", signed.name("app"));
    signed.simple("app", json!([key.requirement(json!({}))]), &[(&key, &name)]);
    signed.image("evil", json!([key.requirement(json!({}))]));
    let images = [name.clone(), format!("{}:v1", signed.name("evil"))];
    let mut command = signed.home.saving(&signed.home.path("tree"), "amd64", &images);
    command.args(["--referrers", "all"]);
    tokio::task::spawn_blocking(move || run(&mut command).expect(0)).await.unwrap();
    let tags = signed.home.path("tree/docker/registry/v2/repositories/team");
    let link = "_manifests/tags/v1/current/link";
    // Another image in the place of the signed one: its record, and its digest, are not those of the name.
    let own = std::fs::read(tags.join("app").join(link)).unwrap();
    let evil = std::fs::read_to_string(tags.join("evil").join(link)).unwrap();
    let hex = evil.trim_start_matches("sha256:").to_owned();
    let revision = tags.join("app/_manifests/revisions/sha256").join(&hex);
    std::fs::create_dir_all(&revision).unwrap();
    std::fs::write(revision.join("link"), &evil).unwrap();
    std::fs::write(tags.join("app").join(link), &evil).unwrap();
    let report = signed.verify("tree", &[], 1);
    let reason = |report: &Value, image: &str| -> String {
        let list = report["trust"]["untrusted"].as_array().unwrap();
        let found = list.iter().find(|one| one["image"] == image);
        found.map(|one| one["error"]["message"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert!(reason(&report, "team/app:v1").contains("does not record its name"), "{report:#}");
    // A forged record that passes the other image off as the signed one.
    std::fs::write(tags.join("app").join(link), &own).unwrap();
    let sources = signed.home.path("tree/.saver/sources");
    for entry in std::fs::read_dir(&sources).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("/team/evil", "/team/app")).unwrap();
    }
    let report = signed.verify("tree", &[], 1);
    assert!(reason(&report, "team/evil:v1").contains("belongs elsewhere"), "{report:#}");
    assert_eq!(reason(&report, "team/app:v1"), "", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_index_is_trusted_by_the_signature_of_its_source() {
    let mut signed = Signed::start().await;
    let key = Key::new(&signed.home, "key", KeyKind::P256);
    signed.scopes.insert(signed.name("app"), json!([key.requirement(json!({}))]));
    let name = format!("{}:v1", signed.name("app"));
    let mut entries = Vec::new();
    for arch in ["amd64", "arm64"] {
        let digest = signed.server.add_image("team/app", arch, &[arch.as_bytes()]).manifest;
        let size = signed.server.manifest("team/app", arch).unwrap().1.len();
        entries.push(json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
            "platform": { "os": "linux", "architecture": arch },
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    let index = signed.server.add_manifest("team/app", Some("v1"), media_type::OCI_INDEX, index.to_string());
    signed.sign("app", &index, &[(&key, &name)]);
    for mode in ["keep", "prune", "flatten"] {
        let dir = signed.home.path(mode);
        let mut command = signed.home.saving(&dir, "amd64", std::slice::from_ref(&name));
        command.args(["--referrers", "all", "--index", mode, "--policy", &signed.policy()]);
        tokio::task::spawn_blocking(move || run(&mut command).expect(0)).await.unwrap();
        let report = signed.verify(mode, &[], 0);
        assert_eq!(report["trust"]["images"], 1, "{mode}: {report:#}");
        // Without the signatures it is not.
        let store = Store::open_read_only(&dir).unwrap();
        let repository = "team/app".parse().unwrap();
        let tags = store.tags(&repository).unwrap();
        let signature = tags.iter().find(|tag| tag.as_str().ends_with(".sig")).unwrap();
        std::fs::remove_dir_all(dir.join(store.tag_directory_path(&repository, signature))).unwrap();
        let report = signed.verify(mode, &[], 1);
        assert_eq!(report["trust"]["untrusted"].as_array().unwrap().len(), 1, "{mode}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_policy_judges_alike_without_its_files() {
    let mut signed = Signed::start().await;
    let (key, other) =
        (Key::new(&signed.home, "key", KeyKind::P256), Key::new(&signed.home, "other", KeyKind::Rsa));
    let several = json!([{ "type": "sigstoreSigned", "keyPaths": [other.public, key.public] }]);
    for (case, requirements) in [
        ("one", json!([key.requirement(json!({}))])),
        ("several", several),
        ("wrong", json!([other.requirement(json!({}))])),
    ] {
        let name = format!("{}:v1", signed.name(case));
        signed.simple(case, requirements, &[(&key, &name)]);
    }
    signed.scopes.insert(
        "gpg.example.com".into(),
        json!([{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/gpg" }]),
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/trust/public-good.json");
    let trust = signed.home.path("far/trust");
    let mut command = signed.home.saver(["trust", "export", "--policy", &signed.policy(), "--output"]);
    run(command.arg(&trust).arg("--trusted-root").arg(&root)).expect(0);
    assert_eq!(std::fs::read(trust.join("trusted_root.json")).unwrap(), std::fs::read(&root).unwrap());
    // Its own input is not replaced.
    let policy = signed.policy();
    let content = std::fs::read(&policy).unwrap();
    let mut command = signed.home.saver(["trust", "export", "--policy", &policy, "--output"]);
    let ran = run(command.arg(Path::new(&policy).parent().unwrap())).expect(2);
    assert!(ran.stderr.contains("the output would replace this file"), "{}", ran.stderr);
    assert_eq!(std::fs::read(&policy).unwrap(), content);
    for key in [&key, &other] {
        std::fs::remove_file(&key.public).unwrap();
    }
    let exported: Value = serde_json::from_slice(&std::fs::read(trust.join("policy.json")).unwrap()).unwrap();
    assert_eq!(exported["transports"]["docker"]["gpg.example.com"][0]["keyPath"], "/gpg");
    signed.scopes.remove("gpg.example.com");
    let scopes = exported["transports"]["docker"].as_object().unwrap();
    let kept = signed.scopes.keys().map(|name| (name.clone(), scopes[name].clone())).collect();
    signed.scopes = kept;
    let rows = signed.save(&[], 1).await;
    signed.assert_untrusted(&rows, &[("wrong", "it was not made with this key")]);
}
