//! The conformance suite that every sink and source must pass.

use super::{BlobUpload, BlobWriter, Ingest, Place, Publication, Sink, Source, Target};
use crate::error::ErrorKind;
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;

/// A sample image: an index of two children that share a layer.
pub(crate) struct Sample {
    pub(crate) blobs: Vec<Bytes>,
    pub(crate) manifests: Vec<Arc<RawManifest>>,
}

fn describe(kind: &str, content: &[u8]) -> String {
    let (digest, size) = (Digest::of(content), content.len());
    format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#)
}

fn manifest(json: String) -> Arc<RawManifest> {
    Arc::new(RawManifest::new(json.into(), None).unwrap())
}

/// The sample `name`, with layers of `size` bytes.
pub(crate) fn sample(name: &str, size: usize) -> Sample {
    let layer = |number: usize| -> Bytes {
        let seed = format!("{name} layer {number} ");
        seed.bytes().cycle().take(size.max(seed.len())).collect::<Vec<_>>().into()
    };
    let configs = ["amd64", "arm64"].map(|architecture| {
        Bytes::from(format!(r#"{{"architecture":"{architecture}","os":"linux","name":"{name}"}}"#))
    });
    let shared = Bytes::from_static(b"a layer that every sample has");
    let children = [0, 1].map(|number| {
        manifest(format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{},{}]}}"#,
            describe("config.v1+json", &configs[number]),
            describe("layer.v1.tar", &shared),
            describe("layer.v1.tar", &layer(number)),
        ))
    });
    let [one, other] = [0, 1].map(|number| describe("manifest.v1+json", &children[number].bytes));
    let index = manifest(format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{one},{other}]}}"#
    ));
    let [first, second] = configs;
    let [amd64, arm64] = children;
    Sample { blobs: vec![first, second, shared, layer(0), layer(1)], manifests: vec![amd64, arm64, index] }
}

impl Sample {
    pub(crate) fn root(&self) -> Digest {
        self.manifests[2].digest
    }

    pub(crate) fn publication(&self, places: &[(&str, Option<&str>)]) -> Publication {
        Publication {
            places: places
                .iter()
                .map(|(repository, tag)| Place {
                    repository: repository.parse().unwrap(),
                    tag: tag.map(|tag| tag.parse().unwrap()),
                })
                .collect(),
            manifests: self.manifests.clone(),
            blobs: self.blobs.iter().map(|blob| Digest::of(blob)).collect(),
            ..Publication::default()
        }
    }
}

fn descriptor(content: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(content), content.len() as u64)
}

/// A repository, for tests where it does not matter which.
fn home() -> Repository {
    "demo/one".parse().unwrap()
}

/// Writes `content` unless it is present; returns whether it was written.
pub(crate) async fn put<S: Sink>(sink: &S, content: &[u8]) -> bool {
    put_in(sink, &home(), content).await
}

async fn put_in<S: Sink>(sink: &S, repository: &Repository, content: &[u8]) -> bool {
    let descriptor = descriptor(content);
    match sink.ingest(repository, &descriptor).await.unwrap() {
        Ingest::Present => false,
        Ingest::Upload(mut upload) => {
            let from = upload.received().await.unwrap() as usize;
            upload.write(Bytes::copy_from_slice(&content[from..])).await.unwrap();
            upload.commit(&descriptor.digest).await.unwrap();
            true
        }
        Ingest::Write(writer) => {
            let from = writer.received() as usize;
            writer.write_at(from as u64, &content[from..]).unwrap();
            writer.commit(&descriptor.digest).unwrap();
            true
        }
    }
}

async fn writer<S: Sink>(sink: &S, content: &[u8]) -> S::Writer {
    match sink.ingest(&home(), &descriptor(content)).await.unwrap() {
        Ingest::Write(writer) => writer,
        _ => panic!("nothing to write to"),
    }
}

/// Publishes the sample "one" as `demo/one:1.0`, `one:1.0` and, without a tag, in `pinned`.
pub(crate) async fn publish_sample<S: Sink>(sink: &S) {
    let sample = sample("one", 100);
    let places = [("demo/one", Some("1.0")), ("one", Some("1.0")), ("pinned", None)];
    put_all(sink, &sample, &places).await;
    sink.publish(sample.publication(&places)).await.unwrap();
}

/// Writes the sample's blobs, for each of the places if the sink does not share them.
async fn put_all<S: Sink>(sink: &S, sample: &Sample, places: &[(&str, Option<&str>)]) {
    let apart = if S::SHARES_BLOBS_ACROSS_REPOSITORIES { 1 } else { places.len() };
    for (name, _) in &places[..apart] {
        for blob in &sample.blobs {
            put_in(sink, &name.parse().unwrap(), blob).await;
        }
    }
}

/// Runs the suite on empty sinks from `open`.
pub(crate) async fn sink<S: Sink>(mut open: impl FnMut() -> S) {
    empty_has_nothing(open()).await;
    a_published_image_is_there(open()).await;
    blobs_arrive_in_any_order(open()).await;
    an_interrupted_blob_goes_on(open()).await;
    only_what_is_contiguous_counts(open()).await;
    what_lies_beyond_a_gap_came_or_is_forgotten(open()).await;
    a_discarded_blob_starts_again(open()).await;
    what_is_not_whole_is_not_committed(open()).await;
    one_writes_while_others_wait(open()).await;
    a_tag_moves_and_remembers(open()).await;
    publishing_again_changes_nothing(open()).await;
}

/// Runs the suite on empty upload sinks from `open`.
pub(crate) async fn uploads<S: Sink>(mut open: impl FnMut() -> S) {
    empty_has_nothing(open()).await;
    a_published_image_is_there(open()).await;
    what_is_sent_in_order_is_there(open()).await;
    an_upload_that_was_dropped_leaves_nothing(open()).await;
    what_hashes_to_something_else_is_not_committed(open()).await;
    a_tag_moves_and_remembers(open()).await;
    publishing_again_changes_nothing(open()).await;
}

async fn upload<S: Sink>(sink: &S, content: &[u8]) -> S::Upload {
    match sink.ingest(&home(), &descriptor(content)).await.unwrap() {
        Ingest::Upload(upload) => upload,
        _ => panic!("nothing to send to"),
    }
}

/// One size that fits one request, and one that does not.
const UPLOADS: [usize; 4] = [0, 10, 300_000, 3_000_000];

async fn what_is_sent_in_order_is_there<S: Sink>(sink: S) {
    for size in UPLOADS {
        let content: Bytes = (0..size).map(|at| (at / 3) as u8).collect();
        let mut upload = upload(&sink, &content).await;
        assert_eq!(upload.received().await.unwrap(), 0);
        for start in (0..size).step_by(70_001) {
            upload.write(content.slice(start..size.min(start + 70_001))).await.unwrap();
        }
        upload.commit(&Digest::of(&content)).await.unwrap();
        assert!(sink.has_blob(&home(), &descriptor(&content)).await.unwrap());
        assert!(sink.is_linked(&home(), &Digest::of(&content)).await.unwrap());
        assert!(!put(&sink, &content).await, "{size} bytes are there");
    }
}

async fn an_upload_that_was_dropped_leaves_nothing<S: Sink>(sink: S) {
    for size in UPLOADS {
        let content: Bytes = (0..size).map(|at| (at / 5) as u8).collect();
        let mut first = upload(&sink, &content).await;
        assert_eq!(first.received().await.unwrap(), 0);
        if size > 0 {
            first.write(content.slice(..size / 2)).await.unwrap();
        }
        drop(first);
        assert!(!sink.has_blob(&home(), &descriptor(&content)).await.unwrap());
        assert!(put(&sink, &content).await);
    }
}

async fn what_hashes_to_something_else_is_not_committed<S: Sink>(sink: S) {
    for size in UPLOADS {
        let content = vec![7; size];
        let (mut upload, other) = (upload(&sink, &content).await, Digest::of(b"other"));
        upload.write(content.clone().into()).await.unwrap();
        assert_eq!(upload.commit(&other).await.unwrap_err().kind(), ErrorKind::Corrupt, "{size}");
        assert!(!sink.is_linked(&home(), &other).await.unwrap());
        assert!(put(&sink, &content).await);
    }
}

async fn empty_has_nothing<S: Sink>(sink: S) {
    let (repository, tag): (Repository, Tag) = ("demo/one".parse().unwrap(), "1.0".parse().unwrap());
    let digest = Digest::of(b"x");
    assert_eq!(sink.tag(&repository, &tag).await.unwrap(), None);
    assert!(!sink.tag_has_named(&repository, &tag, &digest).await.unwrap());
    assert_eq!(sink.content(&digest, 100).await.unwrap(), None);
    assert!(!sink.has_blob(&home(), &descriptor(b"x")).await.unwrap());
    assert!(!sink.is_linked(&repository, &digest).await.unwrap());
    assert!(!sink.is_revision(&repository, &digest).await.unwrap());
}

async fn a_published_image_is_there<S: Sink>(sink: S) {
    publish_sample(&sink).await;
    let sample = sample("one", 100);
    let tag: Tag = "1.0".parse().unwrap();
    for name in ["demo/one", "one", "pinned"] {
        let repository: Repository = name.parse().unwrap();
        let tagged = (name != "pinned").then_some(sample.root());
        assert_eq!(sink.tag(&repository, &tag).await.unwrap(), tagged);
        assert_eq!(sink.tag_has_named(&repository, &tag, &sample.root()).await.unwrap(), tagged.is_some());
        for manifest in &sample.manifests {
            assert!(sink.is_revision(&repository, &manifest.digest).await.unwrap());
            // Some registries serve manifests as blobs too.
            assert!(
                !S::SHARES_BLOBS_ACROSS_REPOSITORIES
                    || !sink.is_linked(&repository, &manifest.digest).await.unwrap()
            );
            let limit = manifest.bytes.len() as u64;
            let whole = Some(&manifest.bytes).filter(|_| S::SHARES_BLOBS_ACROSS_REPOSITORIES);
            assert_eq!(sink.content(&manifest.digest, limit).await.unwrap().as_ref(), whole);
            assert_eq!(sink.content(&manifest.digest, limit - 1).await.unwrap(), None);
        }
        for blob in &sample.blobs {
            let mut descriptor = descriptor(blob);
            assert!(sink.is_linked(&repository, &descriptor.digest).await.unwrap());
            // docker-registry returns 500 for a manifest that is requested as a blob.
            assert!(
                !S::SHARES_BLOBS_ACROSS_REPOSITORIES
                    || !sink.is_revision(&repository, &descriptor.digest).await.unwrap()
            );
            assert!(sink.has_blob(&repository, &descriptor).await.unwrap());
            descriptor.size += 1;
            assert!(!sink.has_blob(&repository, &descriptor).await.unwrap());
        }
    }
}

async fn blobs_arrive_in_any_order<S: Sink>(sink: S) {
    let content: Bytes = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
    let writer = Arc::new(writer(&sink, &content).await);
    let mut order: Vec<usize> = (0..content.len()).step_by(777).collect();
    order.reverse();
    std::thread::scope(|scope| {
        for offsets in order.chunks(order.len().div_ceil(4)) {
            let (writer, content) = (&writer, &content);
            scope.spawn(move || {
                for start in offsets {
                    let end = (start + 777).min(content.len());
                    writer.write_at(*start as u64, &content[*start..end]).unwrap();
                }
            });
        }
    });
    let mut back = vec![0; content.len() + 10];
    assert_eq!(writer.read_at(0, &mut back).unwrap(), content.len());
    assert_eq!(back[..content.len()], content);
    assert_eq!(writer.read_at(39_000, &mut back[..50]).unwrap(), 50);
    assert_eq!(back[..50], content[39_000..39_050]);
    Arc::into_inner(writer).unwrap().commit(&Digest::of(&content)).unwrap();
    assert!(sink.has_blob(&home(), &descriptor(&content)).await.unwrap());
    assert!(!put(&sink, &content).await);
}

async fn an_interrupted_blob_goes_on<S: Sink>(sink: S) {
    let content = b"content that comes in two runs";
    let first = writer(&sink, content).await;
    assert_eq!(first.received(), 0);
    first.write_at(0, &content[..10]).unwrap();
    drop(first);
    assert!(!sink.has_blob(&home(), &descriptor(content)).await.unwrap());
    let second = writer(&sink, content).await;
    assert_eq!(second.received(), 10);
    let mut back = [0; 10];
    assert_eq!(second.read_at(0, &mut back).unwrap(), 10);
    assert_eq!(back, content[..10]);
    second.write_at(10, &content[10..]).unwrap();
    second.commit(&Digest::of(content)).unwrap();
    assert!(!put(&sink, content).await);
}

async fn only_what_is_contiguous_counts<S: Sink>(sink: S) {
    let content = b"0123456789abcdefghij";
    let first = writer(&sink, content).await;
    first.write_at(0, &content[..5]).unwrap();
    first.write_at(10, &content[10..15]).unwrap();
    drop(first);
    let second = writer(&sink, content).await;
    assert_eq!(second.received(), 5);
    second.write_at(5, &content[5..]).unwrap();
    second.commit(&Digest::of(content)).unwrap();
}

async fn what_lies_beyond_a_gap_came_or_is_forgotten<S: Sink>(sink: S) {
    let content: Vec<u8> = (1..=251).collect::<Vec<u8>>().repeat(80_000);
    let pieces = [0..3_000_001, 3_000_500..9_000_001, 12_000_000..19_000_000];
    let first = writer(&sink, &content).await;
    for piece in &pieces {
        first.write_at(piece.start as u64, &content[piece.clone()]).unwrap();
    }
    drop(first);
    let second = writer(&sink, &content).await;
    assert!(second.received() <= 3_000_001 && second.received() > 1_000_000, "{}", second.received());
    let mut at = 0;
    for extent in std::iter::once(0..second.received()).chain(second.extents()) {
        assert!(at <= extent.start && (extent.is_empty() || at < extent.end), "{:?}", second.extents());
        let extent = extent.start as usize..extent.end as usize;
        assert!(
            pieces.iter().any(|piece| piece.start <= extent.start && extent.end <= piece.end),
            "{extent:?}"
        );
        let mut back = vec![0; extent.len()];
        assert_eq!(second.read_at(extent.start as u64, &mut back).unwrap(), back.len());
        assert!(back == content[extent.clone()], "{extent:?} is not what was written");
        second.write_at(at, &content[at as usize..extent.start]).unwrap();
        at = extent.end as u64;
    }
    second.write_at(at, &content[at as usize..]).unwrap();
    second.commit(&Digest::of(&content)).unwrap();
    assert!(sink.has_blob(&home(), &descriptor(&content)).await.unwrap());
}

async fn a_discarded_blob_starts_again<S: Sink>(sink: S) {
    let content = b"wrong at first";
    let first = writer(&sink, content).await;
    first.write_at(0, b"WRONG AT").unwrap();
    first.discard().unwrap();
    let second = writer(&sink, content).await;
    assert_eq!(second.received(), 0);
    second.write_at(0, content).unwrap();
    second.commit(&Digest::of(content)).unwrap();
}

async fn what_is_not_whole_is_not_committed<S: Sink>(sink: S) {
    let content = b"0123456789";
    let digest = Digest::of(content);
    let short = writer(&sink, content).await;
    short.write_at(0, &content[..9]).unwrap();
    assert_eq!(short.commit(&digest).unwrap_err().kind(), ErrorKind::Corrupt);
    let gap = writer(&sink, content).await;
    assert_eq!(gap.received(), 9);
    gap.discard().unwrap();
    let gap = writer(&sink, content).await;
    gap.write_at(0, &content[..4]).unwrap();
    gap.write_at(5, &content[5..]).unwrap();
    assert_eq!(gap.commit(&digest).unwrap_err().kind(), ErrorKind::Corrupt);
    let long = writer(&sink, content).await;
    assert_eq!(long.write_at(5, b"567890").unwrap_err().kind(), ErrorKind::Corrupt);
    long.discard().unwrap();
    let other = writer(&sink, content).await;
    other.write_at(0, content).unwrap();
    assert_eq!(other.commit(&Digest::of(b"other")).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!sink.has_blob(&home(), &descriptor(content)).await.unwrap());
}

async fn one_writes_while_others_wait<S: Sink>(sink: S) {
    let home = home();
    let content = b"asked for twice";
    let first = writer(&sink, content).await;
    let wanted = descriptor(content);
    let mut second = std::pin::pin!(sink.ingest(&home, &wanted));
    assert!(futures::poll!(&mut second).is_pending());
    first.write_at(0, content).unwrap();
    first.commit(&Digest::of(content)).unwrap();
    assert!(matches!(second.await.unwrap(), Ingest::Present));

    // When the first is dropped, the second resumes where it stopped.
    let content = b"given up by the first";
    let first = writer(&sink, content).await;
    first.write_at(0, &content[..5]).unwrap();
    let wanted = descriptor(content);
    let mut second = std::pin::pin!(sink.ingest(&home, &wanted));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    let Ingest::Write(second) = second.await.unwrap() else { panic!("present") };
    assert_eq!(second.received(), 5);
}

async fn a_tag_moves_and_remembers<S: Sink>(sink: S) {
    let (old, new) = (sample("old", 10), sample("new", 10));
    let (repository, tag): (Repository, Tag) = ("demo".parse().unwrap(), "latest".parse().unwrap());
    for sample in [&old, &new] {
        put_all(&sink, sample, &[("demo", None)]).await;
        sink.publish(sample.publication(&[("demo", Some("latest"))])).await.unwrap();
        assert_eq!(sink.tag(&repository, &tag).await.unwrap(), Some(sample.root()));
    }
    for sample in [&old, &new] {
        let remembers = S::SHARES_BLOBS_ACROSS_REPOSITORIES || sample.root() == new.root();
        assert_eq!(sink.tag_has_named(&repository, &tag, &sample.root()).await.unwrap(), remembers);
        assert!(sink.is_revision(&repository, &sample.root()).await.unwrap());
    }
}

async fn publishing_again_changes_nothing<S: Sink>(sink: S) {
    publish_sample(&sink).await;
    publish_sample(&sink).await;
    let sample = sample("one", 100);
    let (repository, tag): (Repository, Tag) = ("one".parse().unwrap(), "1.0".parse().unwrap());
    assert_eq!(sink.tag(&repository, &tag).await.unwrap(), Some(sample.root()));
}

/// Runs the suite on a source with the content of [`publish_sample`].
pub(crate) async fn source<S: Source>(source: &S) {
    let sample = sample("one", 100);
    let (repository, tag): (Repository, Tag) = ("demo/one".parse().unwrap(), "1.0".parse().unwrap());
    assert_eq!(source.resolve(&repository, &tag).await.unwrap().digest, sample.root());
    for target in [Target::Tag(tag), Target::Digest(sample.root())] {
        assert_eq!(source.manifest(&repository, &target).await.unwrap(), *sample.manifests[2]);
    }
    for child in &sample.manifests[..2] {
        let target = Target::Digest(child.digest);
        assert_eq!(source.manifest(&repository, &target).await.unwrap(), **child);
    }
    let absent = source.manifest(&repository, &Target::Digest(Digest::of(b"no"))).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let absent = source.resolve(&repository, &"no".parse().unwrap()).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    for blob in &sample.blobs {
        for (from, to) in [(0, None), (7, None), (7, Some(12)), (0, Some(1))] {
            let stream = source.blob(&repository, &descriptor(blob), from, to).await.unwrap();
            let chunks: Vec<Bytes> = stream.chunks.map(Result::unwrap).collect().await;
            let end = to.map_or(blob.len(), |to| to as usize);
            let skipped = (from - stream.start) as usize;
            assert_eq!(chunks.concat()[skipped..], blob[from as usize..end]);
        }
    }
    let absent = source.blob(&repository, &descriptor(b"no"), 0, None).await.err().unwrap();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}
