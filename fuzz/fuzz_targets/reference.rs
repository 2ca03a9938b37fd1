//! What parses as a reference prints as one that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::oci::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    let printed = reference.to_string();
    assert_eq!(Reference::parse(&printed).expect("its own form parses"), reference);
    let name = reference.repository.as_str();
    assert!(!name.starts_with('/') && !name.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
});
