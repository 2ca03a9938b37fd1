//! Several savers in one directory at once, and savers beside somebody who takes something away.

use crate::support::scratch::Scratch;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use saver::content::{Ingest, Sink};
use saver::oci::Descriptor;
use saver::store::{Store, StoreOptions};

use super::support::fleet::{Fleet, assert_true, blob_bytes};
use super::support::peers::registry::Registry;
use super::support::program::{Home, Victim, run};
use super::support::relay::Relay;
use super::support::tree::files;

/// Waits until `there` is true, which nothing announces.
fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if there() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: not within 30 s");
}

/// How often each blob was asked for.
fn blobs_asked(relay: &Relay) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    // A large blob may come in parts: what counts is where its first byte comes from.
    let from_the_start = |line: &String| !line.contains("bytes=") || line.contains("bytes=0-");
    for line in relay.asked().into_iter().filter(from_the_start) {
        if let (true, Some((_, rest))) = (line.starts_with("GET "), line.split_once("/blobs/")) {
            *counts.entry(rest.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn saves_with_overlapping_lists_share_downloads() {
    let fleet = Fleet::make(12);
    let source = Registry::serve(fleet.tree.dir());
    let relay = Relay::start(&source.address);
    let images = fleet.references(&relay.address);
    let home = Home::new();
    let alone = Scratch::new();
    home.save(alone.path(), "amd64", &images, &[], 0);
    let once = blobs_asked(&relay);
    assert!(once.values().all(|count| *count == 1), "{once:?}");

    for round in 0..2 {
        relay.reset();
        // Slow enough for all of them to be at work together.
        relay.limit(30 << 20);
        let dir = Scratch::new();
        let mut backwards = images.clone();
        backwards.reverse();
        let lists = [&images[..8], &images[4..], &images[..], &backwards[..]];
        let savers: Vec<Victim> =
            lists.iter().map(|list| Victim::start(&mut home.saving(dir.path(), "amd64", list))).collect();
        for saver in savers {
            saver.finish().expect(0);
        }
        assert_true(dir.path(), &format!("round {round}"));
        assert!(files(&dir.path().join("docker")) == files(&alone.path().join("docker")), "round {round}");
        let asked = blobs_asked(&relay);
        assert_eq!(asked.keys().collect::<Vec<_>>(), once.keys().collect::<Vec<_>>());
        let twice: Vec<_> = asked.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "round {round}: asked for more than once: {twice:?}");
        // Manifests come for each saver, blobs for all; a stream that gives up a part had some of it on its way.
        assert!(relay.passed() < blob_bytes(dir.path()) + (4 << 20), "{} bytes came", relay.passed());
    }
}

#[test]
fn save_resumes_the_blobs_of_a_killed_save() {
    let fleet = Fleet::make(6);
    let source = Registry::serve(fleet.tree.dir());
    let relay = Relay::start(&source.address);
    relay.limit(8 << 20);
    let images = fleet.references(&relay.address);
    let (home, dir) = (Home::new(), Scratch::new());
    let first = Victim::start(&mut home.saving(dir.path(), "amd64", &images));
    wait_until("the first has begun", || relay.passed() > 4 << 20);
    let second = Victim::start(&mut home.saving(dir.path(), "amd64", &images));
    // Each asks once what every tag names.
    let heads = || relay.asked().iter().filter(|line| line.starts_with("HEAD ")).count();
    wait_until("the second has begun", || heads() > images.len());
    first.kill();
    relay.limit(0);
    second.finish().expect(0);
    assert_true(dir.path(), "after the first was killed");
    let needed = blob_bytes(dir.path());
    assert!(relay.passed() < needed + (5 << 20), "{} bytes came, {needed} were needed", relay.passed());
}

/// A process that holds the lock of `dir` alone, and is no saver.
fn hold_alone(dir: &Path) -> Child {
    let hold = "import fcntl, sys\nlock = open(sys.argv[1], 'a')\nfcntl.flock(lock, fcntl.LOCK_EX)\n\
                print('held', flush=True)\nsys.stdin.read()";
    let lock = dir.join(".saver/lock");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", hold]).arg(lock).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_for_another_save_is_logged_once() {
    let fleet = Fleet::make(2);
    let source = Registry::serve(fleet.tree.dir());
    let images = fleet.references(&source.address);
    let (home, alone, dir) = (Home::new(), Scratch::new(), Scratch::new());
    home.save(alone.path(), "amd64", &images, &[], 0);
    // Two of the blobs, in the hands of somebody who takes his time.
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let repository = "any/where".parse().unwrap();
    let mut held = Vec::new();
    for (path, bytes) in files(alone.path()).iter().filter(|(path, _)| path.ends_with("/data")) {
        if bytes.first() != Some(&b'{') && held.len() < 2 {
            let digest = format!("sha256:{}", path.rsplit('/').nth(1).unwrap()).parse().unwrap();
            let blob = Descriptor::new("application/octet-stream".to_owned(), digest, bytes.len() as u64);
            let Ingest::Write(writer) = store.ingest(&repository, &blob).await.unwrap() else {
                panic!("{path}")
            };
            held.push(writer);
        }
    }
    assert_eq!(held.len(), 2);
    let mut command = home.saving(dir.path(), "amd64", &images);
    let mut saver = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(saver.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let named = format!(
        "(process {}), which is downloading the same blob in {}",
        std::process::id(),
        dir.path().display()
    );
    assert!(
        line.contains(&named) && line.contains("/.saver/partial/") && line.contains("is locked"),
        "{line}"
    );
    drop(held);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(saver.wait().unwrap().success() && !rest.contains("waiting for"), "{rest}");
}

#[test]
fn exclusive_lock_is_reported_until_its_holder_dies() {
    let fleet = Fleet::make(1);
    let source = Registry::serve(fleet.tree.dir());
    let images = fleet.references(&source.address);
    let (home, dir) = (Home::new(), Scratch::new());
    let mut holder = hold_alone(dir.path());
    let said = run(&mut home.saving(dir.path(), "amd64", &images)).expect(3);
    assert!(said.stderr.contains(&format!("(process {})", holder.id())), "{}", said.stderr);
    assert!(!dir.path().join("docker").exists(), "something was written");
    holder.kill().unwrap();
    holder.wait().unwrap();
    run(&mut home.saving(dir.path(), "amd64", &images)).expect(0);

    // One of saver's own commands says more of itself.
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let alone = store.lock_exclusive("prune", std::time::Duration::ZERO).unwrap();
    let said = run(&mut home.saving(dir.path(), "amd64", &images)).expect(3);
    let holder = format!("saver prune (process {}, since ", std::process::id());
    assert!(said.stderr.contains(&holder), "{}", said.stderr);
    drop(alone);
    run(&mut home.saving(dir.path(), "amd64", &images)).expect(0);
}

#[test]
fn running_save_blocks_removal_until_it_dies() {
    let fleet = Fleet::make(2);
    let source = Registry::serve(fleet.tree.dir());
    let relay = Relay::start(&source.address);
    // Slow enough to be still at it when it is killed.
    relay.limit(100_000);
    let (home, dir) = (Home::new(), Scratch::new());
    let images = fleet.references(&relay.address);
    let saver = Victim::start(&mut home.saving(dir.path(), "amd64", &images));
    wait_until("the saver has begun", || !relay.asked().is_empty());
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let error = store.lock_exclusive("prune", std::time::Duration::ZERO).unwrap_err();
    assert!(error.message().contains(&format!("saver (process {})", saver.id())), "{error}");
    let list = home.write("keep.txt", &images[0]);
    let said = run(home.saver(["prune", "--dir"]).arg(dir.path()).arg("--keep").arg(list)).expect(3);
    assert!(said.stderr.contains(&format!("saver (process {})", saver.id())), "{}", said.stderr);
    // Others may add.
    drop(store.lock_shared(std::time::Duration::ZERO).unwrap());
    saver.kill();
    drop(store.lock_exclusive("prune", std::time::Duration::ZERO).unwrap());
    assert_true(dir.path(), "after a kill");
}
