#!/usr/bin/env bash
# Runs every fuzz target from its seeds under testdata/fuzz, and fails when one of them crashes.
#
#   scripts/fuzz.sh [SECONDS]       600 seconds each, by default; FUZZ_JOBS (2) targets at a time
#
# Needs cargo-fuzz (cargo install --locked cargo-fuzz). What is found goes to fuzz/artifacts; keep it as a seed and as a test.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}

# The coverage flags are unstable ones; this lets the stable compiler take them.
export RUSTC_BOOTSTRAP=1
# Without a sanitizer: the code under test has no unsafe block, and plain runs reach further.
cargo fuzz build --sanitizer none

binaries=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release

# Runs one target; what it finds on the way is kept in fuzz/corpus, which is not committed.
fuzz() {
    mkdir -p "fuzz/corpus/$1" fuzz/artifacts
    "$binaries/$1" "fuzz/corpus/$1" "testdata/fuzz/$1" testdata/lists -artifact_prefix="fuzz/artifacts/$1-" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"fuzz/corpus/$1.log" 2>&1 ||
        { tail -n 30 "fuzz/corpus/$1.log" >&2; echo "fuzz target $1: FAILED" >&2; return 1; }
    echo "fuzz target $1: $(sed -n 's/.*number_of_executed_units: *//p' "fuzz/corpus/$1.log") inputs, no crash"
}
export -f fuzz
export seconds binaries
cargo fuzz list | xargs -P "${FUZZ_JOBS:-2}" -I{} bash -c 'fuzz {}'
