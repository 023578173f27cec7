#!/bin/bash
# Build, apply and roll back a newer base on a private Docker engine. scripts/demo/story.py has the steps.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "demo: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run it as root: it starts a private Docker engine"
[ -x .venv/bin/salt-call ] || die "run 'make demo'"
# exec: signals must reach the process that cleans up
exec .venv/bin/python -m scripts.demo
