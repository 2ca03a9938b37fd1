//! Any bytes can be scanned; what is sure reads back from the printed list, and nothing else does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::scan::{Found, Kind, Review, text};
use std::collections::BTreeSet;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else { return };
    let (name, kind) = match first % 3 {
        0 => ("a.yaml", Kind::Yaml),
        1 => ("a.tmpl", Kind::Template),
        _ => ("imageList", Kind::List),
    };
    let mut found = Found::default();
    text(&mut found, name, kind, content);
    let list = Review::of(&found).to_list();
    let parsed = saver::list::parse("printed", list.as_bytes());
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let key = |entry: &saver::list::ListEntry| (entry.reference.clone(), entry.platforms.as_ref().map(ToString::to_string));
    let printed: BTreeSet<_> = parsed.entries.iter().map(key).collect();
    let sure: BTreeSet<_> = found.entries.iter().map(key).collect();
    assert_eq!(printed, sure);
    let lines = content.iter().filter(|byte| matches!(**byte, b'\n' | b'\r')).count() as u64 + 1;
    for entry in &found.entries {
        assert!(entry.origin.line <= lines, "{:?}", entry.origin);
    }
});
