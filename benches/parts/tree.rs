//! Writing the tree: small images into a directory, from their blobs to their tags.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use futures::future::try_join_all;
use saver::content::{BlobWriter, Ingest, Place, Publication, Sink};
use saver::oci::{Descriptor, Digest, RawManifest, Repository};
use saver::store::{Durability, Store, StoreOptions};
use std::sync::Arc;

/// Images published side by side, so that they share their steps.
const IMAGES: usize = 64;

/// With one blob, one manifest, two links and a tag each, not synced: what the directory costs, not the disk.
pub(crate) fn publish(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut options = StoreOptions::default();
    options.durability = Durability::None;
    let mut group = criterion.benchmark_group("tree");
    group.sample_size(20);
    group.throughput(Throughput::Elements(IMAGES as u64));
    group.bench_function("publish", |bencher| {
        bencher.iter_batched_ref(
            || {
                let root = tempfile::tempdir().expect("a directory");
                let store = Store::open(root.path(), options.clone()).expect("a store");
                (root, store)
            },
            |(_, store)| {
                let images = (0..IMAGES).map(|number| image(store, number));
                runtime.block_on(try_join_all(images)).expect("written images");
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

async fn image(store: &Store, number: usize) -> saver::Result<()> {
    let config = format!(r#"{{"architecture":"amd64","os":"linux","number":{number}}}"#);
    let digest = Digest::of(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    let manifest = RawManifest::new(Bytes::from(manifest), None)?;
    let saver::oci::Manifest::Image(parsed) = manifest.parse()? else { unreachable!("an image") };
    let repository: Repository = format!("bench/image-{number}").parse()?;
    write(store, &repository, &parsed.config, config.as_bytes()).await?;
    let place = Place { repository, tag: Some("v1".parse()?) };
    let manifests = vec![Arc::new(manifest)];
    store
        .publish(Publication {
            places: vec![place],
            manifests,
            blobs: vec![digest],
            ..Publication::default()
        })
        .await
}

async fn write(store: &Store, home: &Repository, blob: &Descriptor, content: &[u8]) -> saver::Result<()> {
    let Ingest::Write(writer) = store.ingest(home, blob).await? else { return Ok(()) };
    writer.write_at(0, content)?;
    writer.commit(&blob.digest)
}
