#!/bin/bash
# Make .venv with the pinned requirements, and install the Debian packages that the demo and the tests need.
# Safe to run again, and quick then.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
PINS=requirements/dev.txt
STAMP=$VENV/.installed

# tool (as `have` looks for it) → Debian package
PACKAGES=(
    dockerd:docker.io        # private engines of the demo and the tests
    podman:podman            # private engines of the tests
    busybox:busybox-static   # content of the demo's and the tests' base images
    debootstrap:debootstrap  # the test with a real Debian base
    zstd:zstd                # looks into bundles
    docker-registry:docker-registry # a registry of the tests' own
    skopeo:skopeo            # copies bundles to a registry and back, independently of us
    umoci:umoci              # reads bundles as the image layouts that they are
    ssh-keygen:openssh-client # signs bundles and checks signatures, independently of us
    openssl:openssl           # makes the certificates of private registries
    mkfs.ext4:e2fsprogs      # file systems of the tests: full, without reflinks
    mkfs.xfs:xfsprogs        # file systems of the tests: with reflinks
    rpmbuild:rpm             # makes the rpm databases that the tests read
    chromium:chromium        # looks at the report, as people do
    mkfs.btrfs:btrfs-progs   # file systems of `make engines`
    setpriv:util-linux       # ends a private engine together with its test run
)
# `setup.sh bench`: what baseimg is compared with
BENCH_PACKAGES=(ostree:ostree docker-registry:docker-registry)
[ "${1:-}" != bench ] || PACKAGES+=("${BENCH_PACKAGES[@]}")

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

system_packages() {
    local missing=() pair
    for pair in "${PACKAGES[@]}"; do
        have "${pair%%:*}" || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

make_venv() {
    rm -rf "$VENV"
    # On Debian `venv` is there, but `ensurepip` comes with a package of its own.
    "$PYTHON" -m venv "$VENV" >/dev/null 2>&1 && return
    rm -rf "$VENV"
    apt_install python3-venv
    "$PYTHON" -m venv "$VENV"
}

python_packages() {
    # The path is part of it because console scripts name their Python by its full path: a checkout may move.
    local wanted
    wanted=$(echo "# $PWD"; cat "$PINS")
    if [ "$wanted" = "$(cat "$STAMP" 2>/dev/null)" ] && "$VENV/bin/python" -c ''; then
        return
    fi
    say "installing $(grep -c == "$PINS") Python packages into $VENV"
    make_venv
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-deps -r "$PINS"
    echo "$wanted" >"$STAMP"
}

command -v "$PYTHON" >/dev/null || apt_install python3 python3-venv
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed: PYTHON=/path/to/it make setup"
system_packages
python_packages
