//! `saver gc` and the space that `saver ls` tells: what is needed, by whom, and what nobody needs.

use super::support::handmade::{Tree, write};
use super::support::peers::registry::Registry;
use super::support::program::{Home, run};
use super::support::registry_model::assert_served;
use super::verify::look;
use crate::support::scratch::Scratch;
use saver::oci::Descriptor;
use saver::store::Store;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

fn ls(home: &Home, dir: &Path, more: &[&str]) -> Value {
    let ran = run(home.saver(["ls", "--json", "--dir"]).arg(dir).args(more)).expect(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn gc(home: &Home, dir: &Path, more: &[&str]) -> Value {
    let ran = run(home.saver(["gc", "--json", "--dir"]).arg(dir).args(more)).expect(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn blob_bytes(dir: &Path) -> u64 {
    super::support::fleet::blob_bytes(dir)
}

/// A tag that has moved, an image that never had a tag, a blob of nobody, an interrupted download and a damaged file.
fn littered() -> (Tree, Descriptor) {
    let tree = Tree::new();
    let old = tree.image("team/app", "linux/amd64", &[b"base", b"old"]);
    tree.tag("team/app", "1", &old.digest);
    let new = tree.image("team/app", "linux/amd64", &[b"base", b"new"]);
    tree.tag("team/app", "1", &new.digest);
    let pinned = tree.image("team/app", "linux/amd64", &[b"base", b"pinned"]);
    tree.content(b"of nobody");
    write(&tree.dir().join(".saver/partial/sha256/0.9"), b"half");
    write(&tree.dir().join(".saver/damaged/docker/x"), b"broken");
    (tree, pinned)
}

#[test]
fn gc_removes_only_what_no_image_needs() {
    let (tree, pinned) = littered();
    let (home, dir) = (Home::new(), tree.dir());
    let before = super::support::tree::files(dir);
    let planned = gc(&home, dir, &["--dry-run"]);
    assert!(super::support::tree::files(dir) == before, "a dry run changed something");
    let removed = gc(&home, dir, &[]);
    for field in ["tags", "manifests", "blobs", "bytes_freed", "internal_removed"] {
        assert_eq!(planned[field], removed[field], "{field}");
    }
    assert_eq!(removed["tags"], json!([]));
    assert_eq!(removed["manifests"].as_array().unwrap().len(), 1, "{removed}");
    assert_eq!(removed["internal_removed"]["partial"], json!({ "files": 1, "bytes": 4 }));
    assert_eq!(removed["internal_removed"]["damaged"], json!({ "files": 1, "bytes": 6 }));
    let freed = before.keys().filter(|path| path.ends_with("/data")).map(|path| before[path].len() as u64);
    assert_eq!(removed["bytes_freed"].as_u64().unwrap(), freed.sum::<u64>() - blob_bytes(dir));
    assert!(look(dir, true).problems.is_empty());
    assert_served(dir);
    let listed = ls(&home, dir, &[]);
    assert_eq!(listed["repositories"][0]["untagged"][0]["digest"], json!(pinned.digest));
    assert_eq!(listed["totals"]["unreferenced"], json!({ "files": 0, "bytes": 0 }));
    assert_eq!(gc(&home, dir, &[])["blobs"], json!([]), "a second run finds nothing");
}

#[test]
fn gc_refuses_to_run_beside_a_saver() {
    let (tree, _) = littered();
    let home = Home::new();
    let store = Store::open(tree.dir(), saver::store::StoreOptions::default()).unwrap();
    let saver = store.lock_shared(Duration::ZERO).unwrap();
    let ran = run(home.saver(["gc"]).arg(tree.dir())).expect(3);
    assert!(ran.stderr.contains("locked by"), "{}", ran.stderr);
    drop(saver);
    run(home.saver(["gc"]).arg(tree.dir())).expect(0);
}

#[test]
fn image_saved_by_digest_is_kept_until_it_is_removed() {
    let source = Tree::new();
    let image = source.image("team/app", "linux/amd64", &[b"layer"]);
    source.tag("team/app", "1", &image.digest);
    let registry = Registry::serve(source.dir());
    let (home, dir) = (Home::new(), Scratch::new());
    let name = format!("{}/team/app@{}", registry.address, image.digest);
    home.save(dir.path(), "amd64", std::slice::from_ref(&name), &[], 0);
    gc(&home, dir.path(), &[]);
    let listed = ls(&home, dir.path(), &[]);
    assert_eq!((&listed["totals"]["tags"], &listed["totals"]["untagged"]), (&json!(0), &json!(1)));
    let untagged = &listed["repositories"][0]["untagged"][0];
    assert_eq!((&untagged["source"], &untagged["bytes"]), (&json!(name), &json!(blob_bytes(dir.path()))));
    let table = run(home.saver(["ls"]).arg(dir.path())).expect(0).stdout;
    assert!(table.contains("0 tags, 1 image without a tag") && table.contains(&name), "{table}");
    run(home.saver(["rm", "--dir"]).arg(dir.path()).arg(&name)).expect(0);
    assert_eq!(blob_bytes(dir.path()), 0);
}

#[test]
fn sizes_tell_what_is_shared_and_agree_with_the_disk() {
    let tree = Tree::new();
    for (name, layers) in [("a/big", &[&[1; 9000][..], &[2; 700]][..]), ("a/small", &[&[1; 9000], &[3; 50]])]
    {
        let image = tree.image(name, "linux/amd64", layers);
        tree.tag(name, "1", &image.digest);
    }
    let alone = tree.image("b/alone", "linux/amd64", &[&[4; 20_000]]);
    tree.tag("b/alone", "1", &alone.digest);
    tree.tag("b/alone", "2", &alone.digest);
    tree.content(b"of nobody");
    let (home, dir) = (Home::new(), tree.dir());
    let listed = ls(&home, dir, &["--sort", "size"]);
    let names: Vec<&Value> =
        listed["repositories"].as_array().unwrap().iter().map(|one| &one["repository"]).collect();
    assert_eq!(names, ["b/alone", "a/big", "a/small"]);
    let totals = &listed["totals"];
    let sum = totals["bytes"].as_u64().unwrap() + totals["unreferenced"]["bytes"].as_u64().unwrap();
    assert_eq!(sum, blob_bytes(dir));
    let (shared, big) = (&listed["repositories"][0], &listed["repositories"][1]);
    // All images have the same configuration.
    let unique = shared["unique_bytes"].as_u64().unwrap();
    assert!(unique >= 20_000 && unique < shared["bytes"].as_u64().unwrap(), "{shared}");
    assert_eq!(shared["tags"][0]["unique_bytes"], json!(0), "both tags share everything");
    let unique = big["tags"][0]["unique_bytes"].as_u64().unwrap();
    assert!(unique >= 700 && unique + 9000 <= big["bytes"].as_u64().unwrap(), "{big}");
    for (pattern, expected) in [("a/*", 2), ("*/small:1", 1), ("b/alone:?", 1), ("nothing", 0)] {
        let listed = ls(&home, dir, &["--match", pattern]);
        assert_eq!(listed["repositories"].as_array().unwrap().len(), expected, "{pattern}");
    }
}
