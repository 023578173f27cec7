"""
Time and memory of ``baseimg.exposed`` and ``baseimg.vex`` on a master with thousands of nodes, without a network.

``python -m bench.fixes [NODES]`` writes the answers of simulated nodes as Salt's mine has them, and reads them back.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgpack

from baseimg_core.model.fixes import exposure, products, query
from baseimg_core.model.fixes.fleet import Fleet
from baseimg_core.report import vex

IMAGES, DIFFERENT, PACKAGES, INSTALLED, LAYERS = 30, 300, 60, 200, 5
ADVISORY = "CVE-2024-1003"
HEAD = {"id": "urn:bench:fleet", "author": "bench", "tooling": "baseimg"}
NOW = "2026-11-29T03:00:00Z"
_UPDATES = {
    f"pkg{number}": {
        "from": "1",
        "to": "2",
        "advisories": {f"CVE-2024-{1000 + 3 * number + more}": "changelog" for more in range(3)},
    }
    for number in range(PACKAGES)
}


def answer(number: int, choice: random.Random) -> dict[str, Any]:
    """Return the answer of one node: one in 20 is behind, one image in ten has own files of a package."""
    images, containers, others = [], [], []
    for image in choice.sample(range(DIFFERENT), IMAGES):
        package = f"pkg{choice.randrange(PACKAGES)}"
        own = {package: {"state": "overridden", "reason": "own files", "paths": ["usr/lib/x"], "hidden": 1}}
        old = {"pkg1": {"state": "after restart", "reason": "the container runs on 12.0"}}
        name, identity = f"registry.corp/app{image}", f"sha256:{image:064x}"
        fields = {"image": f"{name}:1", "has_awaited": False}
        digests = [f"{name}@sha256:{image + 10**6:064x}"]
        images.append({**fields, "id": identity, "digests": digests, "pending": own if image % 10 == 0 else {}})
        chain_ids = [f"sha256:{image * LAYERS + layer + 10**9:064x}" for layer in range(LAYERS)]
        others.append({"image": f"{name}:1", "id": identity, "digests": digests, "chain_ids": chain_ids})
        pending = old if image % 17 == 0 else {}
        containers.append({**fields, "container": f"app{image}", "id": "c", "image_id": identity, "pending": pending})
    is_behind = number % 20 == 0
    base = {"base": "corp/base:12.0", "chain_id": f"sha256:{1:064x}", "version": "12.0" if is_behind else "12.1"}
    base |= {"bundle": "" if is_behind else f"sha256:{2:064x}", "updates": {} if is_behind else _UPDATES}
    base |= {"signed_by": "", "activated": "", "manager": "dpkg", "unknown": "", "awaited": None}
    base |= {"installed": {f"pkg{each}": "1" if is_behind else "2" for each in range(INSTALLED)}}
    base |= {"distro": {"id": "debian", "version": "12"}, "images": images, "containers": containers}
    return {"format": 1, "at": NOW, "bases": [base], "errors": [], "others": others}


def main(nodes: int) -> None:
    """Print seconds of processor time and the peak of the memory in MB after each step."""
    choice = random.Random(1)
    with tempfile.TemporaryDirectory() as work:
        for number in range(nodes):
            (Path(work) / f"node{number}").write_bytes(msgpack.packb(answer(number, choice)))
        started = time.process_time()
        fleet = Fleet()
        for path in Path(work).iterdir():
            fleet.add(path.name, msgpack.unpackb(path.read_bytes()))
    _print("read", started)
    question = query.parse(ADVISORY, None)
    result = exposure.as_dict(question, exposure.answer(fleet, question), fleet, fleet.answered, {})
    json.dumps(result)
    _print("exposed", started)
    started = time.process_time()
    document = vex.document(products.statements(fleet), fleet.silent, HEAD, NOW, None)
    second = vex.document(products.statements(fleet), fleet.silent, HEAD, NOW, vex.state(document))
    assert second == document
    print(f"vex: {len(document['statements'])} statements, {len(json.dumps(document)) / 1e6:.0f} MB")
    _print("two documents", started)


def _print(step: str, started: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{step}: {time.process_time() - started:.1f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
