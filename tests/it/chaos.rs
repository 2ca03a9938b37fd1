//! `scripts/chaos` as a test: random verbs against one directory, half of them killed, and an independent check of the directory.

use std::process::Command;

/// The duration in CI, in seconds. `SAVER_CHAOS_SECONDS` sets another one.
const SECONDS: &str = "20";

#[test]
fn directory_survives_killed_verbs_and_garbage_collection() {
    let root = env!("CARGO_MANIFEST_DIR");
    let seconds = std::env::var("SAVER_CHAOS_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    let output = Command::new("python3")
        .arg(format!("{root}/scripts/chaos"))
        .args(["--seed", "1", "--seconds", &seconds])
        .env("SAVER", env!("CARGO_BIN_EXE_saver"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
