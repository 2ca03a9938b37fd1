#!/usr/bin/env bash
# Runs every test, the ones against real registries and clients included. What they need is
# installed first where it is missing.
#
#   scripts/test.sh [ARGUMENTS OF cargo nextest run]
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/peers.sh
if ! command -v cargo-nextest >/dev/null; then
    echo "installing cargo-nextest"
    cargo install --locked cargo-nextest
fi
profile=default
if [ -n "${CI:-}" ]; then
    profile=ci
fi
# First the documentation's examples, so that nextest's summary is the last thing seen.
cargo test --locked --doc --features schema
# With the feature `schema` the JSON Schema files are compared with what the code generates.
cargo nextest run --locked --features schema --profile "$profile" "$@"
