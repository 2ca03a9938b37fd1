//! Pruning and removing: what is kept stays whole, the rest goes, and wherever it is stopped the tree is true.

use super::support::handmade::{Tree, write};
use super::support::peers::registry::{Registry, garbage_collect};
use super::support::peers::{samples, succeed};
use super::support::stopping::{Count, Stopping};
use super::support::tree::{Files, files};
use super::verify::{look, saver};
use crate::support::scratch::Scratch;
use saver::ErrorKind;
use saver::driver::{Driver, MemoryDriver};
use saver::oci::{Descriptor, Digest, Reference};
use saver::prune::{PruneOptions, PruneReport, prune, remove};
use saver::store::{Store, StoreOptions};
use saver::verify::{VerifyOptions, verify};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Images that share layers, with referrers, a short name, a pinned manifest and leftovers.
struct Made {
    tree: Tree,
    index: Descriptor,
    amd64: Descriptor,
    signature: Descriptor,
    sbom: Descriptor,
    of_sbom: Descriptor,
    pinned: Descriptor,
}

fn made() -> Made {
    let tree = Tree::new();
    let amd64 = tree.image("team/app", "linux/amd64", &[b"shared", b"amd64 only"]);
    let arm = tree.image("team/app", "linux/arm/v7", &[b"shared", b"arm only"]);
    let index = tree.index("team/app", &[amd64.clone(), arm]);
    tree.tag("team/app", "1", &index.digest);
    let next = tree.image("team/app", "linux/amd64", &[b"shared", b"next"]);
    tree.tag("team/app", "2", &next.digest);
    // Found by its tag alone, as cosign's are.
    let signature = tree.chart("team/app", "9.9.9");
    tree.tag("team/app", &format!("sha256-{}.sig", index.digest.hex()), &signature.digest);
    let sbom = tree.artifact("team/app", "application/sbom", &amd64);
    let of_sbom = tree.artifact("team/app", "application/signature", &sbom);
    for name in ["library/hello", "hello"] {
        let hello = tree.image(name, "linux/amd64", &[b"hello"]);
        tree.tag(name, "1.0", &hello.digest);
    }
    let other = tree.image("other", "linux/amd64", &[b"shared", b"other only"]);
    tree.tag("other", "1", &other.digest);
    let pinned = tree.image("pinned", "linux/amd64", &[b"pinned"]);
    std::fs::create_dir_all(tree.repository("pinned").join("_manifests/tags")).unwrap();
    tree.content(b"left over");
    Made { tree, index, amd64, signature, sbom, of_sbom, pinned }
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

fn open(dir: &Path) -> Store {
    Store::open_read_only(dir).unwrap()
}

fn keep(dir: &Path, names: &[&str]) -> saver::Result<PruneReport> {
    let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
    prune(&open(dir), &names, &PruneOptions::default())
}

fn take(dir: &Path, names: &[&str]) -> saver::Result<PruneReport> {
    let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
    remove(&open(dir), &names, &PruneOptions::default())
}

/// The tags of a tree that is clean, with nothing in it that nothing needs.
fn tags(dir: &Path) -> Vec<String> {
    tags_of(&open(dir))
}

fn tags_of(store: &Store) -> Vec<String> {
    let mut options = VerifyOptions::default();
    options.deep = true;
    let report = verify(store, &options).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let of = |repository: &saver::oci::Repository| -> Vec<String> {
        store.tags(repository).unwrap().iter().map(|tag| format!("{repository}:{tag}")).collect()
    };
    store.repositories().unwrap().iter().flat_map(of).collect()
}

fn has(made: &Made, name: &str, digest: &Digest) -> bool {
    made.tree.revision_link(name, digest).exists() && made.tree.data(digest).exists()
}

#[test]
fn prune_keeps_only_what_listed_images_need() {
    let made = made();
    let dir = made.tree.dir();
    let before: u64 = look(dir, false).blob_bytes;
    let report = keep(dir, &["quay.io/team/app:1", "hello:1.0"]).unwrap();
    let signature = format!("team/app:sha256-{}.sig", made.index.digest.hex());
    assert_eq!(tags(dir), ["hello:1.0", "library/hello:1.0", "team/app:1", &signature]);
    assert_eq!(report.tags, ["other:1", "team/app:2"]);
    assert_eq!(report.repositories.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["other", "pinned"]);
    for kept in [&made.index, &made.amd64, &made.signature, &made.sbom, &made.of_sbom] {
        assert!(has(&made, "team/app", &kept.digest), "{kept:?}");
    }
    let after = look(dir, true);
    assert_eq!(after.notes, [], "nothing is left that nothing links to");
    assert_eq!(before - after.blob_bytes, report.bytes_freed);
    assert!(!made.tree.repository("other").exists() && !made.tree.repository("pinned").exists());
    assert!(made.tree.data(&Digest::of(b"shared")).exists());
    assert!(!made.tree.data(&Digest::of(b"other only")).exists());
    assert!(!made.tree.data(&Digest::of(b"left over")).exists());
    let again = keep(dir, &["quay.io/team/app:1", "hello:1.0"]).unwrap();
    assert_eq!((again.tags.len(), again.blobs.len(), again.manifests.len()), (0, 0, 0));
}

#[test]
fn prune_keeps_a_manifest_listed_by_digest() {
    let made = made();
    let pinned = format!("pinned@{}", made.pinned.digest);
    // Docker's normal form puts a bare name into library/.
    let pinned = format!("quay.io/{pinned}");
    let report = keep(made.tree.dir(), &[&pinned, "quay.io/team/app:3"]).unwrap();
    assert!(has(&made, "pinned", &made.pinned.digest));
    assert_eq!(tags(made.tree.dir()), Vec::<String>::new());
    assert_eq!(report.absent, [reference("quay.io/team/app:3")]);
    assert_eq!(report.tags_kept, 0);
}

#[test]
fn list_without_any_stored_image_is_rejected() {
    let made = made();
    let before = files(made.tree.dir());
    for names in [&[][..], &["quay.io/nothing:1"], &["quay.io/team/app:7", "nginx"]] {
        let error = keep(made.tree.dir(), names).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let same = files(made.tree.dir());
    let lock = ".saver/lock".to_owned();
    assert!(same.iter().filter(|(path, _)| **path != lock).eq(before.iter()));
}

#[test]
fn prune_dry_run_changes_nothing() {
    let made = made();
    let before = files(made.tree.dir());
    let mut options = PruneOptions::default();
    options.dry_run = true;
    let names = [reference("quay.io/team/app:1")];
    let planned = prune(&open(made.tree.dir()), &names, &options).unwrap();
    assert_eq!(files(made.tree.dir()), before);
    let done = keep(made.tree.dir(), &["quay.io/team/app:1"]).unwrap();
    assert_eq!(
        (&planned.tags, &planned.manifests, &planned.blobs),
        (&done.tags, &done.manifests, &done.blobs)
    );
    assert_eq!(planned.bytes_freed, done.bytes_freed);
}

/// The files, on a medium without a disk's slowness.
pub(super) fn in_memory(files: &Files) -> MemoryDriver {
    let driver = MemoryDriver::new();
    for (path, content) in files {
        driver.stage("staged", content).unwrap();
        driver.publish("staged", path).unwrap();
        // An empty directory of tags is no file.
        if let Some((repository, _)) = path.split_once("/_manifests/") {
            driver.create_dir(&format!("{repository}/_manifests/tags")).unwrap();
        }
    }
    driver
}

/// All files but those in the stage area of an ended process, which the next one on a disk removes.
fn kept_files(driver: &MemoryDriver) -> Files {
    let mut files = driver.files();
    files.retain(|path, _| !path.starts_with(".saver/stage/"));
    files
}

/// Runs `work` on a driver that stops after so many changes, for every number of them.
fn stopped_everywhere(work: impl Fn(&Store) -> saver::Result<PruneReport>, left: &[&str], finishes: bool) {
    let before = files(made().tree.dir());
    let store = |driver| Store::with_driver(driver, StoreOptions::default());
    let whole = in_memory(&before);
    work(&store(Arc::new(whole.clone()))).unwrap();
    for writes in 0.. {
        let memory = in_memory(&before);
        let count = Count::new(writes);
        let ended = work(&store(Arc::new(Stopping::new(memory.clone(), &count))));
        let left_over = store(Arc::new(memory.clone()));
        let there = tags_of(&left_over);
        assert!(left.iter().all(|tag| there.iter().any(|one| one == tag)), "after {writes}: {there:?}");
        if ended.is_ok() {
            assert!(writes > 20, "{writes}");
            return;
        }
        assert!(count.has_stopped());
        match (work(&left_over), finishes) {
            (Ok(_), true) => {
                let (done, expected) = (kept_files(&memory), kept_files(&whole));
                let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
                assert_eq!(names(&done), names(&expected), "after {writes}");
                assert!(done == expected, "after {writes}");
            }
            // Removing by name again finds the name gone; what the first left over is for a prune.
            (Ok(_), false) => {}
            (Err(error), _) => {
                assert!(!finishes && error.kind() == ErrorKind::NotFound, "after {writes}: {error}");
            }
        }
        tags_of(&left_over);
    }
}

#[test]
fn interrupted_prune_leaves_a_consistent_tree() {
    let names = [reference("quay.io/team/app:2"), reference("library/hello:1.0")];
    stopped_everywhere(
        |store| prune(store, &names, &PruneOptions::default()),
        &["team/app:2", "library/hello:1.0", "hello:1.0"],
        true,
    );
}

#[test]
fn interrupted_rm_leaves_a_consistent_tree() {
    let names = [reference("quay.io/team/app:1")];
    stopped_everywhere(
        |store| remove(store, &names, &PruneOptions::default()),
        &["team/app:2", "other:1", "library/hello:1.0", "hello:1.0"],
        false,
    );
}

#[test]
fn rm_removes_referrers_and_unshared_content() {
    let made = made();
    let dir = made.tree.dir();
    let report = take(dir, &["quay.io/team/app:1"]).unwrap();
    assert_eq!(tags(dir), ["hello:1.0", "library/hello:1.0", "other:1", "team/app:2"]);
    assert_eq!(report.tags.len(), 2, "its signature goes too: {:?}", report.tags);
    for gone in [&made.index, &made.amd64, &made.signature, &made.sbom, &made.of_sbom] {
        assert!(!has(&made, "team/app", &gone.digest), "{gone:?}");
    }
    assert!(made.tree.data(&Digest::of(b"shared")).exists());
    assert!(!made.tree.data(&Digest::of(b"arm only")).exists());
    // What was not asked about stays, be it of use or not.
    assert!(has(&made, "pinned", &made.pinned.digest));
    assert!(made.tree.data(&Digest::of(b"left over")).exists());
}

#[test]
fn rm_keeps_content_that_other_images_reference() {
    let made = made();
    let dir = made.tree.dir();
    made.tree.tag("team/app", "amd64", &made.amd64.digest);
    made.tree.tag("team/app", "latest", &made.index.digest);
    let report = take(dir, &["quay.io/team/app:amd64", "quay.io/team/app:1"]).unwrap();
    assert_eq!((report.tags.len(), report.manifests.len(), report.blobs.len()), (2, 0, 0));
    // A signature can go alone.
    let signature = format!("quay.io/team/app:sha256-{}.sig", made.index.digest.hex());
    let report = take(dir, &[&signature]).unwrap();
    assert_eq!((report.tags.len(), report.manifests.len()), (1, 1));
    assert!(has(&made, "team/app", &made.index.digest));
    // A part of an image can't.
    let part = format!("quay.io/team/app@{}", made.amd64.digest);
    assert_eq!(take(dir, &[&part]).unwrap_err().kind(), ErrorKind::InvalidInput);
    // The whole by its digest takes its tags along.
    let whole = format!("quay.io/team/app@{}", made.index.digest);
    assert_eq!(take(dir, &[&whole]).unwrap().tags, ["team/app:latest"]);
    assert_eq!(tags(dir), ["hello:1.0", "library/hello:1.0", "other:1", "team/app:2"]);
}

#[test]
fn rm_removes_a_short_name_only_with_its_image() {
    let made = made();
    let dir = made.tree.dir();
    assert_eq!(take(dir, &["hello:1.0"]).unwrap().tags, ["hello:1.0", "library/hello:1.0"]);
    let made = self::made();
    let dir = made.tree.dir();
    let another = made.tree.image("hello", "linux/amd64", &[b"another hello"]);
    made.tree.tag("hello", "1.0", &another.digest);
    assert_eq!(take(dir, &["hello:1.0"]).unwrap().tags, ["library/hello:1.0"]);
    assert_eq!(take(dir, &["quay.io/hello:1.0"]).unwrap().tags, ["hello:1.0"]);
    assert_eq!(take(dir, &["quay.io/hello:1.0"]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn unreadable_manifest_protects_its_repository() {
    let made = made();
    made.tree.allow_damage("an index is no index");
    write(&made.tree.data(&made.index.digest), b"{}");
    let report = keep(made.tree.dir(), &["quay.io/team/app:1"]).unwrap();
    assert_eq!(report.unclear.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["team/app"]);
    assert!(has(&made, "team/app", &made.amd64.digest));
    assert!(made.tree.data(&Digest::of(b"arm only")).exists());
    assert!(!made.tree.repository("other").exists());
}

#[test]
fn prune_changes_nothing_outside_the_tree() {
    let made = made();
    made.tree.allow_damage("symbolic links lead out of it");
    let outside = Scratch::new();
    let other = self::made();
    fs::rename(other.tree.dir().join("docker"), outside.path().join("docker")).unwrap();
    let repositories = outside.path().join("docker/registry/v2/repositories");
    std::os::unix::fs::symlink(repositories.join("other"), made.tree.repository("planted")).unwrap();
    std::os::unix::fs::symlink(
        repositories.join("team/app/_manifests/tags/1"),
        made.tree.repository("team/app").join("_manifests/tags/planted"),
    )
    .unwrap();
    std::os::unix::fs::symlink(outside.path(), made.tree.repository("other").join("_manifests/tags/1/x"))
        .unwrap();
    let before = files(outside.path());
    keep(made.tree.dir(), &["quay.io/team/app:1"]).unwrap();
    assert!(!made.tree.repository("other").exists());
    assert_eq!(files(outside.path()), before);
}

#[test]
fn save_and_prune_exclude_each_other() {
    let made = made();
    let dir = made.tree.dir();
    let list = made.tree.dir().join("keep.list");
    fs::write(&list, "quay.io/team/app:1\n").unwrap();
    let list = list.to_str().unwrap();
    let saving = open(dir).lock_shared(std::time::Duration::ZERO).unwrap();
    for command in [&["prune", "--keep", list][..], &["rm", "quay.io/team/app:1"]] {
        let (code, _, err) = saver(command, dir);
        assert_eq!(code, Some(3), "{err}");
        assert!(err.contains(&format!("process {}", std::process::id())), "{err}");
    }
    drop(saving);
    let pruning = open(dir).lock_exclusive("prune", std::time::Duration::ZERO).unwrap();
    let (code, _, err) = saver(&["save", "--arch", "amd64", "127.0.0.1:1/a:1"], dir);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains(&format!("saver prune (process {}, since ", std::process::id())), "{err}");
    drop(pruning);
    assert_eq!(saver(&["prune", "--keep", list], dir).0, Some(0));
}

#[test]
fn garbage_collection_after_prune_finds_nothing() {
    let dir = Scratch::new();
    let source = Registry::serve(&samples());
    let list = tempfile::NamedTempFile::new().unwrap();
    let text = include_str!("../../testdata/imageList").replace("localhost:5000", &source.address);
    fs::write(list.path(), text).unwrap();
    let path = list.path().to_str().unwrap();
    let (code, out, err) =
        saver(&["save", "--list", path, "--arch", "all", "--plain-http", &source.address], dir.path());
    assert_eq!(code, Some(0), "{out}{err}");
    fs::write(list.path(), format!("{0}/demo/tool:2.1\n{0}/demo/nested:1.0\n", source.address)).unwrap();
    let (code, out, err) = saver(&["prune", "--keep", path], dir.path());
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains(" freed, 2 tags left\n"), "{out}");
    assert_eq!(tags(dir.path()), ["demo/nested:1.0", "demo/tool:2.1"]);
    let said = garbage_collect(dir.path(), false);
    assert!(said.contains("0 blobs and 0 manifests eligible for deletion"), "{said}");
    let registry = Registry::serve(dir.path());
    for name in ["demo/tool:2.1", "demo/nested:1.0"] {
        let image = format!("docker://{}/{name}", registry.address);
        succeed("skopeo", ["inspect", "--raw", "--tls-verify=false", &image]);
    }
}

#[test]
fn prune_and_rm_report_what_they_removed() {
    let made = made();
    let dir = made.tree.dir();
    let (code, out, _) = saver(&["rm", "--dry-run", "quay.io/team/app:2"], dir);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("would remove team/app:2\nwould remove 1 tag, 1 manifest, 2 blobs; "), "{out}");
    let (code, out, _) = saver(&["rm", "--json", "quay.io/team/app:2"], dir);
    assert_eq!(code, Some(0));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["tags"], serde_json::json!(["team/app:2"]));
    let (code, _, err) = saver(&["rm", "quay.io/team/app:2"], dir);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("quay.io/team/app:2: there is no such image in the directory"), "{err}");
    assert_eq!(saver(&["rm"], dir).0, Some(2));
    let (code, _, err) = saver(&["rm", "quay.io/team/app"], dir);
    assert_eq!(code, Some(2));
    assert!(err.contains("quay.io/team/app: this names neither a tag nor a digest"), "{err}");
    assert!(err.contains("write quay.io/team/app:latest"), "{err}");
    assert_eq!(saver(&["prune"], dir).0, Some(2));
    assert_eq!(saver(&["prune", "--keep", "/nonexistent"], dir).0, Some(2));
}
