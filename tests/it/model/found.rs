//! Cases that once went wrong, kept by name.

use crate::support::images::{Image as Made, noise, place};
use saver::content::memory::{Contents, Memory};
use saver::oci::{Digest, Manifest, PlatformSet, RawManifest, Reference};
use saver::transfer::{Engine, Image, IndexMode, Report, Silent, Status, TransferOptions};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

fn index(entries: &[String]) -> RawManifest {
    let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    RawManifest::new(json.into(), None).unwrap()
}

fn entry(raw: &RawManifest, architecture: Option<&str>) -> String {
    let platform = architecture
        .map(|name| format!(r#","platform":{{"os":"linux","architecture":"{name}"}}"#))
        .unwrap_or_default();
    format!(r#"{{"digest":"{}","size":{}{platform}}}"#, raw.digest, raw.bytes.len())
}

/// Saves the index `root` over what `made` is made of.
async fn save(made: &[&Made], roots: &[&RawManifest], arch: &str, mode: IndexMode) -> (Report, Contents) {
    let (source, sink) = (Memory::new(), Memory::new());
    let place = place("app:v1");
    for image in made {
        for blob in &image.blobs {
            source.insert_blob(&place.repository, blob.clone());
        }
        image.manifests.iter().for_each(|raw| source.insert_manifest(&place.repository, None, raw));
    }
    roots.iter().for_each(|raw| source.insert_manifest(&place.repository, place.tag.as_ref(), raw));
    let mut options = TransferOptions::default();
    options.platforms = PlatformSet::parse(arch, "linux").unwrap();
    options.index = mode;
    let engine = Engine::new(Arc::new(sink.clone()), options, Arc::new(Silent)).unwrap();
    let image = Image {
        source: Arc::new(source),
        reference: Reference::parse("one.example/app:v1").unwrap(),
        platforms: None,
        place,
        alias: None,
        resolved: None,
        pinned: None,
        origin: None,
        warnings: Vec::new(),
    };
    let report = Arc::new(engine).run(vec![image], &CancellationToken::new()).await;
    (report, sink.contents())
}

fn kept(contents: &Contents, digest: Digest) -> Vec<String> {
    let raw = RawManifest::new(contents.blobs[&digest].clone(), None).unwrap();
    let Manifest::Index(index) = raw.parse().unwrap() else { panic!("not an index") };
    index.manifests.iter().map(|entry| entry.platform.as_ref().unwrap().to_string()).collect()
}

/// One manifest for several platforms: an image of nothing but data, say.
#[tokio::test]
async fn platforms_sharing_a_manifest_are_all_saved() {
    let data = Made::single("data", &[noise("data", 500)], &[]);
    let raw = data.manifests[0].clone();
    let root = index(&[entry(&raw, Some("s390x")), entry(&raw, Some("amd64")), entry(&raw, Some("arm64"))]);
    for (arch, mode, expect) in [
        ("amd64,arm64", IndexMode::Keep, vec!["linux/s390x", "linux/amd64", "linux/arm64"]),
        ("amd64,arm64", IndexMode::Prune, vec!["linux/amd64", "linux/arm64"]),
        ("arm64", IndexMode::Prune, vec!["linux/arm64"]),
        ("all", IndexMode::Prune, vec!["linux/s390x", "linux/amd64", "linux/arm64"]),
    ] {
        let (report, contents) = save(&[&data], &[&root], arch, mode).await;
        assert_eq!(report.images[0].status, Status::Saved, "{arch} {mode:?}: {:?}", report.images[0].error);
        assert_eq!(kept(&contents, report.images[0].digest.unwrap()), expect, "{arch} {mode:?}");
    }
    let (report, _) = save(&[&data], &[&root], "amd64,arm64", IndexMode::Flatten).await;
    assert_eq!(report.images[0].digest, Some(raw.digest), "one manifest can be flattened to");
}

/// The same manifest, named by the index and by an index in it, is one manifest.
#[tokio::test]
async fn manifest_named_twice_can_be_flattened() {
    let app = Made::single("app", &[noise("app", 500)], &[]);
    let raw = app.manifests[0].clone();
    let inner = index(&[entry(&raw, Some("amd64"))]);
    let root = index(&[entry(&raw, Some("amd64")), entry(&inner, None)]);
    let (report, _) = save(&[&app], &[&inner, &root], "amd64", IndexMode::Flatten).await;
    assert_eq!(report.images[0].digest, Some(raw.digest), "{:?}", report.images[0].error);
}

/// A layer whose bytes are a manifest of the same image is linked as a layer too.
#[tokio::test]
async fn manifest_that_is_also_a_layer_is_linked() {
    let inner = Made::single("inner", &[noise("inner", 500)], &[]);
    let raw = inner.manifests[0].clone();
    let outer = Made::single("outer", std::slice::from_ref(&raw.bytes), &[]);
    let root = index(&[entry(&raw, Some("amd64")), entry(&outer.manifests[0], Some("amd64"))]);
    let (report, contents) = save(&[&inner, &outer], &[&root], "all", IndexMode::Keep).await;
    assert_eq!(report.images[0].status, Status::Saved);
    assert!(contents.links.contains(&(place("app").repository, raw.digest)));
}

/// Two manifests of one image that tell different sizes of one blob: one of them is wrong.
#[tokio::test]
async fn conflicting_sizes_of_one_blob_are_corrupt() {
    let blob = noise("blob", 700);
    let (first, second) =
        (Made::single("first", std::slice::from_ref(&blob), &[]), Made::single("second", &[blob], &[]));
    let text = String::from_utf8(second.manifests[0].bytes.to_vec()).unwrap();
    let mut liar = second.clone();
    let lied = text.replace(r#""size":700}"#, r#""size":701}"#);
    liar.manifests = vec![Arc::new(RawManifest::new(lied.into(), None).unwrap())];
    let root = index(&[entry(&first.manifests[0], Some("amd64")), entry(&liar.manifests[0], Some("arm64"))]);
    let (report, contents) = save(&[&first, &liar], &[&root], "all", IndexMode::Keep).await;
    assert_eq!(report.images[0].status, Status::Failed);
    assert!(contents.tags.is_empty());
}
