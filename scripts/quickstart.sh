#!/usr/bin/env bash
# Builds saver and shows its whole job on this machine, with no registry and no network but this:
# serve the sample images, save them into a directory, serve that directory, look at it.
#
#   scripts/quickstart.sh
#
# A saver on PATH, or the one that SAVER names, is used as it is; otherwise it is built.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
servers=()

# Ends what was started here, by process id, whatever happened before.
clean_up() {
    local pid
    for pid in "${servers[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
# Shows a command, then runs it.
run() { printf '$ %s\n' "$*"; "$@"; }

# Serves a directory on a free port; sets `address` to HOST:PORT.
serve() {
    local dir=$1 log
    log=$(mktemp -p "$work")
    "$saver" serve --dir "$dir" --listen 127.0.0.1:0 >"$log" 2>&1 &
    local pid=$!
    servers+=("$pid")
    for _ in $(seq 100); do
        address=$(sed -n 's|.*listening on http://\([^ /]*\).*|\1|p' "$log" | head -n 1)
        if [ -n "$address" ]; then
            return
        fi
        if ! kill -0 "$pid" 2>/dev/null; then
            break
        fi
        sleep 0.1
    done
    cat "$log" >&2
    echo "quickstart: saver serve did not start" >&2
    exit 1
}

saver=${SAVER:-$(command -v saver || true)}
if [ -z "$saver" ]; then
    step "Build"
    run cargo build --release --locked
    saver=${CARGO_TARGET_DIR:-target}/release/saver
fi

step "A registry to save from: the sample images"
serve testdata/registry
source_address=$address
echo "serving testdata/registry on $source_address"
sed "s/localhost:5000/$source_address/" testdata/imageList >"$work/imageList"
echo "the list:"
sed 's/^/    /' "$work/imageList"

step "Save them"
run "$saver" --list "$work/imageList" --dir "$work/images" --arch amd64

step "Save them again: nothing to do"
run "$saver" --list "$work/imageList" --dir "$work/images" --arch amd64

step "What is in the directory"
run "$saver" ls --dir "$work/images"

step "Serve the directory; any registry:2 could"
serve "$work/images"
fetch() { run curl -fsS -w '\n' "http://$address/v2/$1" "${@:2}"; }
fetch _catalog
fetch demo/app/tags/list
fetch helm-charts/mysql/manifests/8.8.19 -H "Accept: application/vnd.oci.image.manifest.v1+json"
step "Done"
