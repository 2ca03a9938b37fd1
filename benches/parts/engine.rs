//! The loop that everything passes: bytes from a source are written, read back, hashed and committed.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use saver::content::Place;
use saver::content::memory::Memory;
use saver::oci::{Digest, RawManifest, Reference, Repository, Tag};
use saver::store::{Durability, Store, StoreOptions};
use saver::transfer::{Engine, Image, Silent, TransferOptions};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const LAYERS: usize = 4;
const LAYER: usize = 16 << 20;

/// One image of four layers of 16 MiB, from memory into a directory.
pub(crate) fn hash_and_write(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let reference = Reference::parse("registry.example.com/bench/image:v1").expect("a name");
    let source = Arc::new(source(&reference.repository, &reference.tag.clone().expect("a tag")));
    let mut options = StoreOptions::default();
    options.durability = Durability::None;
    let mut group = criterion.benchmark_group("engine");
    group.sample_size(10);
    group.throughput(Throughput::Bytes((LAYERS * LAYER) as u64));
    group.bench_function("hash and write", |bencher| {
        bencher.iter_batched_ref(
            || {
                let root = tempfile::tempdir().expect("a directory");
                let store = Arc::new(Store::open(root.path(), options.clone()).expect("a store"));
                let engine =
                    Engine::new(store, TransferOptions::default(), Arc::new(Silent)).expect("an engine");
                (root, Arc::new(engine))
            },
            |(_, engine)| {
                let report =
                    runtime.block_on(engine.run(vec![image(&source, &reference)], &CancellationToken::new()));
                assert_eq!(report.bytes_fetched >> 20, (LAYERS * LAYER) as u64 >> 20);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn image(source: &Arc<Memory>, reference: &Reference) -> Image<Memory> {
    let place = Place { repository: reference.repository.clone(), tag: reference.tag.clone() };
    Image {
        source: source.clone(),
        reference: reference.clone(),
        platforms: None,
        place,
        alias: None,
        resolved: None,
        pinned: None,
        origin: None,
        warnings: Vec::new(),
    }
}

fn source(repository: &Repository, tag: &Tag) -> Memory {
    let memory = Memory::new();
    let descriptor = |media_type: &str, digest: Digest, size: usize| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{media_type}","digest":"{digest}","size":{size}}}"#
        )
    };
    let config = r#"{"architecture":"amd64","os":"linux"}"#;
    let digest = memory.insert_blob(repository, config);
    let layers: Vec<_> = (0..LAYERS)
        .map(|layer| {
            let content: Vec<u8> = (0..LAYER).map(|at| ((at >> 3) ^ (at * (layer + 3))) as u8).collect();
            let digest = memory.insert_blob(repository, Bytes::from(content));
            descriptor("layer.v1.tar", digest, LAYER)
        })
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", digest, config.len()),
        layers.join(",")
    );
    let manifest = RawManifest::new(Bytes::from(manifest), None).expect("a manifest");
    memory.insert_manifest(repository, Some(tag), &manifest);
    memory
}
