//! Arbitrary bytes are an archive of images or refused, and every image that an archive lists can be requested.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::archive::Archive;
use saver::content::{Source, Target};
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Runs a future that never waits, as those of an archive do not.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("an archive never waits"),
    }
}

/// Corrects the checksums of what looks like headers: random input would rarely have valid ones.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let memory = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut file = File::from(memory);
    file.write_all(&summed(bytes)).expect("memory");
    let Ok(archive) = Archive::open(file, "archive.tar") else { return };
    let repository = "a/b".parse().expect("a name");
    for image in archive.images() {
        let Ok(root) = &image.root else { continue };
        if let Ok(raw) = now(archive.manifest(&repository, &Target::Digest(root.digest))) {
            assert_eq!(raw.digest, root.digest);
        }
        let _ = now(archive.blob(&repository, root, 0, None)).map(drop);
    }
});
