#!/bin/bash
# Run the tests that need no fleet, and one functional flow, on each Python that a Debian release has, with the lowest and the highest
# version of each declared dependency, and write the table in docs/reference/compatibility.md. Takes half an hour; keeps the trees.
#
#   matrix.sh [CELL…]     SUITE:SALT:lowest|highest; default: all. Rows of cells that ran before stay.
set -euo pipefail
cd "$(dirname "$0")/.."

CELLS=("$@")
[ $# -gt 0 ] || CELLS=(
    bookworm:3006:lowest bookworm:3006:highest bookworm:3007:highest bookworm:3008:lowest bookworm:3008:highest
    trixie:3008:lowest trixie:3008:highest sid:3008:lowest sid:3008:highest
)
# test_support.py tests the engines of the tests
TESTS=(--deselect=tests/unit/test_support.py tests/unit tests/conventions tests/property tests/functional/test_states.py::TestSls::test_bases_from_pillar)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/baseimg-tests/pythons
PACKAGES=(
    python3-venv python3-dev gcc libc6-dev git ca-certificates docker.io busybox-static util-linux openssh-client openssl zstd xz-utils rpm
    e2fsprogs xfsprogs btrfs-progs skopeo
)

say() { echo "matrix: $*"; }

tree() {
    local suite=$1 root=$CACHE/$1
    [ "$(cat "$root/packages" 2>/dev/null)" = "${PACKAGES[*]}" ] && return
    say "Debian $suite, into $root (download: 300 MB)"
    rm -rf "$root" "$root.new"
    debootstrap --variant=minbase "$suite" "$root.new" "$(.venv/bin/python -m tests.support.apt "$suite")" >"$root.log" 2>&1
    # no service may start during the installation
    printf '#!/bin/sh\nexit 101\n' >"$root.new/usr/sbin/policy-rc.d"
    chmod +x "$root.new/usr/sbin/policy-rc.d"
    # accept a mirror that lags behind
    local options=(-q -o Acquire::Check-Valid-Until=false)
    DEBIAN_FRONTEND=noninteractive chroot "$root.new" sh -c "
        apt-get ${options[*]} update && apt-get ${options[*]} install -y --no-install-recommends ${PACKAGES[*]}
    " >>"$root.log" 2>&1
    # pip trusts what this machine trusts
    cp /etc/ssl/certs/ca-certificates.crt "$root.new/etc/ssl/certs/"
    echo "${PACKAGES[*]}" >"$root.new/packages"
    mv "$root.new" "$root"
}

# What setup.cfg declares, one requirement a line; for `lowest` what nodes and masters need, each at its lower bound.
requirements() {
    .venv/bin/python - "$1" <<'PY'
import configparser, re, sys
parser = configparser.ConfigParser()
parser.read("setup.cfg")
extras = parser["options.extras_require"]
values = [parser["options"]["install_requires"], extras["zstd"], extras["signatures"], extras["documents"]]
for value in values if sys.argv[1] == "lowest" else [*values, extras["test"]]:
    for line in filter(None, map(str.strip, value.splitlines())):
        if not line.startswith("#"):
            print(re.sub(r">=([^,; ]+)(,<[^; ]+)?", r"==\1", line) if sys.argv[1] == "lowest" else line)
PY
}

# Run a command in a tree.
enter() {
    .venv/bin/python -c '
import os, sys
from pathlib import Path
from tests.support import rootfs
command = rootfs.enter(Path(sys.argv[1]), *sys.argv[2:])
os.execvp(command[0], command)' "$@"
}

# Runs in the tree: make the environment, run the tests, append the cell to the report.
read -r -d '' CELL <<'SH' || true
suite=$1 salt=$2 resolution=$3 work=$4; shift 4
cd "$work/repo"
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "salt==$salt.*" -r "$work/highest"
# Salt requires newer releases of some
[ "$resolution" = highest ] || "$work/venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r "$work/lowest"
"$work/venv/bin/python" -m pytest -q -p no:cacheprovider -m 'not slow' --basetemp="$work/tmp" --junitxml="$work/tests.xml" "$@" || true
"$work/venv/bin/python" - "$suite:$salt:$resolution" "$work/tests.xml" >"$work/cell.json" <<'PY'
import json, platform, sys, xml.etree.ElementTree
from importlib import metadata
suite = xml.etree.ElementTree.parse(sys.argv[2]).getroot().find("testsuite").attrib
failed = int(suite["failures"]) + int(suite["errors"])
DEPENDENCIES = ("docker", "urllib3", "zstandard", "cryptography", "cyclonedx-python-lib", "packageurl-python")
names = {dist.metadata["Name"].lower() for dist in metadata.distributions()}
dependencies = {name: metadata.version(name) for name in DEPENDENCIES if name in names}
print(json.dumps({
    "cell": sys.argv[1], "suite": sys.argv[1].partition(":")[0], "python": platform.python_version(), "salt": metadata.version("salt"), "dependencies": dependencies,
    "failed": failed, "passed": int(suite["tests"]) - failed - int(suite["skipped"]),
}))
PY
SH

REPORT=build/matrix.jsonl
mkdir -p "$CACHE" build
touch "$REPORT"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/baseimg-matrix.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
for cell in "${CELLS[@]}"; do
    IFS=: read -r suite salt resolution <<<"$cell"
    tree "$suite"
    say "$cell"
    mkdir -p "$WORK/cell"
    git clone -q . "$WORK/cell/repo"
    for name in highest lowest; do requirements "$name" >"$WORK/cell/$name"; done
    enter "$CACHE/$suite" \
        bash -euc "$CELL" sh "$suite" "$salt" "$resolution" "$WORK/cell" "${TESTS[@]}" 2>&1 | tee "build/matrix-${cell//:/-}.log" | tail -30
    sed -i "/\"cell\": \"$cell\"/d" "$REPORT"
    cat "$WORK/cell/cell.json" >>"$REPORT"
    rm -rf "$WORK/cell"
done
.venv/bin/python scripts/tables.py matrix "$REPORT"
! grep -q '"failed": [1-9]' "$REPORT"
