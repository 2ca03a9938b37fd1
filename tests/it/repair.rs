//! Repairing trees: what is not true goes, what is whole stays, wherever the repair is stopped.

use super::prune::in_memory;
use super::support::handmade::{Tree, write};
use super::support::peers::registry::{Registry, garbage_collect};
use super::support::peers::samples;
use super::support::stopping::{Count, Stopping};
use super::support::tree::files;
use super::verify::{CASES, Made, look, made, saver};
use crate::support::scratch::Scratch;
use saver::oci::Digest;
use saver::store::{Store, StoreOptions};
use saver::verify::{Repair, Taken, VerifyOptions, repair, verify};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn deep() -> VerifyOptions {
    let mut options = VerifyOptions::default();
    options.deep = true;
    options
}

fn mend(dir: &Path) -> Repair {
    repair(&open(dir), &deep()).unwrap()
}

fn open(dir: &Path) -> Store {
    Store::open_read_only(dir).unwrap()
}

/// The tags that are there.
fn tags(dir: &Path) -> Vec<String> {
    let store = Store::open_read_only(dir).unwrap();
    let mut found = Vec::new();
    for repository in store.repositories().unwrap() {
        for tag in store.tags(&repository).unwrap() {
            if store.read_tag(&repository, &tag).unwrap().is_some() {
                found.push(format!("{repository}:{tag}"));
            }
        }
    }
    found
}

#[test]
fn indexes_above_a_damaged_image_go_in_one_repair() {
    let tree = Tree::new();
    let image = tree.image("team/app", "linux/amd64", &[b"layer"]);
    let inner = tree.index("team/app", std::slice::from_ref(&image));
    let outer = tree.index("team/app", std::slice::from_ref(&inner));
    tree.tag("team/app", "nested", &outer.digest);
    let other = tree.image("team/app", "linux/amd64", &[b"intact"]);
    tree.tag("team/app", "intact", &other.digest);
    fs::write(tree.data(&Digest::of(b"layer")), b"LAYER").unwrap();
    let repaired = mend(tree.dir());
    assert_eq!(repaired.lost, ["team/app:nested"]);
    assert!(repaired.after.is_clean(), "{:?}", repaired.after.problems);
    assert_eq!(tags(tree.dir()), ["team/app:intact"]);
    assert!(verify(&open(tree.dir()), &deep()).unwrap().is_clean());
}

#[test]
fn repair_removes_damage_and_keeps_complete_tags() {
    // Links are written anew where all that they lead to is there.
    let mended = [
        "a layer's link is not there",
        "a layer's link is empty",
        "a layer's link names another",
        "a revision's link is empty",
        "a revision's link ends with a newline",
        "no directory of layers",
        "no directory of tags",
    ];
    for case in CASES {
        let made = made();
        (case.damage)(&made);
        let dir = made.tree.dir();
        let broken = look(dir, true).broken;
        let before = tags(dir);
        let done = mend(dir);
        assert!(done.after.is_clean(), "{}: {done:#?}", case.name);
        assert_eq!(done.taken.is_empty(), case.found.is_empty(), "{}: {:?}", case.name, done.taken);
        let lost = if mended.contains(&case.name) { Vec::new() } else { broken };
        assert_eq!(done.lost, lost, "{}", case.name);
        let left: Vec<_> = before.into_iter().filter(|tag| !lost.contains(tag)).collect();
        assert_eq!(tags(dir), left, "{}", case.name);
        let again = look(dir, true);
        assert!(again.is_clean(), "{}: {again:#?}", case.name);
        assert_eq!(mend(dir).taken, [], "{}: a second repair finds nothing to do", case.name);
        garbage_collect(dir, false);
        garbage_collect(dir, true);
    }
}

#[test]
fn damaged_content_is_set_aside() {
    let made = made();
    let data = made.tree.data(&made.arm_layer);
    write(&data, b"arm onlY");
    let done = mend(made.tree.dir());
    let aside = done.taken.iter().find_map(|taken| match taken {
        Taken::SetAside { path, to } if data.ends_with(path) => Some(to),
        _ => None,
    });
    assert_eq!(fs::read(made.tree.dir().join(aside.unwrap())).unwrap(), b"arm onlY");
    assert!(!data.exists());
    assert_eq!(done.lost, ["app:1"]);
    assert_eq!(tags(made.tree.dir()), ["app:amd64", "other:1"]);
}

/// Damage of many kinds at once.
fn damage(made: &Made) {
    write(&made.tree.data(&made.arm_layer), b"arm onlY");
    write(&made.tree.layer_link("app", &made.shared), b"");
    let gone = Digest::of(b"gone");
    write(&made.tree.layer_link("other", &gone), gone.to_string().as_bytes());
    write(&made.tree.repository("app").join("_manifests/tags/stray"), b"x");
    write(&made.tree.dir().join("docker/registry/v2/blobs/sha256/aa/odd/data"), b"x");
}

#[test]
fn interrupted_repair_adds_no_damage() {
    let made = made();
    made.tree.allow_damage("all kinds of damage");
    damage(&made);
    let files = files(made.tree.dir());
    let store = |driver| Store::with_driver(driver, StoreOptions::default());
    let look = |store: &Store| verify(store, &deep()).unwrap();
    let before = look(&open(made.tree.dir()));
    for writes in 0.. {
        let memory = in_memory(&files);
        let count = Count::new(writes);
        let ended = repair(&store(Arc::new(Stopping::new(memory.clone(), &count))), &deep());
        let left = store(Arc::new(memory));
        let report = look(&left);
        for tag in &report.broken {
            assert!(before.broken.contains(tag), "after {writes}: {tag} was whole, {report:#?}");
        }
        assert!(report.problems.len() <= before.problems.len(), "after {writes}: {report:#?}");
        for whole in ["app:amd64", "other:1"] {
            let (name, tag) = whole.split_once(':').unwrap();
            let there = left.read_tag(&name.parse().unwrap(), &tag.parse().unwrap()).unwrap();
            assert!(there.is_some(), "after {writes}: {whole}");
        }
        if ended.is_ok() {
            assert!(writes > 10, "{writes}");
            return;
        }
        assert!(count.has_stopped());
        let done = repair(&left, &deep()).unwrap();
        assert!(done.after.is_clean(), "after {writes}: {done:#?}");
    }
}

#[test]
fn tree_behind_a_symlink_is_left_alone() {
    let dir = Scratch::new();
    std::os::unix::fs::symlink(samples().join("docker"), dir.path().join("docker")).unwrap();
    let done = mend(dir.path());
    assert_eq!((done.taken, done.after.problems.len()), (Vec::new(), 1));
}

#[test]
fn lost_images_are_saved_again() {
    let source = Registry::serve(&samples());
    let dir = Scratch::new();
    let list = tempfile::NamedTempFile::new().unwrap();
    let text: String = ["demo/app:1.0", "mirror/app:1.0", "demo/single:1.0"]
        .map(|name| format!("{}/{name}\n", source.address))
        .concat();
    fs::write(list.path(), text).unwrap();
    let list = list.path().to_str().unwrap();
    let flags = ["--list", list, "--arch", "amd64", "--plain-http", &source.address];
    let (code, out, err) = saver(&[&["save"], &flags[..]].concat(), dir.path());
    assert_eq!(code, Some(0), "{out}{err}");
    let store = Store::open_read_only(dir.path()).unwrap();
    // The one layer that demo/single and nothing else has.
    let layer = "e4722289201362df71b6013544989910314e9b51428f641821c5b45d3358bfde";
    let digest = Digest::from_hex(layer).unwrap();
    let data = dir.path().join(store.blob_path(&digest));
    let sound = fs::read(&data).unwrap();
    write(&data, &vec![0; sound.len()]);
    let repair = ["verify", "--deep", "--repair"];
    let (code, out, _) = saver(&repair[..1], dir.path());
    assert_eq!(code, Some(0), "the size is right: {out}");
    let (code, out, err) = saver(&[&repair[..], &flags[..]].concat(), dir.path());
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("lost: demo/single:1.0\n"), "{out}");
    assert_eq!(fs::read(&data).unwrap(), sound);
    assert!(look(dir.path(), true).is_clean());
    write(&data, b"");
    let (code, out, _) = saver(&repair, dir.path());
    assert_eq!(code, Some(1), "a tag was lost: {out}");
    let (code, out, _) = saver(&repair, dir.path());
    assert_eq!(code, Some(0), "{out}");
}

#[test]
fn save_and_repair_exclude_each_other() {
    let made = made();
    damage(&made);
    let store = Store::open_read_only(made.tree.dir()).unwrap();
    let saving = store.lock_shared(std::time::Duration::ZERO).unwrap();
    let (code, _, err) = saver(&["verify", "--repair"], made.tree.dir());
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains(&format!("process {}", std::process::id())), "{err}");
    drop(saving);
    assert_eq!(saver(&["verify", "--deep", "--repair"], made.tree.dir()).0, Some(1));
}
