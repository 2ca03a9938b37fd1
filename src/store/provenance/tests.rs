use super::*;
use crate::content::Sink;
use crate::driver::{FsDriver, MemoryDriver};
use crate::oci::RawManifest;
use crate::store::StoreOptions;
use std::sync::Arc;
use std::time::Duration;

fn options(names: &str, replace: bool) -> StoreOptions {
    StoreOptions { names: Some(names.into()), replace, ..StoreOptions::default() }
}

fn open(driver: &MemoryDriver) -> Store {
    Store::with_driver(Arc::new(driver.clone()), options("strip", false))
}

fn place() -> Place {
    Place { repository: "team/app".parse().unwrap(), tag: Some("1.0".parse().unwrap()) }
}

/// An index without manifests, which needs no blobs, with `label` in it.
fn image(source: Option<&str>, label: &str) -> Publication {
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{{"label":"{label}"}}}}"#
    );
    let manifest = Arc::new(RawManifest::new(json.into(), None).unwrap());
    let origin = source.map(|name| ImageOrigin {
        reference: Reference::parse(name).unwrap(),
        digest: manifest.digest,
        platforms: vec!["linux/amd64".into()],
        index: "keep",
    });
    Publication { places: vec![place()], manifests: vec![manifest], origin, ..Publication::default() }
}

fn sources(store: &Store) -> Vec<String> {
    let records = store.provenance().unwrap();
    let mut names: Vec<String> = records.records().map(|record| record.source.to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn source_is_recorded_without_a_barrier_of_its_own() {
    let mut barriers = Vec::new();
    for source in [None, Some("a.io/team/app:1.0")] {
        let driver = MemoryDriver::new();
        let store = open(&driver);
        for label in ["one", "two"] {
            let image = image(source, label);
            store.publish(image.clone()).await.unwrap();
            let known = store.source_of(&place(), &image.root().unwrap()).unwrap();
            assert_eq!(known.map(|record| record.source.to_string()).as_deref(), source);
        }
        barriers.push(driver.barriers());
    }
    assert_eq!(barriers[0], barriers[1]);
    assert!(barriers[0] > 0);
}

#[tokio::test]
async fn unchanged_image_is_recorded_once() {
    let driver = MemoryDriver::new();
    let store = open(&driver);
    store.publish(image(None, "one")).await.unwrap();
    for _ in 0..2 {
        store.record_origin(&image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    }
    // Content that another registry has as well stays where it came from.
    store.record_origin(&image(Some("b.io/team/app:1.0"), "one")).await.unwrap();
    assert_eq!(sources(&open(&driver)), ["a.io/team/app:1.0"]);
    assert_eq!(store.provenance().unwrap().lines, 1);
}

#[tokio::test]
async fn tag_is_replaced_only_by_its_own_source() {
    let driver = MemoryDriver::new();
    open(&driver).publish(image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    let store = open(&driver);
    store.publish(image(Some("a.io/team/app:1.0"), "two")).await.unwrap();
    for other in ["b.io/team/app:1.0", "a.io/team/other:1.0"] {
        let other = image(Some(other), "three");
        for outcome in [store.preflight(&other).await, store.publish(other).await] {
            let error = outcome.unwrap_err();
            let Some(Detail::SourceConflict { recorded, .. }) = error.detail() else { panic!("{error}") };
            assert_eq!(recorded, "a.io/team/app:1.0");
            assert!(error.hint().unwrap().contains("--replace"));
        }
    }
    let store = Store::with_driver(Arc::new(driver.clone()), options("strip", true));
    let other = image(Some("b.io/team/app:1.0"), "three");
    store.publish(other.clone()).await.unwrap();
    let known = store.source_of(&place(), &other.root().unwrap()).unwrap().unwrap();
    assert_eq!(known.source.registry.as_str(), "b.io");
    // What is recorded of another digest does not count: a tag that another tool has moved may be replaced.
    open(&driver).publish(image(None, "four")).await.unwrap();
    open(&driver).publish(image(Some("c.io/team/app:1.0"), "five")).await.unwrap();
}

#[tokio::test]
async fn stores_at_once_write_to_files_of_their_own() {
    let driver = MemoryDriver::new();
    let held = driver.log(&path::sources(0)).unwrap().unwrap();
    open(&driver).publish(image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    drop(held);
    open(&driver).publish(image(Some("a.io/team/app:2.0"), "two")).await.unwrap();
    let files = driver.files();
    assert!([0, 1].iter().all(|number| !files[&path::sources(*number)].is_empty()), "{files:?}");
    assert_eq!(sources(&open(&driver)), ["a.io/team/app:1.0", "a.io/team/app:2.0"]);
}

#[tokio::test]
async fn second_rule_of_names_fails() {
    let driver = MemoryDriver::new();
    let held = driver.log(&path::sources(0)).unwrap().unwrap();
    open(&driver).publish(image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    drop(held);
    let store = Store::with_driver(Arc::new(driver.clone()), options("domain", false));
    let other =
        Publication { places: vec![Place { tag: None, ..place() }], ..image(Some("a.io/b:1"), "two") };
    let error = store.publish(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(open(&driver).recorded_names().unwrap().as_deref(), Some("strip"));
    assert_eq!(sources(&open(&driver)).len(), 1);
}

#[test]
fn only_whole_lines_of_this_version_count() {
    let whole = |tag: &str, version: u32| {
        let record = SourceRecord {
            version,
            repository: "team/app".parse().unwrap(),
            tag: Some(tag.parse().unwrap()),
            digest: Digest::of(b"x"),
            source: Reference::parse("a.io/team/app").unwrap(),
            source_digest: Digest::of(b"x"),
            platforms: Vec::new(),
            index: "keep".into(),
            names: None,
            time: 0,
        };
        line(&record).unwrap()
    };
    let torn = &whole("torn", 1)[..90];
    let long = format!("{{\"v\":1,\"pad\":\"{}\"}}", "x".repeat(MAX_LINE));
    let mut text = format!("{}{torn}\n{}\0\0\0\n{long}\n[]\n\n", whole("1", 1), whole("2", 2)).into_bytes();
    text.extend([0xff, b'\n']);
    text.extend(whole("3", 1).into_bytes());
    let mut read = Provenance::default();
    read.add(&text);
    let mut tags: Vec<_> = read.records().filter_map(|record| record.tag.clone()).collect();
    tags.sort();
    assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["1", "3"]);
}

#[tokio::test]
async fn file_with_many_old_records_is_rewritten() {
    let driver = MemoryDriver::new();
    let store = open(&driver);
    for number in 0..40 {
        store.publish(image(Some("a.io/team/app:1.0"), &number.to_string())).await.unwrap();
    }
    drop(store);
    let last = image(Some("a.io/team/app:1.0"), "last");
    open(&driver).publish(last.clone()).await.unwrap();
    let after = open(&driver);
    assert_eq!(after.provenance().unwrap().lines, 2, "that of the tag before, and the new one");
    assert!(after.source_of(&place(), &last.root().unwrap()).unwrap().is_some());
    assert_eq!(driver.files().keys().filter(|path| path.starts_with(path::SOURCES)).count(), 1);
}

#[tokio::test]
async fn file_with_a_second_name_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let driver = FsDriver::create(dir.path()).unwrap();
        Store::with_driver(Arc::new(driver), options("strip", false))
    };
    open().publish(image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    let first = dir.path().join(path::sources(0));
    let backup = dir.path().join("backup");
    std::fs::hard_link(&first, &backup).unwrap();
    let before = std::fs::read(&backup).unwrap();
    open().publish(image(Some("a.io/team/app:1.0"), "two")).await.unwrap();
    assert_eq!(std::fs::read(&backup).unwrap(), before);
    assert_eq!(open().provenance().unwrap().records().count(), 2);
}

#[tokio::test]
async fn forgotten_records_are_gone_and_the_rest_stays() {
    let driver = MemoryDriver::new();
    let store = open(&driver);
    store.publish(image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    let other =
        Publication { places: vec![Place { tag: None, ..place() }], ..image(Some("a.io/b:1"), "two") };
    store.publish(other).await.unwrap();
    let rewritten = store.forget_sources(&|record| record.tag.is_some()).unwrap();
    // Until the old file is removed, both are read.
    assert_eq!(sources(&open(&driver)).len(), 2);
    store.remove_source_files(&rewritten).unwrap();
    assert_eq!(sources(&open(&driver)), ["a.io/b:1"]);
    // The same store records again what it has forgotten.
    store.record_origin(&image(Some("a.io/team/app:1.0"), "one")).await.unwrap();
    assert_eq!(sources(&open(&driver)), ["a.io/b:1", "a.io/team/app:1.0"]);
}

#[tokio::test]
async fn tag_published_by_two_stores_at_once_gets_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let publish = async |source: &str| {
            let store = Store::open(&dir.path().join(round.to_string()), options("strip", false)).unwrap();
            store.publish(image(Some(source), source)).await.map_err(|error| error.kind())
        };
        let (first, second) = tokio::join!(publish("a.io/team/app:1.0"), publish("b.io/team/app:1.0"));
        let refused = Err(ErrorKind::InvalidInput);
        assert!(
            (first == Ok(()) && second == refused) || (first == refused && second == Ok(())),
            "{first:?} {second:?}"
        );
    }
}

#[tokio::test]
async fn tag_that_another_store_publishes_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let open = |replace| {
        let options = StoreOptions { peer_timeout: Duration::ZERO, ..options("strip", replace) };
        Store::open(dir.path(), options).unwrap()
    };
    let new = image(Some("a.io/team/app:1.0"), "new");
    let locks = open(false).lock_publication(&new).await.unwrap();
    for (replace, image, is_refused) in
        [(false, new.clone(), true), (true, new.clone(), false), (false, image(None, "from nowhere"), false)]
    {
        // The lock of the test stays, so what is published here must not need it.
        let outcome = open(replace).publish(image).await;
        assert_eq!(outcome.is_err(), is_refused, "{replace} {outcome:?}");
    }
    drop(locks);
    open(false).publish(new).await.unwrap();
}
