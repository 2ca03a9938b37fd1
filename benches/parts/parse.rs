//! What is read for every image: its name and its manifests.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use saver::oci::{Digest, RawManifest, Reference};
use std::fmt::Write;
use std::hint::black_box;

const NAMES: [&str; 4] = [
    "nginx",
    "bitnami/redis:7.2.4-debian-12-r9",
    "registry.example.com:5000/team/group/service:v1.2.3",
    "ghcr.io/acme/tool:1.0@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

/// Image names as lists have them.
pub(crate) fn references(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reference");
    group.throughput(Throughput::Elements(NAMES.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| NAMES.map(|name| Reference::parse(black_box(name)).expect("a name")));
    });
    group.finish();
}

/// An image of twelve layers, and an index of eight platforms with their attestations.
pub(crate) fn manifests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifest");
    for (name, text) in [("image", image(12)), ("index", index(8))] {
        let raw = RawManifest::new(Bytes::from(text), None).expect("a manifest");
        group.throughput(Throughput::Bytes(raw.bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let raw = RawManifest::new(black_box(raw.bytes.clone()), None).expect("a manifest");
                raw.parse().expect("a manifest")
            });
        });
    }
    group.finish();
}

fn image(layers: usize) -> String {
    let descriptor = |media_type: &str, number: usize| {
        let digest = Digest::of(&number.to_be_bytes());
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{media_type}","digest":"{digest}","size":{}}}"#,
            number * 1000
        )
    };
    let layers: Vec<_> = (1..=layers).map(|number| descriptor("layer.v1.tar+gzip", number)).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", 7),
        layers.join(",")
    )
}

fn index(platforms: usize) -> String {
    let mut entries = String::new();
    for number in 0..platforms * 2 {
        let digest = Digest::of(&number.to_le_bytes());
        let platform = if number < platforms {
            format!(r#"{{"architecture":"arm","os":"linux","variant":"v{number}"}}"#)
        } else {
            r#"{"architecture":"unknown","os":"unknown"}"#.to_owned()
        };
        let comma = if number == 0 { "" } else { "," };
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let _ = write!(
            entries,
            r#"{comma}{{"mediaType":"{media_type}","digest":"{digest}","size":1000,"platform":{platform}}}"#
        );
    }
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{entries}]}}"#
    )
}
