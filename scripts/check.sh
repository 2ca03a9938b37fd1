#!/usr/bin/env bash
# The gate for what can be known without running: format, lints, documentation, scripts, licences.
#
#   scripts/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --locked --all-targets --all-features -- -D warnings

step "features"
# The library alone, and with each feature alone.
cargo clippy --locked --lib --no-default-features -- -D warnings
for feature in archive scan serve cri containerd trust; do
    cargo clippy --locked --lib --no-default-features --features "$feature" -- -D warnings
done

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features

step "scripts"
# Where these linters are not installed the step says so and goes on: they are for the authors.
if command -v shellcheck >/dev/null; then
    shellcheck scripts/*.sh scripts/dist scripts/dist-test .ci/run
else
    echo "shellcheck is not installed; skipped"
fi
python3 - <<'PYTHON'
"""Every Python script must at least compile."""
import pathlib

for path in sorted(pathlib.Path("scripts").iterdir()):
    if path.suffix == ".py" or (path.is_file() and b"python3" in path.read_bytes()[:32]):
        compile(path.read_text(), str(path), "exec")
PYTHON
python3 -m doctest scripts/image_tree.py scripts/check-licenses.py

step "samples"
# The committed samples are what the script makes, byte for byte.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
python3 scripts/make-images.py sample --dir "$made"
diff -r testdata/registry "$made"

step "licences, bans, sources"
if command -v cargo-deny >/dev/null; then
    cargo deny --locked check licenses bans sources
    # The advisory database comes from the network; without it, the last copy is used.
    if cargo deny --locked fetch db >/dev/null 2>&1 ||
        [ -n "$(find "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" -name '*.md' -print -quit 2>/dev/null)" ]; then
        cargo deny --locked check --disable-fetch advisories
    else
        echo "no advisory database can be had here; advisories are not checked"
    fi
else
    echo "cargo-deny is not installed (cargo install --locked cargo-deny); the declared licences are checked"
    python3 scripts/check-licenses.py
fi
