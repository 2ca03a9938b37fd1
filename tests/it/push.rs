//! `saver push` and `saver copy` with the real binary, to real registries and to one that injects faults.

use super::support::fault::{Fault, FaultServer};
use super::support::fleet::{Fleet, noise};
use super::support::handmade::Tree;
use super::support::peers::registry::{Registry, RegistryOptions};
use super::support::peers::token::{TokenOptions, TokenServer};
use super::support::peers::{run as peer, samples, succeed};
use super::support::program::{Home, Ran, Victim, run};
use super::support::proxy::{Conduct, Proxy};
use crate::support::scratch::Scratch;
use saver::oci::Digest;
use saver::store::Store;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The output of `htpasswd -nbB reader hunter2`.
const PASSWORDS: &str = "reader:$2y$05$9pVdx45SxJAf7bV349BS0Ozv4QNt1gsym2bljk1C7h03Uxi/My3sW\n";

fn writable(root: &Scratch) -> Registry {
    Registry::start(root.path(), &RegistryOptions { writable: true, ..RegistryOptions::default() })
}

/// Runs `saver push` (or copy) with a report; asserts the exit code.
fn sends(home: &Home, arguments: &[&str], code: i32) -> (Ran, Value) {
    let report = home.path("report.json");
    let mut command = home.saver(arguments);
    let ran = run(command.args(["--progress", "none", "--report"]).arg(&report)).expect(code);
    let json = std::fs::read(&report).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    (ran, json)
}

fn push(home: &Home, dir: &Path, more: &[&str], code: i32) -> (Ran, Value) {
    let mut arguments = vec!["push", "--dir", dir.to_str().unwrap()];
    arguments.extend(more);
    sends(home, &arguments, code)
}

fn rows(report: &Value) -> &[Value] {
    report["images"].as_array().unwrap()
}

fn statuses(report: &Value) -> Vec<&str> {
    rows(report).iter().map(|row| row["status"].as_str().unwrap()).collect()
}

/// The manifest as skopeo reads it, unchanged.
fn raw(image: &str) -> String {
    succeed("skopeo", ["inspect", "--raw", "--tls-verify=false", &format!("docker://{image}")])
}

/// Every tag of a tree that names an image.
fn tags(dir: &Path) -> Vec<(String, Digest)> {
    let store = Store::open_read_only(dir).unwrap();
    let mut all = Vec::new();
    for repository in store.repositories().unwrap() {
        for tag in
            store.tags(&repository).unwrap().into_iter().filter(|tag| tag.referrers_subject().is_none())
        {
            let digest = store.read_tag(&repository, &tag).unwrap().unwrap();
            all.push((format!("{repository}:{tag}"), digest));
        }
    }
    all
}

#[test]
fn second_push_of_a_tree_sends_nothing() {
    let (home, root) = (Home::new(), Scratch::new());
    let registry = writable(&root);
    let to = format!("{}/team/x", registry.address);
    let (ran, first) = push(&home, &samples(), &[&to], 0);
    assert!(ran.stdout.contains("pushed"), "{}", ran.stdout);
    let all = tags(&samples());
    assert_eq!(rows(&first).len(), all.len());
    assert!(statuses(&first).iter().all(|status| *status == "pushed"), "{first:#}");
    for (name, digest) in &all {
        let served = raw(&format!("{}/team/x/{name}", registry.address));
        assert_eq!(Digest::of(served.as_bytes()), *digest, "{name}");
    }
    // Layers shared by several repositories are uploaded once and then mounted.
    assert!(first["bytes_reused"].as_u64().unwrap() > 0);
    let (_, second) = push(&home, &samples(), &[&to], 0);
    assert!(statuses(&second).iter().all(|status| *status == "unchanged"), "{second:#}");
    assert_eq!(second["bytes_fetched"], 0);
    super::support::fleet::assert_true(root.path(), "the registry's own tree");
    // Another client can read it.
    let layout = format!("oci:{}:x", home.path("layout").display());
    let image = format!("docker://{}/team/x/demo/app:1.0", registry.address);
    succeed("skopeo", ["copy", "--all", "--src-tls-verify=false", &image, &layout]);
}

#[test]
fn push_of_a_list_finds_images_by_saved_names() {
    let (home, root) = (Home::new(), Scratch::new());
    let registry = writable(&root);
    let list =
        home.write("list.txt", "hello:1.0\nquay.io/demo/app:1.0 platform=amd64\nquay.io/not/there:1\n");
    let failed = home.path("failed.txt");
    let more =
        ["--list", list.to_str().unwrap(), "--failed-list", failed.to_str().unwrap(), "--index", "prune"];
    let (ran, report) = push(&home, &samples(), &[&more[..], &[registry.address.as_str()]].concat(), 1);
    assert_eq!(statuses(&report), ["pushed", "pushed", "failed"], "{}", ran.stderr);
    assert!(std::fs::read_to_string(&failed).unwrap().starts_with("quay.io/not/there:1  # "));
    let index: Value = serde_json::from_str(&raw(&format!("{}/demo/app:1.0", registry.address))).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index:#}");
    assert_eq!(rows(&report)[1]["platforms"], serde_json::json!(["linux/amd64"]));
    raw(&format!("{}/library/hello:1.0", registry.address));
}

#[test]
fn sparse_index_is_refused_with_advice_to_prune_or_flatten() {
    let (home, root, work) = (Home::new(), Scratch::new(), Scratch::new());
    let source = Registry::serve(&samples());
    let image = format!("{}/demo/app:1.0", source.address);
    run(home.saving(work.path(), "amd64", &[image]).arg("--quiet")).expect(0);
    let registry = writable(&root);
    let (ran, _) = push(&home, work.path(), &["demo/app:1.0", &registry.address], 1);
    for words in ["without linux/arm/v7, linux/arm64/v8", "--index prune"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(!root.path().join("docker/registry/v2/blobs").exists(), "refused before any blob was sent");
    assert!(!ran.stderr.contains("tried"), "what is refused for good is not tried again: {}", ran.stderr);
    let pruned = format!("{}/pruned", registry.address);
    push(&home, work.path(), &["--index", "prune", "demo/app:1.0", &pruned], 0);
    let index: Value = serde_json::from_str(&raw(&format!("{pruned}/demo/app:1.0"))).unwrap();
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let flat = format!("{}/flat", registry.address);
    push(&home, work.path(), &["--index", "flatten", "demo/app:1.0", &flat], 0);
    let manifest: Value = serde_json::from_str(&raw(&format!("{flat}/demo/app:1.0"))).unwrap();
    assert!(manifest["layers"].is_array(), "{manifest:#}");
    let (ran, _) = push(&home, work.path(), &["--arch", "arm64", "demo/app:1.0", &flat], 1);
    assert!(ran.stderr.contains("(available: linux/amd64"), "{}", ran.stderr);
}

/// An index of two indexes, of which only one has saved manifests.
#[test]
fn sparse_nested_index_is_pushed() {
    let (source, root) = (Registry::serve(&samples()), Scratch::new());
    let (registry, home, tree) = (writable(&root), Home::new(), Scratch::new());
    home.save(tree.path(), "amd64", &[format!("{}/demo/nested:1.0", source.address)], &[], 0);
    let (_, report) = push(&home, tree.path(), &["--index", "prune", &registry.address], 0);
    assert_eq!(rows(&report)[0]["platforms"], serde_json::json!(["linux/amd64"]));
    let index: Value = serde_json::from_str(&raw(&format!("{}/demo/nested:1.0", registry.address))).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "no index of nothing: {index:#}");
    let flat = format!("{}/flat", registry.address);
    push(&home, tree.path(), &["--index", "flatten", &flat], 0);
    let (ran, _) = push(&home, tree.path(), &["--arch", "arm64", &flat], 1);
    assert!(ran.stderr.contains("(available: linux/amd64"), "{}", ran.stderr);
    // A registry that requires complete indexes is named in advance.
    let (ran, _) = push(&home, tree.path(), &["--dry-run", &registry.address], 0);
    assert!(ran.stderr.contains("without linux/arm/v7, linux/arm64/v8"), "{}", ran.stderr);
}

#[test]
fn push_authenticates_and_reports_missing_credentials() {
    let (home, root, dir) = (Home::new(), Scratch::new(), Scratch::new());
    let passwords = dir.path().join("htpasswd");
    std::fs::write(&passwords, PASSWORDS).unwrap();
    let with_passwords =
        RegistryOptions { writable: true, htpasswd: Some(passwords), ..RegistryOptions::default() };
    let user = Some(("reader", "hunter2"));
    let tokens = TokenServer::start(dir.path(), TokenOptions { user, lifetime: Duration::from_secs(60) });
    let with_tokens =
        RegistryOptions { writable: true, token: Some(tokens.auth()), ..RegistryOptions::default() };
    for (options, place) in [(with_passwords, "a"), (with_tokens, "b")] {
        let registry = Registry::start(&root.path().join(place), &options);
        let (ran, _) = push(&home, &samples(), &["demo/app:1.0", &registry.address], 1);
        assert!(ran.stderr.contains("docker login"), "{}", ran.stderr);
        for password in ["wrong", "hunter2"] {
            let auth = base64(&format!("reader:{password}"));
            let authfile = home.write(
                "auth.json",
                &format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address),
            );
            let more = ["--authfile", authfile.to_str().unwrap(), "demo/app:1.0", "mirror/app:1.0"];
            let code = i32::from(password == "wrong");
            let (ran, report) = push(&home, &samples(), &[&more[..], &[&registry.address]].concat(), code);
            assert!(!ran.stderr.contains("hunter2") && !ran.stderr.contains(&auth), "{}", ran.stderr);
            if code == 0 {
                // Both are the same image: one uploads, the other is mounted.
                let (sent, linked) = (&report["bytes_fetched"], &report["bytes_reused"]);
                assert!(sent == linked && sent.as_u64() > Some(0), "{report:#}");
            }
        }
    }
    let asked = tokens.asked().join("\n");
    let both = "scope=repository%3Amirror%2Fapp%3Apull%2Cpush&scope=repository%3Ademo%2Fapp%3Apull&";
    let reverse = "scope=repository%3Ademo%2Fapp%3Apull%2Cpush&scope=repository%3Amirror%2Fapp%3Apull&";
    assert!(asked.contains(both) || asked.contains(reverse), "to link a blob takes both scopes:\n{asked}");
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A tree with an image of a large and a small layer, and the bytes of the large one.
fn large() -> (Tree, Vec<u8>) {
    let tree = Tree::new();
    let layer = noise(7, 3_000_000);
    let image = tree.image("big/app", "linux/amd64", &[&layer, &noise(8, 1000)]);
    tree.tag("big/app", "1.0", &image.digest);
    (tree, layer)
}

/// Pushes the tree to a server with injected faults, and asserts that everything arrives.
async fn pushed_in_spite(server: &FaultServer, tree: &Tree, layer: &[u8]) -> (Ran, Value) {
    let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
    let done = tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &[&to], 0)).await.unwrap();
    assert_eq!(server.blob(&Digest::of(layer)).as_deref(), Some(layer));
    assert!(server.manifest("big/app", "1.0").is_some());
    done
}

fn content_ranges(server: &FaultServer) -> Vec<Option<String>> {
    let patches = server.seen().into_iter().filter(|seen| seen.method == "PATCH");
    patches.map(|seen| seen.header("content-range").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_upload_resumes_at_registry_offset() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::Take(1_000_000));
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::Take(500_000));
    let (_, report) = pushed_in_spite(&server, &tree, &layer).await;
    let expect = [None, Some("1000000-2999999".to_owned()), Some("1500000-2999999".to_owned())];
    assert_eq!(content_ranges(&server), expect);
    assert_eq!(rows(&report)[0]["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_that_is_too_large_continues_in_chunks() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::status(413));
    pushed_in_spite(&server, &tree, &layer).await;
    let expect = [None, Some("0-1048575"), Some("1048576-2097151"), Some("2097152-2999999")];
    assert_eq!(content_ranges(&server), expect.map(|range| range.map(str::to_owned)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_blob_that_is_too_large_continues_in_chunks() {
    let server = FaultServer::start().await;
    let tree = Tree::new();
    let layer = noise(9, 200_000);
    let image = tree.image("big/app", "linux/amd64", &[&layer]);
    tree.tag("big/app", "1.0", &image.digest);
    // The configuration may be the one that is refused: it is as small as the smallest chunk and has no smaller ones.
    let digest = format!("digest={}", Digest::of(&layer)).replace(':', "%3A");
    server.on("PUT", &digest).times(1).answer(Fault::status(413));
    pushed_in_spite(&server, &tree, &layer).await;
    let expect = ["0-65535", "65536-131071", "131072-196607", "196608-199999"];
    assert_eq!(content_ranges(&server), expect.map(|range| Some(range.to_owned())));
}

/// Registries that answer 200 in place of 202, and load balancers that redirect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_answered_200_or_redirected_completes() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    // Relative to the upload, whose number depends on which blob comes first.
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::Redirect("?node=2".to_owned()));
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::As(200));
    pushed_in_spite(&server, &tree, &layer).await;
    let patches: Vec<String> =
        server.seen().into_iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.path).collect();
    assert_eq!(patches.len(), 2);
    assert!(patches[1].contains("node=2"), "{patches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_chunk_size_is_set_on_the_command_line_or_elsewhere() {
    let tree = large().0;
    let expect = ["0-999999", "1000000-1999999", "2000000-2999999"].map(|range| Some(range.to_owned()));
    for (flag, environment, configuration) in [
        (Some("1MB"), "2MB", ""),
        (None, "1MB", "upload-chunk-size: 2MB\n"),
        (None, "", "upload-chunk-size: 1MB\n"),
    ] {
        let server = FaultServer::start().await;
        let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
        tokio::task::spawn_blocking(move || {
            let home = Home::new();
            let mut command = home.saver(["push", "--progress", "none", "--dir"]);
            command.arg(&dir).args(flag.map(|size| format!("--upload-chunk-size={size}"))).arg(&to);
            command.arg("--config").arg(home.write("saver.yaml", configuration));
            if !environment.is_empty() {
                command.env("SAVER_UPLOAD_CHUNK_SIZE", environment);
            }
            run(&mut command).expect(0);
        })
        .await
        .unwrap();
        assert_eq!(content_ranges(&server), expect, "{flag:?} {environment} {configuration}");
    }
    let wrong = run(&mut Home::new().saver(["copy", "a/b", "c.io/d", "--upload-chunk-size", "10"])).expect(2);
    assert!(wrong.stderr.contains("at least 64KiB is needed"), "{}", wrong.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_unknown_to_registry_restarts() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::Take(1_000_000));
    server.on("GET", "/blobs/uploads/").times(1).answer(Fault::status(404));
    // Also in the middle of an upload and at its end.
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::status(404));
    server.on("PUT", "/blobs/uploads/3").times(1).answer(Fault::status(404));
    pushed_in_spite(&server, &tree, &layer).await;
    assert!(server.count("POST", "/blobs/uploads/") >= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blob_with_lost_final_response_is_not_sent_again() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    server.on("PUT", "/blobs/uploads/").times(3).answer(Fault::Close);
    pushed_in_spite(&server, &tree, &layer).await;
    assert_eq!(server.count("PATCH", "/blobs/uploads/"), 1);
    assert_eq!(server.count("POST", "/blobs/uploads/"), 3, "one for each blob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_push_requests_are_retried_after_retry_after() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    server.on("HEAD", "/manifests/").times(2).answer(Fault::status(502));
    server.on("HEAD", "/blobs/").times(1).answer(Fault::Close);
    server.on("POST", "/blobs/uploads/").times(1).answer(Fault::retry_after(429, "1"));
    server.on("PATCH", "/blobs/uploads/").times(1).answer(Fault::status(503));
    server.on("PUT", "/blobs/uploads/").times(1).answer(Fault::status(504));
    server.on("PUT", "/manifests/").times(2).answer(Fault::status(500));
    let begun = std::time::Instant::now();
    pushed_in_spite(&server, &tree, &layer).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "the registry asked for a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifest_is_retried_after_transient_blob_unknown() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#;
    let missed = || Fault::Status(400, Vec::new(), body.into());
    server.on("PUT", "/manifests/").times(2).answer(missed());
    pushed_in_spite(&server, &tree, &layer).await;
    assert_eq!(server.count("PUT", "/manifests/"), 3);

    let server = FaultServer::start().await;
    server.on("PUT", "/manifests/").answer(missed());
    let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
    tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &[&to], 1)).await.unwrap();
    assert_eq!(server.count("PUT", "/manifests/"), 4, "one that lacks it for good is no endless try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_to_other_host_carries_no_credentials() {
    let (server, cdn) = (FaultServer::start().await, FaultServer::start().await);
    let (tree, layer) = large();
    server.require_basic("reader", "hunter2");
    // Created on the other host, as a registry does internally.
    let client = reqwest::Client::new();
    for _ in 0..3 {
        client.post(format!("{}/v2/big/app/blobs/uploads/", cdn.url())).send().await.unwrap();
    }
    for number in 1..=3 {
        let at = format!("{}/v2/big/app/blobs/uploads/{number}", cdn.url());
        server.on("POST", "/blobs/uploads/").times(1).answer(Fault::header("Location", &at));
    }
    let home = Home::new();
    let auth = base64("reader:hunter2");
    let auth =
        home.write("auth.json", &format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, server.registry()));
    let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
    tokio::task::spawn_blocking(move || {
        push(&home, &dir, &["--authfile", auth.to_str().unwrap(), &to], 0);
    })
    .await
    .unwrap();
    assert_eq!(cdn.blob(&Digest::of(&layer)).as_deref(), Some(&layer[..]));
    assert!(cdn.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn immutable_tag_with_same_digest_is_no_failure() {
    let (server, (tree, layer)) = (FaultServer::start().await, large());
    let (_, report) = pushed_in_spite(&server, &tree, &layer).await;
    assert_eq!(statuses(&report), ["pushed"]);
    let (media_type, manifest) = server.manifest("big/app", "1.0").unwrap();
    let immutable = r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1.0' already exists and cannot be overwritten because the repository is immutable."}]}"#;
    let refusal = |status| Fault::Status(status, vec![], immutable.into());
    let to = server.registry().to_string();
    let again = |code| {
        let (dir, to) = (tree.dir().to_owned(), to.clone());
        tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &[&to], code))
    };
    for status in [400, 403, 409, 412] {
        // The registry hides the tag at first, as if another client pushed it in the meantime.
        server.behave();
        server.on("HEAD", "/manifests/1.0").times(1).answer(Fault::status(404));
        server.on("PUT", "/manifests/1.0").answer(refusal(status));
        again(0).await.unwrap();
    }
    server.behave();
    let other = String::from_utf8_lossy(&manifest).replacen('{', "{ ", 1);
    let other = server.add_manifest("big/app", Some("1.0"), &media_type, other);
    server.on("PUT", "/manifests/1.0").answer(refusal(400));
    let (ran, _) = again(1).await.unwrap();
    assert!(ran.stderr.contains(&format!("the tag 1.0, which names {other}")), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: push under another tag"), "{}", ran.stderr);
}

/// A registry's digest header counts, not just its success status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifest_changed_by_registry_is_an_error() {
    let other = Digest::of(b"other").to_string();
    for (method, part, fault, word) in [
        ("PUT", "/blobs/uploads/", Fault::header("Docker-Content-Digest", &other), "stored other content"),
        ("PUT", "/manifests/", Fault::header("Docker-Content-Digest", &other), "it changed the content"),
        ("PUT", "/manifests/", Fault::status(204), "204"),
        ("PUT", "/manifests/", Fault::status(206), "206"),
    ] {
        let (server, (tree, _)) = (FaultServer::start().await, large());
        server.on(method, part).answer(fault);
        server.on("HEAD", "/big/app/").answer(Fault::status(404));
        let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
        let pushed =
            tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &["--retries", "1", &to], 1));
        let (ran, report) = pushed.await.unwrap_or_else(|_| panic!("{method} {part} {word}"));
        assert_eq!(statuses(&report), ["failed"], "{word}");
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_over_plain_http_is_limited_to_loopback() {
    let (server, (tree, _)) = (FaultServer::start().await, large());
    server.on("POST", "/blobs/uploads/").answer(Fault::header("Location", "http://192.0.2.1/upload/1"));
    let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
    let (ran, _) = tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &[&to], 1)).await.unwrap();
    assert!(ran.stderr.contains("plain HTTP at 192.0.2.1"), "{}", ran.stderr);
}

/// A dry run does not promise what docker-registry would refuse.
#[test]
fn dry_run_reports_sparse_index() {
    let (source, root) = (Registry::serve(&samples()), Scratch::new());
    let (registry, home, tree) = (writable(&root), Home::new(), Scratch::new());
    home.save(tree.path(), "amd64", &[format!("{}/demo/app:1.0", source.address)], &[], 0);
    let warned = |more: &[&str]| {
        let (ran, plan) = push(&home, tree.path(), &[more, &["--dry-run", &registry.address]].concat(), 0);
        (ran.stderr, plan["images"][0]["warnings"].to_string())
    };
    let (stderr, warnings) = warned(&[]);
    for word in ["without linux/arm/v7, linux/arm64/v8", "reject", "--index prune"] {
        assert!(stderr.contains(word) && warnings.contains(word), "{word}: {stderr}{warnings}");
    }
    assert_eq!(warned(&["--index", "prune"]), (String::new(), "null".into()));
    // Existing content is not sent again.
    let from = format!("docker://{}/demo/app:1.0", source.address);
    let to = format!("docker://{}/demo/app:other", registry.address);
    let flags = ["copy", "-q", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to];
    succeed("skopeo", flags);
    assert_eq!(warned(&[]), (String::new(), "null".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_of_push_sends_nothing() {
    let (server, (tree, _)) = (FaultServer::start().await, large());
    let (dir, to) = (tree.dir().to_owned(), server.registry().to_string());
    let dry = tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &["--dry-run", &to], 0));
    let (ran, plan) = dry.await.unwrap();
    assert_eq!(plan["images"][0]["status"], "would-push");
    assert!(
        plan["fetch_bytes"].as_u64().unwrap() > 3_000_000 && ran.stdout.contains("to push"),
        "{}",
        ran.stdout
    );
    assert!(server.seen().iter().all(|seen| matches!(seen.method.as_str(), "GET" | "HEAD")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_survives_connections_cut_mid_upload() {
    let (root, (tree, layer)) = (Scratch::new(), large());
    let registry = writable(&root);
    let broken = |number: usize, _: &mut fastrand::Rng| match number {
        0..9 => Conduct { takes: 700_000, ..Conduct::good() },
        _ => Conduct::good(),
    };
    let proxy = Proxy::start(registry.address.parse().unwrap(), 1, broken).await;
    let (dir, to) = (tree.dir().to_owned(), proxy.registry().to_string());
    let pushed = tokio::task::spawn_blocking(move || push(&Home::new(), &dir, &[&to], 0));
    let (_, report) = pushed.await.unwrap();
    assert!(rows(&report)[0]["attempts"].as_u64().unwrap() > 1, "{report:#}");
    let served = Store::open_read_only(root.path()).unwrap().read_content(&Digest::of(&layer), 4 << 20);
    assert_eq!(served.unwrap().as_deref(), Some(&layer[..]));
}

/// The unfinished uploads in the registry's directory `root`.
fn uploads(root: &Path) -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        // A directory that disappeared belonged to an upload that ended.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match dir.ends_with("_uploads") {
                true => _ = found.insert(path),
                false if !path.ends_with("blobs") => walk(&path, found),
                false => {}
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(root, &mut found);
    found
}

#[test]
fn push_after_kill_sends_the_rest() {
    let (home, root, fleet) = (Home::new(), Scratch::new(), Fleet::make(6));
    let registry = writable(&root);
    let dir = fleet.tree.dir().to_str().unwrap().to_owned();
    let mut kills = 0;
    for wait in [0, 20, 50, 90] {
        let command = ["push", "--dir", &dir, "--progress", "none", "--jobs", "2", &registry.address];
        let before = uploads(root.path());
        let mut victim = Victim::start(&mut home.saver(command));
        while uploads(root.path()).is_subset(&before) && victim.is_running() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait));
        kills += i32::from(victim.is_running());
        victim.kill();
    }
    assert!(kills > 0, "every run was done before it was killed");
    push(&home, fleet.tree.dir(), &[&registry.address], 0);
    for (name, digest) in tags(fleet.tree.dir()) {
        assert_eq!(Digest::of(raw(&format!("{}/{name}", registry.address)).as_bytes()), digest, "{name}");
    }
    super::support::fleet::assert_true(root.path(), "after the kills");
}

#[test]
fn copy_between_registries_and_mount_within_one() {
    let (home, root) = (Home::new(), Scratch::new());
    let (source, registry) = (Registry::serve(&samples()), writable(&root));
    let from = format!("{}/demo/app:1.0", source.address);
    let to = format!("{}/copied/app", registry.address);
    let (_, report) = sends(&home, &["copy", &from, &to], 0);
    assert_eq!(rows(&report)[0]["platforms"].as_array().unwrap().len(), 3);
    assert_eq!(raw(&format!("{to}:1.0")), raw(&from));
    assert_eq!(statuses(&sends(&home, &["copy", &from, &to], 0).1), ["unchanged"]);

    // To another repository and tag of the same registry: no bytes are sent.
    let other = format!("{}/other/app:v2", registry.address);
    let (_, report) = sends(&home, &["copy", &format!("{to}:1.0"), &other], 0);
    assert_eq!((&statuses(&report)[..], &report["bytes_fetched"]), (&["copied"][..], &Value::from(0)));
    assert_eq!(raw(&other), raw(&from));

    let one = format!("{}/one/app", registry.address);
    sends(&home, &["copy", &from, &one, "--arch", "arm64", "--index", "flatten"], 0);
    let inspected = succeed("skopeo", ["inspect", "--tls-verify=false", &format!("docker://{one}:1.0")]);
    assert!(inspected.contains("\"Architecture\": \"arm64\""), "{inspected}");
    let gone = peer("skopeo", ["inspect", "--tls-verify=false", &format!("docker://{one}:2.0")]);
    assert!(!gone.status.success());

    let (ran, _) = sends(&home, &["copy", &from, &from], 2);
    assert!(ran.stderr.contains("source and destination are the same"), "{}", ran.stderr);
    let (ran, _) = sends(&home, &["copy", &format!("{}/no:1", source.address), &to], 1);
    assert!(ran.stderr.contains("failed:"), "{}", ran.stderr);
}

#[test]
fn invalid_push_arguments_are_refused_early() {
    let (home, dir) = (Home::new(), samples());
    let dir = dir.to_str().unwrap();
    for (arguments, words) in [
        (&["push", "r.io"][..], "missing required option '--dir'"),
        (&["push", "--dir", dir], "missing required argument 'REGISTRY'"),
        (&["push", "--dir", dir, "https://r.io"], "without a scheme"),
        (&["push", "--dir", dir, "nginx:1.27"], "destination"),
        (&["push", "--dir", dir, "r.io/mirror", "demo/app:1.0"], "push --dir DIR demo/app:1.0 r.io/mirror"),
        (&["push", "--dir", dir, "--arch", "nope/x/y/z", "r.io"], "nope"),
        (&["copy", "nginx:1"], "missing required argument 'DESTINATION'"),
    ] {
        let ran = run(&mut home.saver(arguments)).expect(2);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("hint"), "{arguments:?}: {}", ran.stderr);
    }
}

/// Every copy of the layer is damaged, each at another place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_through_a_damaging_network_converges() {
    const MIB: usize = 1 << 20;
    let (source, target) = (FaultServer::start().await, FaultServer::start().await);
    let layer = noise(11, 4 * MIB + 5);
    source.add_image("big/app", "1.0", &[&layer]);
    let path = format!("/blobs/{}", Digest::of(&layer));
    // Offsets in what is sent. The third copy is compared with the second, and is requested again from the chunk on that differs.
    for flip in [100, MIB + 7, 2 * MIB + 1, 3 * MIB] {
        source.on("GET", &path).times(1).answer(Fault::Flip(flip));
    }
    let (from, to) =
        (format!("{}/big/app:1.0", source.registry()), format!("{}/big/app:1.0", target.registry()));
    let (ran, report) =
        tokio::task::spawn_blocking(move || sends(&Home::new(), &["copy", &from, &to], 0)).await.unwrap();
    assert_eq!(target.blob(&Digest::of(&layer)).as_deref(), Some(&layer[..]));
    let row = &rows(&report)[0];
    assert!(row["corrupt_chunks"].as_u64() >= Some(2), "{row}");
    assert!(row["warnings"][0].as_str().unwrap().contains("arrived damaged and was repaired"), "{row}");
    assert!(ran.stdout.contains("corrupt") && ran.stdout.contains(" chunks, 1 in "), "{}", ran.stdout);
}
