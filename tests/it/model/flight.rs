//! One digest is one download, and whoever fails to bring it hands it on.

use crate::support::images::{Image as Made, noise, place};
use bytes::Bytes;
use futures::StreamExt;
use saver::content::memory::Memory;
use saver::content::{BlobStream, Resolved, Source, Target};
use saver::oci::{Descriptor, Digest, RawManifest, Reference, Repository, Tag};
use saver::transfer::{Engine, Image, Report, Silent, Status, TransferOptions};
use saver::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A registry in memory that can fail with one blob after some of it came.
struct Failing {
    memory: Memory,
    /// The blob, and how many bytes of it come.
    blob: Option<(Digest, usize)>,
    /// It waits for this before it fails, or for ever.
    go: Option<Arc<Notify>>,
    given: AtomicU64,
}

impl Failing {
    fn new(images: &[(&str, &Made)]) -> Self {
        let memory = Memory::new();
        for (name, image) in images {
            let place = place(name);
            for blob in &image.blobs {
                memory.insert_blob(&place.repository, blob.clone());
            }
            let (root, below) = image.manifests.split_last().unwrap();
            below.iter().for_each(|raw| memory.insert_manifest(&place.repository, None, raw));
            memory.insert_manifest(&place.repository, place.tag.as_ref(), root);
        }
        Self { memory, blob: None, go: None, given: AtomicU64::new(0) }
    }
}

impl Source for Failing {
    async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Resolved> {
        self.memory.resolve(repository, tag).await
    }

    async fn manifest(&self, repository: &Repository, target: &Target) -> Result<RawManifest> {
        self.memory.manifest(repository, target).await
    }

    async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        from: u64,
        to: Option<u64>,
    ) -> Result<BlobStream> {
        let mut stream = self.memory.blob(repository, descriptor, from, to).await?;
        let Some((_, share)) = self.blob.filter(|(digest, _)| *digest == descriptor.digest) else {
            self.given.fetch_add(stream.length.unwrap(), Ordering::SeqCst);
            return Ok(stream);
        };
        let whole = stream.chunks.next().await.unwrap()?;
        let go = self.go.clone();
        let first = futures::stream::iter([Ok(whole.slice(..share))]);
        let then = futures::stream::once(async move {
            match go {
                Some(go) => go.notified().await,
                None => std::future::pending().await,
            }
            Err(Error::new(ErrorKind::NotFound, "blob", "gone"))
        });
        Ok(BlobStream { start: stream.start, length: None, chunks: first.chain(then).boxed() })
    }
}

fn asked(source: &Arc<Failing>, registry: &str, name: &str) -> Image<Failing> {
    Image {
        source: source.clone(),
        reference: Reference::parse(&format!("{registry}/{name}")).unwrap(),
        platforms: None,
        place: place(&format!("{registry}/{name}")),
        alias: None,
        resolved: None,
        pinned: None,
        origin: None,
        warnings: Vec::new(),
    }
}

async fn run(sink: &Memory, images: Vec<Image<Failing>>) -> Report {
    let engine = Engine::new(Arc::new(sink.clone()), TransferOptions::default(), Arc::new(Silent)).unwrap();
    let cancel = CancellationToken::new();
    let run = Arc::new(engine);
    let run = run.run(images, &cancel);
    tokio::time::timeout(std::time::Duration::from_secs(60), run).await.expect("the run hangs")
}

fn statuses(report: &Report) -> Vec<Status> {
    report.images.iter().map(|image| image.status).collect()
}

/// The next image goes on where the failed one left off, and from its own registry.
#[tokio::test]
async fn failed_owner_passes_the_blob_on() {
    let shared = noise("shared", 900 << 10);
    let (first, second) = (
        Made::single("first", std::slice::from_ref(&shared), &[]),
        Made::single("second", std::slice::from_ref(&shared), &[]),
    );
    let go = Arc::new(Notify::new());
    let mut bad = Failing::new(&[("a:v1", &first)]);
    bad.blob = Some((Digest::of(&shared), 300 << 10));
    bad.go = Some(go.clone());
    let (bad, good) = (Arc::new(bad), Arc::new(Failing::new(&[("b:v1", &second)])));
    go.notify_one();
    let sink = Memory::new();
    let report =
        run(&sink, vec![asked(&bad, "one.example", "a:v1"), asked(&good, "two.example", "b:v1")]).await;
    assert_eq!(statuses(&report), [Status::Failed, Status::Saved]);
    assert_eq!(report.images[0].error.as_ref().unwrap().kind, ErrorKind::NotFound);
    assert_eq!(sink.contents().blobs[&Digest::of(&shared)], shared);
    let config = second.blobs[0].len() as u64;
    let given = good.given.load(Ordering::SeqCst);
    assert!(given <= (600 << 10) + config * 2, "{given} bytes: what had come was fetched again");
    assert_eq!(sink.contents().tags.len(), 1);
}

/// An owner that is given up, because another of its blobs is gone, while it waits for ever in the shared one.
#[tokio::test]
async fn cancelled_owner_passes_the_blob_on() {
    let (shared, gone) = (noise("shared", 900 << 10), noise("gone", 1000));
    let first = Made::single("first", &[shared.clone(), gone.clone()], &[]);
    let second = Made::single("second", std::slice::from_ref(&shared), &[]);
    let mut without = first.clone();
    without.blobs.retain(|blob| *blob != gone);
    let mut bad = Failing::new(&[("a:v1", &without)]);
    bad.blob = Some((Digest::of(&shared), 300 << 10));
    let (bad, good) = (Arc::new(bad), Arc::new(Failing::new(&[("b:v1", &second)])));
    let sink = Memory::new();
    let report =
        run(&sink, vec![asked(&bad, "one.example", "a:v1"), asked(&good, "two.example", "b:v1")]).await;
    assert_eq!(statuses(&report), [Status::Failed, Status::Saved]);
    assert_eq!(sink.contents().blobs[&Digest::of(&shared)], shared);
}

/// `image` with every mention of `size` as a size made another one.
fn lying(image: &Made, size: usize, lie: usize) -> Made {
    let mut image = image.clone();
    let root = image.manifests.pop().unwrap();
    let text = String::from_utf8(root.bytes.to_vec()).unwrap();
    let lied = text.replace(&format!("\"size\":{size}}}"), &format!("\"size\":{lie}}}"));
    assert_ne!(text, lied);
    image.manifests.push(Arc::new(RawManifest::new(Bytes::from(lied), None).unwrap()));
    image
}

/// Two images of one repository name one blob; the one that lies about its size fails alone, whichever is first.
#[tokio::test]
async fn wrong_declared_size_fails_only_its_image() {
    for size in [5000, 600 << 10] {
        for lie in [size - 1000, size + 1000, 10, 2 << 20] {
            let shared = noise("shared", size);
            let honest = Made::single("honest", std::slice::from_ref(&shared), &[]);
            let liar = lying(&Made::single("liar", std::slice::from_ref(&shared), &[]), size, lie);
            for liar_first in [true, false] {
                let source = Arc::new(Failing::new(&[("a:honest", &honest), ("a:liar", &liar)]));
                let mut images =
                    vec![asked(&source, "one.example", "a:honest"), asked(&source, "one.example", "a:liar")];
                if liar_first {
                    images.reverse();
                }
                let sink = Memory::new();
                let engine_options = {
                    let mut options = TransferOptions::default();
                    options.retry.first_delay = std::time::Duration::from_micros(1);
                    options.retry.max_delay = std::time::Duration::from_micros(5);
                    options
                };
                let engine = Engine::new(Arc::new(sink.clone()), engine_options, Arc::new(Silent)).unwrap();
                let report = Arc::new(engine).run(images, &CancellationToken::new()).await;
                for image in &report.images {
                    let honest = image.reference.tag.as_ref().unwrap().as_str() == "honest";
                    let expect = if honest { Status::Saved } else { Status::Failed };
                    let context =
                        format!("{size} said to be {lie}, liar first: {liar_first}: {:?}", image.error);
                    assert_eq!(image.status, expect, "{context}");
                }
                assert_eq!(sink.contents().tags.len(), 1);
                assert_eq!(sink.contents().blobs[&Digest::of(&shared)], shared);
            }
        }
    }
}
