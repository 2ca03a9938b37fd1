//! Random cases: a run among faults that is stopped, a run that completes it, a run that finds nothing to do.

use super::expect::{Choice, Closure, Expected, Verdict, expect};
use super::flaky::{Fault, Flaky, Weather, fault};
use super::graph::{ImageSpec, Kind, PLATFORMS, REGISTRIES, REPOSITORIES, Spec, World, spec};
use crate::support::stopping::{Count, Stopping};
use crate::support::tree::{self, Files};
use proptest::prelude::*;
use saver::content::Place;
use saver::content::memory::{Contents, Memory};
use saver::content::retry::RetryPolicy;
use saver::driver::MemoryDriver;
use saver::oci::{Digest, Platform, PlatformSet, Reference, Repository};
use saver::store::{Durability, Store, StoreOptions};
use saver::transfer::{Engine, Image, IndexMode, MissingPlatform, Report, Silent, Status, TransferOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Never,
    /// No write after so many.
    Writes(i64),
    /// The run is cancelled at that event of a source.
    Cancel(u64),
    /// The run's future is dropped at that event of a source.
    Leave(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) spec: Spec,
    pub(crate) platforms: Option<u8>,
    pub(crate) index: usize,
    pub(crate) skip_missing: bool,
    pub(crate) attestations: bool,
    pub(crate) foreign: bool,
    pub(crate) jobs: usize,
    /// Content that one repository has lost (or has with wrong bytes), by its number among all there is.
    pub(crate) dead: Vec<(usize, bool)>,
    pub(crate) faults: Vec<Option<Fault>>,
    pub(crate) stop: Stop,
    /// The tree is looked at at this event, while the run goes on.
    pub(crate) look: u64,
    pub(crate) threads: bool,
    pub(crate) seed: u64,
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let stop = prop_oneof![
        2 => Just(Stop::Never),
        3 => (0i64..120).prop_map(Stop::Writes),
        2 => (0u64..120).prop_map(Stop::Cancel),
        2 => (0u64..120).prop_map(Stop::Leave),
    ];
    let dead = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec((any::<usize>(), prop::bool::weighted(0.3)), 1..4),
    ];
    let faults = prop_oneof![
        1 => Just(Vec::new()),
        3 => proptest::collection::vec(proptest::option::weighted(0.35, fault()), 0..60),
    ];
    let choice = (
        proptest::option::weighted(0.6, 0u8..128),
        0usize..2,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        1usize..5,
    );
    (spec(), choice, dead, faults, stop, 0u64..100, any::<bool>(), any::<u64>()).prop_map(
        |(spec, choice, dead, faults, stop, look, threads, seed)| {
            let (platforms, index, skip_missing, attestations, foreign, jobs) = choice;
            Case {
                spec,
                platforms,
                index,
                skip_missing,
                attestations,
                foreign,
                jobs,
                dead,
                faults,
                stop,
                look,
                threads,
                seed,
            }
        },
    )
}

/// What has to become of an image, whatever order things happen in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Save,
    Skip,
    Fail,
    /// It lacks something that another image may bring in time.
    Either,
}

struct Row {
    number: usize,
    image: Image<Flaky>,
    expected: Expected,
    fate: Fate,
}

impl Row {
    fn closure(&self) -> Option<&Closure> {
        match &self.expected.verdict {
            Verdict::Save(closure) if matches!(self.fate, Fate::Save | Fate::Either) => Some(closure),
            _ => None,
        }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.image.place).chain(&self.image.alias)
    }
}

/// Platforms by their bits; none is all.
fn chosen(bits: Option<u8>) -> Option<Vec<usize>> {
    let bits = bits.filter(|bits| *bits != 0)?;
    Some((0..PLATFORMS.len()).filter(|platform| bits >> platform & 1 == 1).collect())
}

fn platform_set(chosen: Option<&Vec<usize>>) -> PlatformSet {
    let platform = |number: &usize| {
        let (os, architecture, _, variant) = PLATFORMS[*number];
        let mut platform = Platform::new(os, architecture);
        platform.variant = variant.map(str::to_owned);
        platform
    };
    chosen.map_or(PlatformSet::All, |chosen| PlatformSet::Only(chosen.iter().map(platform).collect()))
}

pub(crate) struct Trial {
    case: Case,
    rows: Vec<Row>,
    weather: Arc<Mutex<Weather>>,
    driver: MemoryDriver,
    sizes: BTreeMap<Digest, u64>,
    content: BTreeMap<Digest, bytes::Bytes>,
}

impl Trial {
    pub(crate) fn new(case: &Case) -> Self {
        let world = World::new(&case.spec);
        let weather: Arc<Mutex<Weather>> = Arc::default();
        let memories = [Memory::new(), Memory::new()];
        let mut images: Vec<&ImageSpec> = Vec::new();
        for image in &case.spec.images {
            let place = |image: &ImageSpec| (image.registry, image.repository, image.tag);
            if images.iter().all(|other| place(other) != place(image)) {
                images.push(image);
            }
        }
        // Untagged images of one place and root would be one image twice.
        let mut untagged = BTreeSet::new();
        images.retain(|image| image.form != 1 || untagged.insert((image.registry, image.repository)));
        for image in &images {
            let (node, memory) = (image.root % world.nodes.len(), &memories[image.registry]);
            let repository: Repository = REPOSITORIES[image.repository].parse().unwrap();
            world.fill(memory, &repository, node);
            let tag = format!("v{}", image.tag).parse().unwrap();
            memory.insert_manifest(&repository, Some(&tag), &world.nodes[node].raw);
        }
        let mut there: Vec<(usize, Repository, Digest)> = Vec::new();
        for (number, memory) in memories.iter().enumerate() {
            let contents = memory.contents();
            let all = contents.links.union(&contents.revisions).cloned();
            there.extend(all.map(|(repository, digest)| (number, repository, digest)));
        }
        let mut dead = [BTreeSet::new(), BTreeSet::new()];
        let mut spoilt = [BTreeSet::new(), BTreeSet::new()];
        for (pick, wrong) in &case.dead {
            let (number, repository, digest) = there[pick % there.len()].clone();
            // An image is saved without an attestation that is gone: `save` has its cases.
            let attests = world.nodes.iter().any(|node| match &node.kind {
                Kind::Index { entries, .. } => entries
                    .iter()
                    .any(|entry| entry.attests.is_some() && world.nodes[entry.node].raw.digest == digest),
                Kind::Leaf { .. } => false,
            });
            let which = if *wrong || attests { &mut spoilt } else { &mut dead };
            which[number].insert((repository, digest));
        }
        let [first, second] = [0, 1].map(|number: usize| Flaky {
            number,
            memory: memories[number].clone(),
            weather: weather.clone(),
            gone: Arc::new(dead[number].clone()),
            spoilt: Arc::new(spoilt[number].clone()),
        });
        let sources = [Arc::new(first), Arc::new(second)];
        let mut content = BTreeMap::new();
        world.blobs.iter().for_each(|blob| drop(content.insert(Digest::of(blob), blob.clone())));
        world.nodes.iter().for_each(|node| drop(content.insert(node.raw.digest, node.raw.bytes.clone())));
        let sizes = content.iter().map(|(digest, content)| (*digest, content.len() as u64)).collect();
        let mut trial = Self {
            case: case.clone(),
            rows: Vec::new(),
            weather,
            driver: MemoryDriver::new(),
            sizes,
            content,
        };
        for (number, image) in images.iter().enumerate() {
            let row = trial.row(number, image, &world, &sources);
            trial.rows.push(row);
        }
        trial.decide(&there);
        trial
    }

    fn row(&self, number: usize, spec: &ImageSpec, world: &World, sources: &[Arc<Flaky>; 2]) -> Row {
        let node = spec.root % world.nodes.len();
        let (registry, repository) = (REGISTRIES[spec.registry], REPOSITORIES[spec.repository]);
        let digest = world.nodes[node].raw.digest;
        let name = match spec.form {
            0 => format!("{registry}/{repository}:v{}", spec.tag),
            1 => format!("{registry}/{repository}@{digest}"),
            _ => format!("{registry}/{repository}:v{}@{digest}", spec.tag),
        };
        let reference = Reference::parse(&name).unwrap();
        let tag = reference.tag.clone().filter(|_| spec.form != 1);
        let own = spec.platforms.map(|bits| chosen(Some(bits)));
        let choice = Choice {
            platforms: own.clone().unwrap_or_else(|| chosen(self.case.platforms)),
            index: self.index_mode(),
            missing: self.missing(),
            attestations: self.case.attestations,
            foreign: self.case.foreign,
        };
        let place =
            Place { repository: format!("{registry}/{repository}").parse().unwrap(), tag: tag.clone() };
        let alias = spec.alias.then(|| Place { repository: repository.parse().unwrap(), tag });
        let image = Image {
            source: sources[spec.registry].clone(),
            reference,
            platforms: own.map(|own| platform_set(own.as_ref())),
            place,
            alias,
            resolved: None,
            pinned: None,
            origin: None,
            warnings: Vec::new(),
        };
        Row { number, image, expected: expect(world, node, &choice), fate: Fate::Either }
    }

    fn index_mode(&self) -> IndexMode {
        // What is pruned depends on what the repository holds already: `found` has its cases.
        [IndexMode::Keep, IndexMode::Flatten][self.case.index]
    }

    fn missing(&self) -> MissingPlatform {
        if self.case.skip_missing { MissingPlatform::Skip } else { MissingPlatform::Fail }
    }

    /// Settles the fate of each image from what is dead where.
    fn decide(&mut self, there: &[(usize, Repository, Digest)]) {
        let empty = Digest::of(b"");
        let is_dead = |source: &Flaky, repository: &Repository, digest: &Digest| {
            let key = (repository.clone(), *digest);
            *digest != empty && (source.gone.contains(&key) || source.spoilt.contains(&key))
        };
        let sources: BTreeMap<usize, Arc<Flaky>> =
            self.rows.iter().map(|row| (row.image.source.number, row.image.source.clone())).collect();
        for row in &mut self.rows {
            let repository = &row.image.reference.repository;
            let mut needs: BTreeSet<Digest> =
                row.expected.manifests.iter().chain(row.expected.configs.keys()).copied().collect();
            row.fate = match &row.expected.verdict {
                Verdict::Save(closure) => {
                    needs.extend(closure.blobs.keys());
                    Fate::Save
                }
                Verdict::Skip => Fate::Skip,
                Verdict::Fail => Fate::Fail,
            };
            for digest in &needs {
                if row.fate == Fate::Fail || !is_dead(&row.image.source, repository, digest) {
                    continue;
                }
                let elsewhere = there
                    .iter()
                    .filter(|(_, _, other)| other == digest)
                    .any(|(number, repository, digest)| !is_dead(&sources[number], repository, digest));
                row.fate = if elsewhere { Fate::Either } else { Fate::Fail };
            }
        }
    }

    fn is_dead_anywhere(&self, digest: &Digest) -> bool {
        let dead = |set: &BTreeSet<(Repository, Digest)>| set.iter().any(|(_, dead)| dead == digest);
        self.rows.iter().any(|row| dead(&row.image.source.gone) || dead(&row.image.source.spoilt))
    }

    fn options(&self) -> TransferOptions {
        let mut options = TransferOptions::default();
        options.platforms = platform_set(chosen(self.case.platforms).as_ref());
        options.index = self.index_mode();
        options.missing_platform = self.missing();
        options.attestations = self.case.attestations;
        options.foreign_layers = self.case.foreign;
        options.jobs = self.case.jobs;
        let mut retry = RetryPolicy::default();
        (retry.retries, retry.corruptions) = (70, 70);
        (retry.first_delay, retry.max_delay) = (Duration::from_micros(1), Duration::from_micros(20));
        options.retry = retry;
        options
    }

    /// One run; its report unless it was left, and how many writes it made.
    fn run(
        &self,
        faults: &[Option<Fault>],
        stop: Stop,
        looked: Option<&Arc<Mutex<Files>>>,
    ) -> (Option<Report>, i64) {
        const PLENTY: i64 = 1 << 40;
        let (cancel, leave) = (CancellationToken::new(), CancellationToken::new());
        {
            let mut weather = self.weather.lock().unwrap();
            *weather = Weather { random: fastrand::Rng::with_seed(self.case.seed), ..Weather::default() };
            weather.faults = faults.iter().copied().collect();
            match stop {
                Stop::Cancel(at) => {
                    let cancel = cancel.clone();
                    weather.alarms.push((at, Box::new(move || cancel.cancel())));
                }
                Stop::Leave(at) => {
                    let leave = leave.clone();
                    weather.alarms.push((at, Box::new(move || leave.cancel())));
                }
                _ => {}
            }
            if let Some(looked) = looked {
                let (driver, looked) = (self.driver.clone(), looked.clone());
                let look = move || *looked.lock().unwrap() = driver.files();
                weather.alarms.push((self.case.look, Box::new(look)));
            }
        }
        let limit = if let Stop::Writes(limit) = stop { limit } else { PLENTY };
        let count = Count::new(limit);
        let mut builder = if self.case.threads {
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let mut options = StoreOptions::default();
        options.durability = Durability::None;
        let store = Store::with_driver(Arc::new(Stopping::new(self.driver.clone(), &count)), options);
        let engine = Arc::new(Engine::new(Arc::new(store), self.options(), Arc::new(Silent)).unwrap());
        let images = self.rows.iter().map(|row| row.image.clone()).collect();
        let report = runtime.block_on(async {
            let run = tokio::time::timeout(Duration::from_secs(100), engine.run(images, &cancel));
            tokio::select! {
                biased;
                () = leave.cancelled() => None,
                report = run => Some(report.expect("the run hangs")),
            }
        });
        drop(runtime);
        drop(engine);
        (report, limit - count.left())
    }

    /// Everything that holds at every moment.
    fn assert_true(&self, files: &Files, when: &str) -> Contents {
        let (contents, problems) = tree::read_sparse(files);
        assert!(problems.is_empty(), "{when}: {problems:#?}");
        let (mut links, mut revisions) = (BTreeSet::new(), BTreeSet::new());
        for row in &self.rows {
            let Some(closure) = row.closure() else { continue };
            for place in row.places() {
                links.extend(closure.blobs.keys().map(|digest| (place.repository.clone(), *digest)));
                revisions.extend(closure.manifests.iter().map(|digest| (place.repository.clone(), *digest)));
            }
        }
        let strange: Vec<_> = contents.links.difference(&links).collect();
        assert!(strange.is_empty(), "{when}: links that no image asked for: {strange:#?}");
        let strange: Vec<_> = contents.revisions.difference(&revisions).collect();
        assert!(strange.is_empty(), "{when}: revisions that no image asked for: {strange:#?}");
        for ((repository, tag), digest) in &contents.tags {
            let whose = self.rows.iter().find_map(|row| {
                let closure = row.closure().filter(|closure| closure.root == Some(*digest))?;
                let mut places = row.places();
                places
                    .any(|place| place.repository == *repository && place.tag.as_ref() == Some(tag))
                    .then_some(closure)
            });
            let Some(closure) = whose else { panic!("{when}: {repository}:{tag} names {digest}") };
            let lacking = closure.lacking(&contents, repository);
            assert!(lacking.is_empty(), "{when}: {repository}:{tag} is there, but not {lacking:#?}");
        }
        contents
    }

    /// What was reported is so.
    fn assert_reported(
        &self,
        report: &Report,
        contents: &Contents,
        may_fail: impl Fn(&Row) -> bool,
        when: &str,
    ) {
        assert_eq!(report.images.len(), self.rows.len(), "{when}");
        for (row, said) in self.rows.iter().zip(&report.images) {
            let name = &row.image.reference;
            let why = said.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
            assert!(!why.contains("internal error"), "{when}: {name}: {why}");
            match (said.status, row.fate) {
                (Status::Saved | Status::Unchanged, Fate::Save | Fate::Either) => {
                    let closure = row.closure().unwrap();
                    let place = &row.image.place;
                    assert_eq!(said.digest, closure.root, "{when}: {name}");
                    let lacking = closure.lacking(contents, &place.repository);
                    assert!(lacking.is_empty(), "{when}: {name} is said to be saved, but not {lacking:#?}");
                    if let Some(tag) = &place.tag {
                        let named = contents.tags.get(&(place.repository.clone(), tag.clone()));
                        assert_eq!(named, closure.root.as_ref(), "{when}: {name}");
                    }
                }
                (Status::Skipped, Fate::Skip) | (Status::Failed, Fate::Fail) => {}
                (Status::Skipped, Fate::Either) if matches!(row.expected.verdict, Verdict::Skip) => {}
                (Status::Failed, Fate::Either) => {}
                (Status::Failed, _) if may_fail(row) => {}
                (status, fate) => panic!("{when}: {name} is {status:?} and should be {fate:?}: {why}"),
            }
        }
    }

    /// The bytes that a run without faults may have fetched, given what was there before.
    fn assert_fetched(&self, report: &Report, before: &Files, contents: &Contents, when: &str) {
        let weather = self.weather.lock().unwrap();
        let given: u64 = weather.blobs.values().chain(weather.manifests.values()).sum();
        assert!(report.bytes_fetched <= given, "{when}: {} of {given} bytes", report.bytes_fetched);
        let healthy = self.case.dead.is_empty();
        if healthy {
            assert_eq!(report.bytes_fetched, given, "{when}: bytes are missing from the report");
        }
        for (digest, fetched) in &weather.blobs {
            let size = self.sizes[digest];
            if contents.blobs.contains_key(digest) {
                panic!("{when}: {fetched} bytes of {digest} were fetched, which was there");
            }
            if self.is_dead_anywhere(digest) {
                continue;
            }
            let wants = |row: &&Row| matches!(&row.expected.verdict, Verdict::Save(closure) if closure.blobs.contains_key(digest));
            let wanted = self.rows.iter().filter(wants).count() as u64;
            let wanted = if healthy { wanted.min(1) } else { wanted };
            let asked: u64 = self.rows.iter().filter_map(|row| row.expected.configs.get(digest)).sum();
            let hex = digest.hex();
            let partial = before.iter().find(|(path, _)| path.starts_with(".saver/") && path.contains(&hex));
            let left =
                partial.map(|(_, bytes)| bytes.as_slice()).filter(|_| size > 256 << 10).unwrap_or_default();
            let once = if self.content[digest].starts_with(left) {
                size - left.len() as u64
            } else {
                2 * size - left.len() as u64
            };
            let bound = if healthy { wanted * once } else { wanted * size.max(once) } + asked * size;
            assert!(*fetched <= bound, "{when}: {fetched} bytes of {digest}, {size} long, {bound} expected");
        }
        for (digest, fetched) in &weather.manifests {
            assert!(!contents.blobs.contains_key(digest), "{when}: manifest {digest} was there");
            let asked = self.rows.iter().filter(|row| row.expected.manifests.contains(digest)).count() as u64;
            assert!(*fetched <= asked * self.sizes[digest], "{when}: manifest {digest}: {fetched} bytes");
        }
    }

    pub(crate) fn check(&self) {
        let looked: Arc<Mutex<Files>> = Arc::default();
        let (report, writes) = self.run(&self.case.faults, self.case.stop, Some(&looked));
        self.assert_true(&looked.lock().unwrap(), "while the first run goes on");
        let before = self.driver.files();
        let contents = self.assert_true(&before, "after the first run");
        let refused = self.weather.lock().unwrap().refused.clone();
        if let Some(report) = &report {
            let stopped = match self.case.stop {
                Stop::Never | Stop::Leave(_) => false,
                Stop::Writes(limit) => writes > limit,
                Stop::Cancel(_) => true,
            };
            let may_fail = |row: &Row| {
                let origin = (row.image.source.number, row.image.reference.repository.clone());
                stopped || refused.contains(&origin)
            };
            self.assert_reported(report, &contents, may_fail, "the first run");
        }

        let (report, _) = self.run(&[], Stop::Never, None);
        let report = report.unwrap();
        let done = self.driver.files();
        let now = self.assert_true(&done, "after the second run");
        self.assert_reported(&report, &now, |_| false, "the second run");
        self.assert_fetched(&report, &before, &contents, "the second run");
        self.assert_complete(&report, &now);

        let (report, writes) = self.run(&[], Stop::Never, None);
        let report = report.unwrap();
        let after = self.driver.files();
        let again = self.assert_true(&after, "after the third run");
        self.assert_reported(&report, &again, |_| false, "the third run");
        self.assert_fetched(&report, &done, &now, "the third run");
        for (row, said) in self.rows.iter().zip(&report.images).filter(|(row, _)| row.fate == Fate::Save) {
            assert_eq!(said.status, Status::Unchanged, "the third run: {}", row.image.reference);
        }
        if self.case.dead.is_empty() {
            assert_eq!(writes, 0, "the third run wrote");
            assert_eq!(done, after, "the third run changed something");
        }
    }

    /// After a whole run there are the tags of what was saved, and no others.
    fn assert_complete(&self, report: &Report, contents: &Contents) {
        for (row, said) in self.rows.iter().zip(&report.images) {
            let Place { repository, tag: Some(tag) } = &row.image.place else { continue };
            let named = contents.tags.get(&(repository.clone(), tag.clone()));
            match said.status {
                Status::Saved | Status::Unchanged => assert!(named.is_some(), "no tag {}", row.image.place),
                _ if row.fate == Fate::Either => {}
                _ => assert_eq!(named, None, "row {}: {}", row.number, row.image.place),
            }
        }
    }
}

/// How many cases: few in every run of the tests, more where SAVER_MODEL_CASES says so.
fn config() -> ProptestConfig {
    let cases = std::env::var("SAVER_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 3000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_faults_leave_a_consistent_tree(case in case()) {
        Trial::new(&case).check();
    }
}
