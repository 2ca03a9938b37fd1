//! Stopped at any write, or cut from power at any moment, the tree is true and the next run completes it.

use crate::support::images::{Image, assortment, deliver_all, signed_assortment};
use crate::support::power_loss::PowerLoss;
use crate::support::registry_model::assert_served;
use crate::support::scratch::Scratch;
use crate::support::stopping::{Count, Stopping};
use crate::support::tree::{self, Files};
use saver::content::ReferrerList;
use saver::content::memory::{Contents, Memory};
use saver::driver::{Driver, FsDriver, MemoryDriver};
use saver::oci::{Reference, Tag};
use saver::prune::PruneOptions;
use saver::store::{Durability, Store, StoreOptions};
use std::sync::Arc;

/// A store without barriers: a stopped process loses none of what it has written.
fn open(driver: impl Driver) -> Store {
    let mut options = StoreOptions::default();
    options.durability = Durability::None;
    Store::with_driver(Arc::new(driver), options)
}

/// What the tree holds when all of `images` are published.
async fn complete(images: &[Image]) -> Contents {
    let memory = Memory::new();
    for outcome in deliver_all(&memory, images).await.0 {
        outcome.unwrap();
    }
    memory.contents()
}

fn total(images: &[Image]) -> u64 {
    let blobs: std::collections::BTreeSet<_> = images.iter().flat_map(|image| &image.blobs).collect();
    blobs.iter().map(|blob| blob.len() as u64).sum()
}

/// Asserts that nothing is wrong with `files` and that every image said to be published is there.
fn assert_true(files: &Files, images: &[Image], published: &[bool], context: &str) {
    let (contents, problems) = tree::read(files);
    assert!(problems.is_empty(), "{context}: {problems:#?}");
    for (image, _) in images.iter().zip(published).filter(|(_, published)| **published) {
        for place in &image.places {
            let root = (place.repository.clone(), image.root());
            assert!(contents.revisions.contains(&root), "{context}: {place} was published and is not there");
            if let Some(tag) = &place.tag {
                let named = contents.tags.get(&(place.repository.clone(), tag.clone()));
                assert_eq!(named, Some(&image.root()), "{context}: {place}");
            }
        }
    }
}

/// Tags and pinned images of the tree of which it is not recorded that they come from where `images` do.
fn unrecorded(driver: impl Driver, contents: &Contents, images: &[Image]) -> Vec<String> {
    let records = open(driver).provenance().unwrap();
    let mut unrecorded = Vec::new();
    for image in images {
        for place in &image.places {
            let is_there = match &place.tag {
                Some(tag) => {
                    contents.tags.get(&(place.repository.clone(), tag.clone())) == Some(&image.root())
                }
                None => contents.revisions.contains(&(place.repository.clone(), image.root())),
            };
            let source = records.source(place, &image.root()).map(|record| &record.source);
            if is_there && source != Some(&image.origin().reference) {
                unrecorded.push(format!("{place}: {source:?}"));
            }
        }
    }
    unrecorded
}

/// Asserts that every image with a tag has its referrers.
fn assert_signed(files: &Files, images: &[Image], context: &str) {
    let (contents, _) = tree::read(files);
    for (image, place) in images.iter().flat_map(|image| image.places.iter().map(move |place| (image, place)))
    {
        let named = |tag: &Tag| contents.tags.get(&(place.repository.clone(), tag.clone()));
        if place.tag.as_ref().and_then(named) != Some(&image.root()) {
            continue;
        }
        for (tag, digest) in &image.referrers.tags {
            assert_eq!(named(&tag.tag()), Some(digest), "{context}: {place}");
        }
        for ReferrerList { subject, referrers } in &image.referrers.lists {
            let index = named(&Tag::referrers(subject)).unwrap_or_else(|| panic!("{context}: {place}"));
            let text = String::from_utf8_lossy(&contents.blobs[index]).into_owned();
            assert!(referrers.iter().all(|entry| text.contains(&entry.digest.hex())), "{context}: {place}");
        }
    }
}

/// A directory that is quick to fill and empty often, where the system has such a place.
fn in_memory_dir() -> Scratch {
    Scratch::in_memory()
}

/// Whether a file is one that the next run should have removed.
fn is_left_over(path: &str) -> bool {
    path.starts_with(".saver/") && !path.starts_with(".saver/sources/")
}

/// Runs until the `stop`-th write, then again to the end. Answers whether the first run was stopped at all.
async fn stop_and_go_on<D: Driver>(
    stop: i64,
    images: &[Image],
    expect: &Contents,
    driver: impl Fn() -> D,
    files: impl Fn() -> Files,
    check: impl Fn(),
) -> bool {
    let first = Count::new(stop);
    let store = open(Stopping::new(driver(), &first));
    let (outcomes, _) = deliver_all(&store, images).await;
    drop(store);
    let published: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_true(&files(), images, &published, &format!("stopped after {stop} writes"));
    assert_signed(&files(), images, &format!("stopped after {stop} writes"));
    check();
    assert_eq!(unrecorded(driver(), &tree::read(&files()).0, images), [""; 0], "stopped after {stop} writes");

    let second = Count::new(i64::MAX);
    let store = open(Stopping::new(driver(), &second));
    for outcome in deliver_all(&store, images).await.0 {
        outcome.unwrap();
    }
    drop(store);
    let (contents, problems) = tree::read(&files());
    assert!(problems.is_empty(), "after {stop} writes and another run: {problems:#?}");
    assert_eq!(&contents, expect, "after {stop} writes and another run");
    assert_eq!(unrecorded(driver(), &contents, images), [""; 0], "after {stop} writes and another run");
    assert_eq!(first.bytes() + second.bytes(), total(images), "fetched twice, after {stop} writes");
    first.has_stopped()
}

#[tokio::test]
async fn stop_after_any_write_in_memory_is_recoverable() {
    let images = assortment();
    let expect = complete(&images).await;
    let mut stop = 0;
    loop {
        let memory = MemoryDriver::new();
        if !stop_and_go_on(stop, &images, &expect, || memory.clone(), || memory.files(), || {}).await {
            break;
        }
        stop += 1;
    }
    assert!(stop > 60, "only {stop} writes");
}

#[tokio::test]
async fn stop_after_any_write_on_disk_is_recoverable() {
    let images = assortment();
    let expect = complete(&images).await;
    let mut stop = 0;
    loop {
        let dir = in_memory_dir();
        let driver = || FsDriver::create(dir.path()).unwrap();
        if !stop_and_go_on(
            stop,
            &images,
            &expect,
            driver,
            || tree::files(dir.path()),
            || assert_served(dir.path()),
        )
        .await
        {
            break;
        }
        let left: Vec<_> = tree::files(dir.path()).into_keys().filter(|path| is_left_over(path)).collect();
        assert!(left.is_empty(), "stopped after {stop} writes, the next run left {left:?}");
        stop += 1;
    }
    assert!(stop > 60, "only {stop} writes");
}

#[tokio::test]
async fn stop_after_any_write_leaves_no_tag_without_its_referrers() {
    let images = signed_assortment();
    let expect = complete(&images).await;
    let mut stop = 0;
    loop {
        let dir = in_memory_dir();
        let driver = || FsDriver::create(dir.path()).unwrap();
        let files = || tree::files(dir.path());
        if !stop_and_go_on(stop, &images, &expect, driver, files, || assert_served(dir.path())).await {
            break;
        }
        let left: Vec<_> = files().into_keys().filter(|path| is_left_over(path)).collect();
        assert!(left.is_empty(), "stopped after {stop} writes, the next run left {left:?}");
        stop += 1;
    }
    assert!(stop > 40, "only {stop} writes");
}

#[tokio::test]
async fn stop_after_any_removal_leaves_no_tag_without_its_referrers() {
    let images = signed_assortment();
    let places = images.iter().flat_map(|image| &image.places).filter(|place| place.tag.is_some());
    let named: Vec<Reference> =
        places.map(|place| Reference::parse(&format!("registry.example/{place}")).unwrap()).collect();
    let mut stop = 0;
    loop {
        let memory = MemoryDriver::new();
        for outcome in deliver_all(&open(memory.clone()), &images).await.0 {
            outcome.unwrap();
        }
        let count = Count::new(stop);
        let store = open(Stopping::new(memory.clone(), &count));
        let outcome = saver::prune::remove(&store, &named, &PruneOptions::default());
        assert_signed(&memory.files(), &images, &format!("stopped after {stop} removals"));
        if !count.has_stopped() {
            outcome.unwrap();
            break;
        }
        stop += 1;
    }
    assert!(stop > 40, "only {stop} removals");
}

/// A disk that may hold the images' manifests already: then blobs are all that links have to wait for.
fn disk(images: &[Image], with_manifests: bool) -> PowerLoss {
    let disk = PowerLoss::new();
    for manifest in images.iter().flat_map(|image| &image.manifests).filter(|_| with_manifests) {
        let hex = manifest.digest.hex();
        disk.stage("staged", &manifest.bytes).unwrap();
        disk.publish("staged", &format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])).unwrap();
    }
    disk.barrier().unwrap();
    disk
}

/// Cuts the power after `stop` writes: what is wrong with the tree then, and with that of the next run.
async fn cut_and_go_on(
    stop: i64,
    images: &[Image],
    durability: Durability,
    random: &mut fastrand::Rng,
) -> (bool, Vec<String>) {
    let mut options = StoreOptions::default();
    options.durability = durability;
    let open = |driver: Arc<dyn Driver>| Store::with_driver(driver, options.clone());
    let disk = disk(images, stop % 2 == 0);
    let count = Count::new(stop);
    let store = open(Arc::new(Stopping::new(disk.clone(), &count)));
    let (outcomes, _) = deliver_all(&store, images).await;
    drop(store);
    let mut wrong = Vec::new();
    for keep in [0, 3, 5, 8, 10] {
        let after = disk.after_loss(random, keep);
        let (contents, problems) = tree::read(&after.files());
        wrong.extend(problems);
        let lost = unrecorded(after.clone(), &contents, images);
        wrong.extend(lost.into_iter().map(|place| format!("no source recorded: {place}")));
        for (image, outcome) in images.iter().zip(&outcomes) {
            for place in image.places.iter().filter(|_| outcome.is_ok()) {
                if !contents.revisions.contains(&(place.repository.clone(), image.root())) {
                    wrong.push(format!("{place}: said to be published"));
                }
            }
        }
        let store = open(Arc::new(after.clone()));
        let (again, _) = deliver_all(&store, images).await;
        drop(store);
        wrong.extend(again.into_iter().filter_map(|outcome| Some(outcome.err()?.to_string())));
        let (contents, problems) = tree::read(&after.files());
        wrong.extend(problems);
        wrong.extend(unrecorded(after, &contents, images));
    }
    (count.has_stopped(), wrong)
}

#[tokio::test]
async fn power_loss_after_any_write_is_recoverable() {
    let images = assortment();
    let mut stop = 0;
    for seed in 0.. {
        let mut random = fastrand::Rng::with_seed(seed);
        let (stopped, wrong) = cut_and_go_on(stop, &images, Durability::Batch, &mut random).await;
        assert!(wrong.is_empty(), "after {stop} writes, seed {seed}: {wrong:#?}");
        if !stopped {
            break;
        }
        stop += 1;
    }
    assert!(stop > 60, "only {stop} writes");
}

/// The double bites: without barriers the same cuts do harm.
#[tokio::test]
async fn power_loss_without_barriers_is_detected() {
    let images = assortment();
    let mut harmed = 0;
    for stop in 20..100 {
        let mut random = fastrand::Rng::with_seed(stop as u64);
        let (_, wrong) = cut_and_go_on(stop, &images, Durability::None, &mut random).await;
        harmed += u32::from(!wrong.is_empty());
    }
    assert!(harmed > 20, "only {harmed} of 80 cuts were noticed");
}
