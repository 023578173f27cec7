#!/bin/bash
# The whole job on a private Docker engine: build, apply and roll back a newer base. The story is scripts/demo/story.py.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "demo: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "must run as root: it starts a Docker engine of its own"
[ -x .venv/bin/salt-call ] || die "run 'make setup' first"
# exec, so that a signal reaches the one that cleans up
exec .venv/bin/python scripts/demo
