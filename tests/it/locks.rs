//! Lock files: `saver resolve`, `saver save --lock` and `--locked`, and every command that reads them.

use super::support::fault::FaultServer;
use super::support::peers::registry::Registry;
use super::support::peers::samples;
use super::support::program::{Home, Ran, run};
use super::support::tree::{Files, files};
use saver::oci::referrer::ReferrerTagKind;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// `saver` with these arguments; referrers are saved, as they are by default.
fn saver(home: &Home, arguments: &str) -> Command {
    let mut command = home.saver(arguments.split_whitespace());
    command.env_remove("SAVER_REFERRERS");
    command
}

fn saves(home: &Home, arguments: &str, code: i32) -> Ran {
    run(&mut saver(home, &format!("save --progress none {arguments}"))).expect(code)
}

fn resolves(home: &Home, arguments: &str, code: i32) -> Ran {
    run(&mut saver(home, &format!("resolve {arguments}"))).expect(code)
}

/// All that a registry serves of a directory. `.saver` has the times of runs.
fn content(home: &Home, dir: &str) -> Files {
    let content = files(&home.path(dir).join("docker"));
    assert!(!content.is_empty());
    content
}

fn read(home: &Home, name: &str) -> String {
    fs::read_to_string(home.path(name)).unwrap()
}

#[test]
fn two_directories_from_one_lock_are_identical() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/imageList")).unwrap();
    let list = format!("{}\nlocalhost:5000/demo/app:* tags=semver:^1 newest=1\n", list);
    home.write("want.list", &list.replace("localhost:5000", &registry.address));
    resolves(&home, "--list want.list --arch amd64 --missing-platform skip -o want.lock", 0);
    let lock = read(&home, "want.lock");
    resolves(&home, "--list want.list --arch amd64 --missing-platform skip -o again.lock --jobs 1", 0);
    assert_eq!(read(&home, "again.lock"), lock, "the same content gives the same file");
    for (dir, more) in [("one", "--arch s390x"), ("two", "--index flatten --no-attestations --jobs 1")] {
        saves(&home, &format!("--list want.lock --locked --dir {dir} {more}"), 0);
    }
    assert_eq!(content(&home, "one"), content(&home, "two"));
    // Without --locked, a lock file is a list of pinned names that need no --arch.
    saves(&home, "--list want.lock --missing-platform skip --dir three", 0);
    assert_eq!(content(&home, "one"), content(&home, "three"));
    // What is written while saving is what resolving gives, but for the names of the lists.
    saves(&home, "--list want.list --arch amd64 --missing-platform skip --dir four --lock saved.lock", 0);
    assert_eq!(read(&home, "saved.lock"), lock);
    let ran = run(&mut saver(&home, "verify --dir one --list want.lock")).expect(0);
    assert!(ran.stdout.contains("no problems, complete ("), "{}", ran.stdout);
    for sets in ["want.lock one", "one want.lock", "want.lock saved.lock"] {
        run(&mut saver(&home, &format!("diff {sets}"))).expect(0);
    }
}

#[test]
fn lock_names_rule_platforms_and_sizes() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    home.write("want.list", &format!("{}/demo/app:* tags=semver:^1 newest=1\n", registry.address));
    let ran = resolves(&home, "--list want.list --arch amd64 --json", 0);
    let lock: Value = serde_json::from_str(&ran.stdout).unwrap();
    let image = &lock["images"][0];
    let manifest = &image["manifests"][0];
    assert_eq!(image["selected_by"], "want.list:1 tags=semver:^1 newest=1");
    assert_eq!(manifest["platform"], "linux/amd64");
    let text = resolves(&home, "--list want.list --arch amd64", 0).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "# saver lock v1 index=keep attestations=yes foreign-layers=no".to_owned(),
            format!(
                "{}  # platform=linux/amd64 want.list:1 tags=semver:^1 newest=1",
                image["reference"].as_str().unwrap()
            ),
            format!(
                "#   manifest {} {} linux/amd64",
                manifest["digest"].as_str().unwrap(),
                manifest["bytes"]
            ),
        ]
    );
    // The size is that of the manifest's file, its configuration and its layers.
    let digest = manifest["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let blob = |hex: &str| {
        fs::read(samples().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))).unwrap()
    };
    let raw = blob(digest);
    let parsed: Value = serde_json::from_slice(&raw).unwrap();
    let layers = parsed["layers"].as_array().unwrap().iter().chain([&parsed["config"]]);
    let sizes: u64 = layers.map(|layer| layer["size"].as_u64().unwrap()).sum();
    assert_eq!(manifest["bytes"], json!(sizes + raw.len() as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_tag_is_drift_with_both_digests() {
    let home = Home::new();
    let server = FaultServer::start().await;
    let old = server.add_image("team/app", "1", &[b"old"]).manifest;
    server.add_image("team/other", "1", &[b"other"]);
    let host = server.registry();
    home.write("want.list", &format!("{host}/team/app:1\n{host}/team/other:1\n"));
    resolves(&home, "--list want.list --arch amd64 -o want.lock", 0);
    resolves(&home, "--list want.list --arch amd64 --diff want.lock", 0);
    let image = server.add_image("team/app", "1", &[b"new and longer"]);
    let new = image.manifest;
    let ran = resolves(&home, "--list want.list --arch amd64 --diff want.lock --json", 1);
    let changes: Value = serde_json::from_str(&ran.stdout).unwrap();
    let moved = &changes["moved"][0];
    assert_eq!(
        (moved["from"].as_str(), moved["to"].as_str()),
        (Some(&*old.to_string()), Some(&*new.to_string()))
    );
    let manifest = server.manifest("team/app", "1").unwrap().1;
    let size = manifest.len() as u64 + image.config.size + image.layers[0].size;
    assert_eq!(
        (&moved["bytes"], &changes["bytes"], &changes["a"]["kind"]),
        (&json!(size), &json!(size), &json!("lock"))
    );
    let text = resolves(&home, "--list want.list --arch amd64 --diff want.lock", 1).stdout;
    assert!(text.contains("0 added, 0 removed, 1 moved, 1 unchanged; ") && text.contains("SIZE"), "{text}");
    let ran = saves(&home, "--list want.lock --locked --dir tree --report report.json", 1);
    assert!(ran.stderr.contains(&old.to_string()) && ran.stderr.contains(&new.to_string()), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&read(&home, "report.json")).unwrap();
    assert_eq!(report["images"][0]["error"]["kind"], "drift");
    assert_eq!(report["images"][0]["error"]["detail"]["type"], "mismatch");
    assert_eq!(report["images"][1]["status"], "saved", "the others are saved");
    // Without --locked the pinned digest is saved.
    let ran = saves(&home, "--list want.lock --dir tree", 0);
    assert!(ran.stderr.contains("the pinned digest is used"), "{}", ran.stderr);
    run(&mut saver(&home, "verify --dir tree --list want.lock")).expect(0);
    // The directory of today is not that of the lock file.
    saves(&home, "--list want.list --arch amd64 --dir tree --lock failed.lock", 0);
    let ran = run(&mut saver(&home, "verify --dir tree --list want.lock --json")).expect(1);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let missing = &report["expected"]["missing"];
    assert_eq!(missing.as_array().unwrap().len(), 1);
    assert_eq!(
        (missing[0]["kind"].as_str(), missing[0]["digest"].as_str()),
        (Some("other-digest"), Some(&*new.to_string()))
    );
    let ran = run(&mut saver(&home, "verify --dir tree --list want.lock")).expect(1);
    assert!(ran.stdout.contains("other digest: "), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pinned_referrers_are_saved() {
    let home = Home::new();
    let server = FaultServer::start().await;
    server.serve_referrers();
    let image = server.add_image("team/app", "1", &[b"layer"]).manifest;
    let sbom = server.add_referrer("team/app", &image, "application/spdx+json", "SBOM");
    let nested = server.add_referrer("team/app", &sbom, "application/x-note", "note about the SBOM");
    let kind = ReferrerTagKind::Signature;
    let signature = server.add_tagged_referrer("team/app", &image, kind, "signature");
    home.write("want.list", &format!("{}/team/app:1\n", server.registry()));
    resolves(&home, "--list want.list --arch amd64 -o want.lock", 0);
    let lock = read(&home, "want.lock");
    for digest in [&sbom, &nested, &signature] {
        assert!(lock.contains(&format!("#   referrer {digest} of ")), "{lock}");
    }
    saves(&home, "--list want.lock --locked --dir one", 0);
    let late = server.add_referrer("team/app", &image, "application/spdx+json", "a later SBOM");
    saves(&home, "--list want.lock --locked --dir two --referrers none", 0);
    assert_eq!(content(&home, "one"), content(&home, "two"));
    saves(&home, "--list want.lock --locked --dir two", 0);
    assert_eq!(content(&home, "one"), content(&home, "two"), "a second run changes nothing");
    let changed = server.add_tagged_referrer("team/app", &image, kind, "another signature");
    let ran = saves(&home, "--list want.lock --locked --dir three", 1);
    for digest in [&signature, &changed, &late] {
        assert!(ran.stderr.contains(&digest.to_string()), "{digest}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_other_tools_are_written_and_read() {
    let home = Home::new();
    let server = FaultServer::start().await;
    let old = server.add_image("team/app", "1", &[b"old"]).manifest;
    home.write("want.list", &format!("{}/team/app:1\n", server.registry()));
    for (format, file) in [("imgpkg", "images.yml"), ("helm", "Images.lock")] {
        resolves(&home, &format!("--list want.list --arch amd64 --lock-format {format} -o {file}"), 0);
        assert!(read(&home, file).contains("kind: ImagesLock"));
        saves(&home, &format!("--list {file} --locked --arch amd64 --dir {format}"), 0);
        run(&mut saver(&home, &format!("verify --dir {format} --list {file} --arch amd64"))).expect(0);
    }
    let new = server.add_image("team/app", "1", &[b"new"]).manifest;
    for file in ["images.yml", "Images.lock"] {
        let ran = saves(&home, &format!("--list {file} --locked --arch amd64 --dir moved"), 1);
        assert!(
            ran.stderr.contains(&old.to_string()) && ran.stderr.contains(&new.to_string()),
            "{}",
            ran.stderr
        );
    }
    saves(&home, "--list want.list --arch amd64 --dir moved", 0);
    for file in ["images.yml", "Images.lock"] {
        let ran = run(&mut saver(&home, &format!("verify --dir moved --list {file} --arch amd64"))).expect(1);
        assert!(ran.stdout.contains(&new.to_string()), "{}", ran.stdout);
    }
}

#[test]
fn pruned_directory_matches_its_lock() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    home.write("want.list", &format!("{}/demo/app:1.0\n", registry.address));
    resolves(&home, "--list want.list --arch amd64 --index prune -o want.lock", 0);
    saves(&home, "--list want.lock --locked --dir one", 0);
    saves(&home, "--list want.list --arch amd64 --index prune --dir two", 0);
    assert_eq!(content(&home, "one"), content(&home, "two"));
    run(&mut saver(&home, "verify --dir one --list want.lock")).expect(0);
}

#[test]
fn unusable_locks_are_refused() {
    let home = Home::new();
    let registry = Registry::serve(&samples());
    let host = &registry.address;
    home.write("plain.list", &format!("{host}/demo/app:1.0\n"));
    home.write("tags.list", &format!("{host}/demo/app:*\n"));
    home.write("later.lock", "# saver lock v2\n");
    for (arguments, code, why) in [
        ("save --list plain.list --locked --dir d --arch amd64", 2, "no lock file pins"),
        ("save --list tags.list --locked --dir d --arch amd64", 2, "no lock file pins"),
        ("save --list later.lock --locked --dir d --arch amd64", 2, "nothing was done"),
        ("save --list plain.list --lock f --report f --dir d --arch amd64", 2, "the same file"),
        ("resolve --list plain.list", 2, "--arch"),
        ("resolve --arch amd64", 2, "no images to resolve"),
        ("resolve --list plain.list --arch amd64 --diff missing.lock", 2, "missing.lock"),
    ] {
        let ran = run(&mut saver(&home, arguments)).expect(code);
        assert!(ran.stderr.contains(why), "{arguments}: {}", ran.stderr);
    }
    let ran =
        resolves(&home, &format!("--arch amd64 -o no.lock {host}/demo/app:1.0 {host}/demo/app:gone"), 1);
    assert!(ran.stderr.contains("demo/app:gone"), "{}", ran.stderr);
    assert!(!home.path("no.lock").exists() && !home.path("d").exists());
    let ran = saves(
        &home,
        &format!("--arch amd64 --lock no.lock --dir d {host}/demo/app:1.0 {host}/demo/app:gone"),
        1,
    );
    assert!(ran.stderr.contains("the lock file was not written"), "{}", ran.stderr);
    assert!(!home.path("no.lock").exists());
}
