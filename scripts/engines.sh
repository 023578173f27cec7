#!/bin/bash
# Run the contract of tests/engines with the engines of newer Debian releases, on more file systems and under other
# releases of Salt, and write the table in docs/reference/compatibility.md. Takes half an hour; keeps the trees.
set -euo pipefail
cd "$(dirname "$0")/.."

SUITES=(sid trixie)
SALTS=(3006 3007)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/baseimg-tests
ENGINES=(docker.io docker-cli docker-buildx containerd podman)

say() { echo "engines: $*"; }

tree() {
    local suite=$1 root=$CACHE/engines/$1
    [ -d "$root" ] && return
    say "Debian $suite, into $root"
    local mirror
    mirror=$(.venv/bin/python -m tests.support.apt "$suite")
    rm -rf "$root.new"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root.new" "$mirror" >"$root.log" 2>&1
    # no service may start during the installation
    printf '#!/bin/sh\nexit 101\n' >"$root.new/usr/sbin/policy-rc.d"
    chmod +x "$root.new/usr/sbin/policy-rc.d"
    # accept a mirror that lags behind
    local options=(-q -o Acquire::Check-Valid-Until=false)
    DEBIAN_FRONTEND=noninteractive chroot "$root.new" sh -c "
        apt-get ${options[*]} update && apt-get ${options[*]} install -y --no-install-recommends ${ENGINES[*]}
    " >>"$root.log" 2>&1
    mv "$root.new" "$root"
}

salt() {
    local root=$CACHE/salt/$1
    [ -x "$root/bin/salt-call" ] && return
    say "Salt $1, into $root"
    "${PYTHON:-python3}" -m venv "$root"
    "$root/bin/python" -m pip install -q --disable-pip-version-check \
        "salt==$1.*" 'docker>=7.1,<8' 'zstandard>=0.22' 'cryptography>=42'
}

mkdir -p "$CACHE/engines" "$CACHE/salt" build
for suite in "${SUITES[@]}"; do tree "$suite"; done
for release in "${SALTS[@]}"; do salt "$release"; done

REPORT=build/engines.jsonl
rm -f "$REPORT"
BASEIMG_ENGINES=$CACHE/engines BASEIMG_SALTS=$CACHE/salt BASEIMG_ENGINES_REPORT=$REPORT \
    .venv/bin/python -m pytest tests/engines "$@" || failed=$?
.venv/bin/python scripts/tables.py engines "$REPORT"
exit "${failed:-0}"
