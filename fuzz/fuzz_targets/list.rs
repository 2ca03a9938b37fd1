//! Any bytes are a list or a list of problems; each problem has a line; entries parse again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::oci::Reference;

fuzz_target!(|text: &[u8]| {
    let parsed = saver::list::parse("list", text);
    for entry in &parsed.entries {
        let printed = entry.reference.to_string();
        assert_eq!(Reference::parse(&printed).expect("its own form parses"), entry.reference);
    }
    // In YAML a lone carriage return ends a line too.
    let lines = text.iter().filter(|byte| matches!(**byte, b'\n' | b'\r')).count() as u64 + 1;
    for problem in &parsed.problems {
        assert!(problem.origin.line <= lines, "{problem:?}");
    }
});
