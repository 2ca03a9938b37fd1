//! Content-Range headers: an answer to what was asked is exactly that.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::registry::ContentRange;

fuzz_target!(|value: &str| {
    let Some(range) = ContentRange::parse(value) else { return };
    for size in [0, 1, 10, u64::MAX] {
        for from in [0, 5, 9, 10] {
            for to in [None, Some(6), Some(10), Some(u64::MAX)] {
                let is_part = matches!(range, ContentRange::Part { .. });
                assert!(!range.answers(from, to, size) || (is_part && from < size), "{value:?} {from} {to:?} {size}");
            }
        }
    }
});
