//! WWW-Authenticate headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    let _ = saver::registry::Challenge::parse(value);
});
