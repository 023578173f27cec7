#!/bin/bash
# Write requirements/dev.txt: the versions that a fresh environment gets today for the requirements in setup.cfg. Copy
# them to requirements/demo.txt, for the packages that are listed there.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A copy, because pip leaves build/ and *.egg-info in the tree that it installs.
cp -r _utils _modules _states _runners _grains _beacons _engines setup.cfg pyproject.toml LICENSE "$work"
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q "$work[salt,zstd,documents,test,lint]"
{
    head -1 requirements/dev.txt
    "$work/venv/bin/python" -m pip freeze --exclude baseimg
} >"$work/pins"
cp "$work/pins" requirements/dev.txt
{
    head -1 requirements/demo.txt
    sed -n 's/==.*//p' requirements/demo.txt | while read -r name; do grep -i "^$name==" requirements/dev.txt; done
} >"$work/demo"
cp "$work/demo" requirements/demo.txt
