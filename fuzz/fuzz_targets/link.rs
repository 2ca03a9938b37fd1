//! Link files: only the exact 71 bytes are one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::store::link;

fuzz_target!(|content: &[u8]| {
    if let Some(digest) = link::parse(content) {
        assert_eq!(content, link::format(&digest).as_bytes());
    }
});
