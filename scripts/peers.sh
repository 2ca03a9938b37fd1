#!/usr/bin/env bash
# Installs the real tools that tests, checks and the benchmark use, from Debian's packages.
# Only what is missing is installed, and no service is started. Works as root or with sudo.
#
#   scripts/peers.sh            install what is missing
#   scripts/peers.sh --check    say what is missing; exit 1 if anything is
set -euo pipefail

# Each line: the command or file that must be there, and the package that has it.
readonly WANTED="
docker-registry docker-registry
skopeo          skopeo
umoci           umoci
podman          podman
buildah         buildah
ctr             containerd
nginx           nginx-light
openssl         openssl
wrk             wrk
python3         python3
curl            curl
shellcheck      shellcheck
update-ca-certificates ca-certificates
/usr/lib/python3/dist-packages/grpc python3-grpcio
/usr/lib/python3/dist-packages/h2 python3-h2
"

# Prints the packages whose command is not found. Daemons live in sbin, which users seldom search.
missing_packages() {
    local PATH="$PATH:/usr/sbin:/sbin" program package
    while read -r program package; do
        [ -n "$program" ] || continue
        [ -e "$program" ] || command -v "$program" >/dev/null || echo "$package"
    done <<<"$WANTED"
}

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -eq 0 ]; then
    exit 0
fi
if [ "${1:-}" = --check ]; then
    echo "missing: ${missing[*]}" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "peers.sh: no apt-get here; install these yourself: ${missing[*]}" >&2
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
fi
# Two ways of asking packages not to start their daemons: RUNLEVEL=1 tells invoke-rc.d that this is
# single-user mode; SYSTEMD_OFFLINE=1 makes systemctl ignore requests to start units.
quietly=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 SYSTEMD_OFFLINE=1)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

install_all() {
    "${as_root[@]}" "${quietly[@]}" apt-get update -q &&
        "${as_root[@]}" "${quietly[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
}

echo "installing: ${missing[*]}"
if ! install_all >"$log" 2>&1; then
    cat "$log" >&2
    echo "peers.sh: could not install: ${missing[*]}" >&2
    exit 1
fi
mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -ne 0 ]; then
    echo "peers.sh: still missing after installing: ${missing[*]}" >&2
    exit 1
fi
