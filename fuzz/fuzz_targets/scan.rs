//! Any bytes can be scanned; what is sure reads back from the printed list, and nothing else does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saver::scan::{Discovery, ScanReport, TextFormat, text};
use std::collections::BTreeSet;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else { return };
    let (name, format) = match first % 8 {
        0 => ("a.yaml", TextFormat::Yaml),
        1 => ("a.tmpl", TextFormat::Template),
        2 => ("imageList", TextFormat::List),
        3 => ("a.txt", TextFormat::Text),
        4 => ("Dockerfile", TextFormat::Dockerfile),
        5 => ("a.container", TextFormat::Quadlet),
        6 => ("a.hcl", TextFormat::Hcl),
        _ => ("a", TextFormat::Any),
    };
    let mut found = Discovery::default();
    text(&mut found, name, format, content);
    let list = ScanReport::of(&found).to_list();
    let parsed = saver::list::parse("printed", list.as_bytes());
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let key = |entry: &saver::list::ListEntry| (entry.reference.clone(), entry.platforms.as_ref().map(ToString::to_string));
    let printed: BTreeSet<_> = parsed.entries.iter().map(key).collect();
    let sure: BTreeSet<_> = found.images.iter().map(key).collect();
    assert_eq!(printed, sure);
    let lines = content.iter().filter(|byte| matches!(**byte, b'\n' | b'\r')).count() as u64 + 1;
    for entry in &found.images {
        assert!(entry.origin.line <= lines, "{:?}", entry.origin);
    }
});
