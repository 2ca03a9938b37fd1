//! YAML lists: no input takes long or shows a password in messages about it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let mut yaml = b"- registry: a.io\n  username: u\n  password: hunter2-hunter2\n  images:\n".to_vec();
    yaml.extend_from_slice(text);
    for input in [text, &yaml] {
        let parsed = saver::list::parse("list.yaml", input);
        let output = format!("{:?} {:?} {:?}", parsed.entries, parsed.problems, parsed.notes);
        assert!(!output.contains("hunter2-hunter2") || text.windows(7).any(|window| window == b"hunter2"));
    }
});
