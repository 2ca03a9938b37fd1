//! The real process killed in mid-run, and a real registry that serves the tree while it is being written.
//!
//! `SAVER_KILLS=200` kills as often, which takes minutes: `cargo test --test it killed_save_leaves -- --nocapture` has
//! the patience. `SAVER_SEED` picks other moments than the usual.

use crate::support::scratch::Scratch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use saver::oci::{Digest, Manifest, RawManifest};

use super::support::fleet::{Fleet, assert_true, blob_bytes};
use super::support::peers::registry::Registry;
use super::support::program::{Home, Victim, run};
use super::support::relay::Relay;
use super::support::serving::ask;
use super::support::tree::{Files, files};

const IMAGES: usize = 12;
/// So that a run takes about a second.
const BYTES_A_SECOND: u64 = 40 << 20;
const JOBS: u64 = 4;
/// What one connection may have on the way when the process dies, in bytes: a blob of up to 256 KiB is held in memory
/// until it is whole; of a larger one, what is in the relay's hands, in the socket and in the client's read buffer. This
/// is the most that all kills of a test may cost on average; for one tree it is twice as much, since sockets fill
/// where other processes keep a client from its turn.
const IN_FLIGHT: u64 = 512 << 10;
/// After so many kills a tree's next run is let be.
const KILLS_OF_ONE_TREE: usize = 5;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Everything that a test of kills works with.
struct Bench {
    _fleet: Fleet,
    _source: Registry,
    relay: Relay,
    images: Vec<String>,
    home: Home,
    /// The tree that an undisturbed run makes.
    expected: Files,
    /// Bytes of all blobs and manifests that it fetches.
    unique: u64,
    /// Bytes that come beside them: heads of answers, and answers to HEAD.
    beside: u64,
    /// How long it takes.
    takes: Duration,
}

impl Bench {
    fn new() -> Self {
        let fleet = Fleet::make(IMAGES);
        let source = Registry::serve(fleet.tree.dir());
        let relay = Relay::start(&source.address);
        relay.limit(BYTES_A_SECOND);
        let images = fleet.references(&relay.address);
        let (home, dir) = (Home::new(), Scratch::new());
        let begin = Instant::now();
        home.save(dir.path(), "amd64", &images, &["--jobs", &JOBS.to_string()], 0);
        let takes = begin.elapsed();
        let unique = blob_bytes(dir.path());
        let beside = relay.passed() - unique;
        assert!(unique > 20 << 20 && beside < 1 << 20, "{unique} bytes and {beside} beside them");
        let expected = files(&dir.path().join("docker"));
        Self { _fleet: fleet, _source: source, relay, images, home, expected, unique, beside, takes }
    }

    fn start(&self, dir: &Path) -> Victim {
        let mut command = self.home.saving(dir, "amd64", &self.images);
        Victim::start(command.args(["--jobs", &JOBS.to_string()]))
    }

    /// Lets a run go to its end; asserts that the tree is then the one that it should be, and nothing beside it.
    fn complete(&self, dir: &Path, context: &str) {
        self.start(dir).finish().expect(0);
        assert_true(dir, context);
        let found = files(&dir.join("docker"));
        assert!(found == self.expected, "{context}: {:?}", differing(&found, &self.expected));
        let left: Vec<_> = files(&dir.join(".saver"))
            .into_iter()
            .filter(|(path, bytes)| !bytes.is_empty() && !path.starts_with("sources/"))
            .collect();
        assert!(
            left.is_empty(),
            "{context}: left behind: {:?}",
            left.iter().map(|(path, _)| path).collect::<Vec<_>>()
        );
    }

    /// Fails where more came than what was needed, and what was on the way at each kill.
    fn assert_fetched_once(&self, runs: usize, kills: usize, context: &str) -> u64 {
        let allowed = self.unique + runs as u64 * self.beside + kills as u64 * JOBS * IN_FLIGHT * 2;
        let passed = self.relay.passed();
        assert!(
            passed <= allowed,
            "{context}: {passed} bytes came, {allowed} are the most, {} are needed",
            self.unique
        );
        passed.saturating_sub(self.unique + runs as u64 * self.beside)
    }
}

fn differing<'a>(one: &'a Files, other: &'a Files) -> Vec<&'a String> {
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).collect()
}

/// When a process is killed.
#[derive(Debug)]
enum Moment {
    /// After so long.
    After(Duration),
    /// When so many bytes have passed, counted from the tree's first run.
    Passed(u64),
    /// So long after nearly everything has come: while what came is being published.
    AtTheEnd(u64, Duration),
}

impl Moment {
    fn pick(rng: &mut fastrand::Rng, bench: &Bench) -> Self {
        let (so_far, all) = (bench.relay.passed(), bench.unique + bench.beside);
        match rng.u8(0..3) {
            0 => Self::After(bench.takes.mul_f64(rng.f64() * 1.1)),
            1 if so_far < all => Self::Passed(rng.u64(so_far..all)),
            _ => Self::AtTheEnd(so_far.max(all - (1 << 20)), Duration::from_millis(rng.u64(0..700))),
        }
    }

    /// Waits for the moment; whether the process was there to see it.
    fn wait(&self, victim: &mut Victim, relay: &Relay) -> bool {
        let pause = Duration::from_micros(200);
        let (bytes, then) = match self {
            Self::After(duration) => (0, *duration),
            Self::Passed(bytes) => (*bytes, Duration::ZERO),
            Self::AtTheEnd(bytes, duration) => (*bytes, *duration),
        };
        while relay.passed() < bytes && victim.is_running() {
            std::thread::sleep(pause);
        }
        let due = Instant::now() + then;
        while Instant::now() < due && victim.is_running() {
            std::thread::sleep(pause);
        }
        victim.is_running()
    }
}

#[test]
fn killed_save_leaves_a_consistent_tree_and_resumes() {
    let bench = Bench::new();
    let (kills, seed) = (setting("SAVER_KILLS", 20), setting("SAVER_SEED", 1));
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut killed, mut most, mut again) = (0, 0, 0);
    while killed < kills {
        let dir = Scratch::new();
        bench.relay.reset();
        let (mut runs, mut here) = (1, 0);
        while here < KILLS_OF_ONE_TREE && killed < kills {
            let moment = Moment::pick(&mut rng, &bench);
            let mut victim = bench.start(dir.path());
            let context = format!("seed {seed}, kill {killed}, {moment:?}");
            runs += 1;
            if !moment.wait(&mut victim, &bench.relay) {
                victim.finish().expect(0);
                break;
            }
            victim.kill();
            (killed, here) = (killed + 1, here + 1);
            assert_true(dir.path(), &context);
        }
        let context = format!("seed {seed}, after {here} kills, {killed} in all");
        bench.complete(dir.path(), &context);
        let excess = bench.assert_fetched_once(runs, here, &context);
        (most, again) = (most.max(excess), again + excess);
    }
    assert!(again <= killed * JOBS * IN_FLIGHT, "{killed} kills cost {again} bytes");
    println!(
        "{killed} kills, {} bytes needed by each tree, {again} fetched again in all, {most} for one tree",
        bench.unique
    );
}

#[test]
fn killed_save_keeps_what_was_downloaded() {
    let bench = Bench::new();
    let dir = Scratch::new();
    for resumes in [true, false] {
        bench.relay.reset();
        let mut victim = bench.start(dir.path());
        assert!(Moment::Passed(bench.unique * 2 / 3).wait(&mut victim, &bench.relay), "ended too soon");
        victim.kill();
        let came: u64 = files(dir.path()).values().map(|bytes| bytes.len() as u64).sum();
        assert!(came + JOBS * IN_FLIGHT > bench.unique * 2 / 3, "only {came} bytes were kept");
        if resumes {
            bench.complete(dir.path(), "killed once");
            bench.assert_fetched_once(2, 1, "killed once");
        } else {
            // The count above can fail: without what was kept more comes than is allowed.
            std::fs::remove_dir_all(dir.path().join(".saver")).unwrap();
            std::fs::remove_dir_all(dir.path().join("docker")).unwrap_or_default();
            bench.complete(dir.path(), "begun anew");
            assert!(bench.relay.passed() > bench.unique + 2 * bench.beside + JOBS * IN_FLIGHT * 2);
        }
        std::fs::remove_dir_all(dir.path().join("docker")).unwrap();
    }
}

/// What the clients of a registry have seen so far.
#[derive(Default)]
struct Watched {
    /// Tags that were served, by repository; what they named at last.
    served: Mutex<BTreeMap<String, Digest>>,
    questions: AtomicUsize,
}

const ACCEPT: &[(&str, &str)] =
    &[("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json")];

impl Watched {
    /// Asks and asserts that the registry is in no trouble.
    fn ask(&self, registry: &str, method: &str, path: &str) -> (u16, Vec<u8>) {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let reply = ask(registry, method, path, ACCEPT);
        let text = String::from_utf8_lossy(&reply.body);
        assert!(matches!(reply.status, 200 | 404), "{method} {path}: {} {text}", reply.status);
        (reply.status, reply.body)
    }

    /// Looks at everything that there may be, once; asserts that whatever is served is whole.
    fn look(&self, registry: &str, names: &[String], rng: &mut fastrand::Rng) {
        self.ask(registry, "GET", "/v2/_catalog?n=1000");
        let name = rng.choice(names).unwrap();
        self.ask(registry, "GET", &format!("/v2/{name}/tags/list"));
        let before = self.served.lock().unwrap().contains_key(name);
        let path = format!("/v2/{name}/manifests/1.0");
        let (head, _) = self.ask(registry, "HEAD", &path);
        let (status, index) = self.ask(registry, "GET", &path);
        assert!(status == 200 || !before && head == 404, "{name} was there and is no more");
        if status == 404 {
            return;
        }
        self.served.lock().unwrap().insert(name.clone(), Digest::of(&index));
        let Manifest::Index(index) = RawManifest::new(index.into(), None).unwrap().parse().unwrap() else {
            panic!("{name} is no index")
        };
        let amd64 = |entry: &&saver::oci::Descriptor| {
            entry.platform.as_ref().is_some_and(|platform| platform.architecture == "amd64")
        };
        let child = index.manifests.iter().find(amd64).unwrap();
        let (status, manifest) = self.ask(registry, "GET", &format!("/v2/{name}/manifests/{}", child.digest));
        assert_eq!(status, 200, "{name} is there without {}", child.digest);
        let Manifest::Image(image) = RawManifest::new(manifest.into(), None).unwrap().parse().unwrap() else {
            panic!("{name} has no image")
        };
        let whole = rng.u8(0..8) == 0;
        for blob in image.blobs() {
            let path = format!("/v2/{name}/blobs/{}", blob.digest);
            assert_eq!(self.ask(registry, "HEAD", &path).0, 200, "{name} is there without {}", blob.digest);
            if whole || blob.size < 20_000 {
                let (_, bytes) = self.ask(registry, "GET", &path);
                assert_eq!(Digest::of(&bytes), blob.digest, "{name}");
            }
        }
    }
}

#[test]
fn registry_serves_only_complete_images_of_a_growing_tree() {
    let fleet = Fleet::make(24);
    let source = Registry::serve(fleet.tree.dir());
    let relay = Relay::start(&source.address);
    relay.limit(BYTES_A_SECOND / 2);
    let (home, dir) = (Home::new(), Scratch::new());
    let reader = Registry::serve(dir.path());
    let (watched, done) = (Watched::default(), AtomicBool::new(false));
    let images = fleet.references(&relay.address);
    let mut renewed = BTreeMap::new();
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (watched, done, reader, names) = (&watched, &done, &reader.address, fleet.names());
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(number);
                while !done.load(Ordering::Relaxed) {
                    watched.look(reader, names, &mut rng);
                }
            });
        }
        // Ends the watching even if a run fails.
        let stop = Stop(&done);
        let mut victim = Victim::start(&mut home.saving(dir.path(), "amd64", &images));
        assert!(Moment::Passed(20 << 20).wait(&mut victim, &relay), "ended too soon");
        victim.kill();
        run(&mut home.saving(dir.path(), "amd64", &images)).expect(0);
        for (number, name) in fleet.names().iter().take(8).enumerate() {
            renewed.insert(name.clone(), fleet.renew(name, 300 + number as u64).digest);
        }
        run(&mut home.saving(dir.path(), "amd64", &images)).expect(0);
        drop(stop);
    });
    let mut rng = fastrand::Rng::with_seed(9);
    for name in fleet.names() {
        watched.look(&reader.address, std::slice::from_ref(name), &mut rng);
    }
    let served = watched.served.into_inner().unwrap();
    assert_eq!(served.len(), fleet.names().len());
    for (name, digest) in renewed {
        assert_eq!(served.get(&name), Some(&digest), "{name} has moved");
    }
    let questions = watched.questions.into_inner();
    assert!(questions > 200, "only {questions} questions were asked");
    assert_true(dir.path(), "after all");
    println!("{questions} questions");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A prune ended by kill -9 again and again: the tree is true each time, and the last one finishes the work.
#[test]
fn killed_prune_leaves_a_consistent_tree() {
    let (fleet, home) = (Fleet::make(IMAGES), Home::new());
    let dir = fleet.tree.dir();
    let keep = home.write("keep", &fleet.references("registry.example")[0]);
    let prune = || home.saver(["prune", "--dir", dir.to_str().unwrap(), "--keep", keep.to_str().unwrap()]);
    let mut rng = fastrand::Rng::with_seed(setting("SAVER_SEED", 11));
    for round in 0..setting("SAVER_KILLS", 20) {
        let victim = Victim::start(&mut prune());
        std::thread::sleep(Duration::from_micros(rng.u64(1_000..40_000)));
        victim.kill();
        assert_true(dir, &format!("after kill {round}"));
    }
    run(&mut prune()).expect(0);
    assert_true(dir, "after the prune that was let be");
    let left = files(dir);
    let tags = left.keys().filter(|path| path.ends_with("current/link")).count();
    assert_eq!(tags, 1, "{:?}", left.keys());
}
