//! Micro-benchmarks: `cargo bench`, or `cargo bench -- sha256` for some of them. One program, since linking
//! it takes longer than most of them run.

// A benchmark that can't be set up ends there.
#![allow(clippy::expect_used)]

mod engine;
mod hash;
mod parse;
mod tree;

criterion::criterion_group!(
    benches,
    hash::lanes,
    parse::references,
    parse::manifests,
    tree::publish,
    engine::hash_and_write
);
criterion::criterion_main!(benches);
