#!/bin/bash
# Make .venv with pinned requirements, and install the Debian packages that are missing. Safe to repeat; quick then.
#
#   setup.sh [demo|test|bench]     what to prepare for; test by default, which covers demo
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
STAMP=$VENV/.installed
SET=${1:-test}

# The package with Docker's client: since Debian 13 not the engine's.
docker_client() {
    (. /etc/os-release; [ "$ID" = debian ] && [ "${VERSION_ID:-99}" -ge 13 ] && echo docker-cli || echo docker.io)
}

# tool (as `have` looks for it) → Debian package
DEMO_PACKAGES=(
    dockerd:docker.io        # the private engine
    "docker:$(docker_client)" # its client
    busybox:busybox-static   # content of the base images
    setpriv:util-linux       # ends the private engine together with its parent
)
TEST_PACKAGES=(
    podman:podman            # private engines of the tests
    debootstrap:debootstrap  # the test with a real Debian base
    zstd:zstd                # looks into bundles
    docker-registry:docker-registry # a registry of the tests' own
    skopeo:skopeo            # copies bundles to a registry and back, independently of us
    rsync:rsync              # moves a data-root in a test
    jq:jq                    # the shell procedure that baseimg replaces runs it
    umoci:umoci              # reads bundles as the image layouts that they are
    ssh-keygen:openssh-client # signs bundles and checks signatures, independently of us
    openssl:openssl           # makes the certificates of private registries
    mkfs.ext4:e2fsprogs      # file systems of the tests: full, without reflinks
    mkfs.xfs:xfsprogs        # file systems of the tests: with reflinks
    rpmbuild:rpm             # makes the rpm databases that the tests read
    chromium:chromium        # looks at the report, as people do
    mkfs.btrfs:btrfs-progs   # file systems of `make engines`
)
# what baseimg is compared with
BENCH_PACKAGES=(ostree:ostree docker-registry:docker-registry)

case $SET in
    demo) PINS=requirements/demo.txt PACKAGES=("${DEMO_PACKAGES[@]}") ;;
    test) PINS=requirements/dev.txt PACKAGES=("${DEMO_PACKAGES[@]}" "${TEST_PACKAGES[@]}") ;;
    bench) PINS=requirements/dev.txt PACKAGES=("${DEMO_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}") ;;
    *) echo "usage: setup.sh [demo|test|bench]" >&2; exit 2 ;;
esac

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

have() {
    local path
    path=$(PATH="$PATH:/usr/sbin:/sbin" command -v "$1") || return 1
    # A dynamic busybox does not run in an image without libc.
    [ "$1" != busybox ] || ! ldd "$path" 2>/dev/null | grep -q '=>'
}

apt_install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "please install (Debian's names): $*"
    fi
    say "installing Debian packages: $*"
    local options=(-y -q --no-install-recommends)
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be missing or older than the mirror.
    apt-get install "${options[@]}" "$@" >/dev/null 2>&1 ||
        { apt-get update -q && apt-get install "${options[@]}" "$@"; } || die "apt-get could not install: $*"
}

# Missing Debian packages, one a line.
missing_packages() {
    local pair
    for pair in "${PACKAGES[@]}"; do
        have "${pair%%:*}" || echo "${pair#*:}"
    done | sort -u
}

# What apt would download, in MB; nothing if apt does not know yet.
download_size() {
    apt-get install --print-uris -qq --no-install-recommends "$@" 2>/dev/null |
        awk '{ bytes += $3 } END { if (bytes) printf " (download: %d MB)", bytes / 1000000 }'
}

make_venv() {
    rm -rf "$VENV"
    # On Debian `venv` is there, but `ensurepip` comes with a package of its own.
    "$PYTHON" -m venv "$VENV" >/dev/null 2>&1 && return
    rm -rf "$VENV"
    apt_install python3-venv
    "$PYTHON" -m venv "$VENV"
}

# A venv belongs to its path, because console scripts contain the full path of their Python.
stamp() {
    echo "# $PWD"
    cat "$1"
}

installed() {
    [ "$(stamp "$1")" = "$(cat "$STAMP" 2>/dev/null)" ] && "$VENV/bin/python" -c ''
}

python_packages() {
    # The test set contains the demo's, so only a venv with other pins is made again.
    installed requirements/demo.txt || make_venv
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-deps -r "$PINS"
    stamp "$PINS" >"$STAMP"
}

command -v "$PYTHON" >/dev/null || apt_install python3 python3-venv
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "Python 3.10 or newer is needed: PYTHON=/path/to/it make setup"
mapfile -t MISSING < <(missing_packages)
NEEDS_PYTHON=true
if installed "$PINS" || { [ "$SET" = demo ] && installed requirements/dev.txt; }; then NEEDS_PYTHON=false; fi
if [ ${#MISSING[@]} -gt 0 ] || $NEEDS_PYTHON; then
    say "first run for '$SET'; this takes a minute or more:"
fi
if [ ${#MISSING[@]} -gt 0 ]; then say "  Debian packages$(download_size "${MISSING[@]}"): ${MISSING[*]}"; fi
if $NEEDS_PYTHON; then
    # pip does not know sizes beforehand; these were measured
    say "  $(grep -c == "$PINS") Python packages into $VENV (download: $([ "$SET" = demo ] && echo 30 || echo 80) MB)"
fi
if [ ${#MISSING[@]} -gt 0 ]; then apt_install "${MISSING[@]}"; fi
if $NEEDS_PYTHON; then python_packages; fi
