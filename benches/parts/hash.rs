//! Hashing speed: the `sha2` crate, and every kernel that this processor has with one stream and several.

use criterion::{BenchmarkId, Criterion, Throughput};
use saver::oci::sha256::{Kernel, Sha256State};
use sha2::Digest;
use std::hint::black_box;

/// One read of the hash follower, in bytes.
const READ: usize = 256 * 1024;

/// 256 KiB at a time, as the engine feeds them.
pub(crate) fn lanes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sha256");
    let buffer: Vec<u8> = (0..READ).map(|at| (at * 31) as u8).collect();

    group.throughput(Throughput::Bytes(READ as u64));
    group.bench_function("sha2", |bencher| {
        let mut digest = sha2::Sha256::new();
        bencher.iter(|| digest.update(black_box(&buffer)));
    });
    for kernel in Kernel::all() {
        for streams in 1..=8 {
            let buffers = vec![buffer.clone(); streams];
            let mut states = vec![Sha256State::new(); streams];
            group.throughput(Throughput::Bytes((streams * READ) as u64));
            group.bench_function(BenchmarkId::new(kernel.name(), streams), |bencher| {
                bencher.iter(|| {
                    let mut feed: Vec<_> = states.iter_mut().zip(buffers.iter().map(Vec::as_slice)).collect();
                    kernel.update(black_box(&mut feed));
                });
            });
        }
    }
    group.finish();
}
