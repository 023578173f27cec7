"""Live files reach 200 containers in one go, among them containers that rename, hide and cover the path in a loop."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.conftest import emptied, lab  # noqa: F401
from tests.functional.lab import APP, BASE, NEW, NEWER, SLEEP, Lab

pytestmark = [pytest.mark.torture, pytest.mark.functional]

VERSION = "/etc/version"
LIVE = {"live": [VERSION]}
CONTAINERS = 200
SECONDS = 60.0  # for one delivery; 3 on an idle machine
#: Each opens the path again and again, or changes what leads to it.
HOSTILE = {
    "renames": "while :; do mv /etc /e; mv /e /etc; done",
    "links": "while :; do mv /etc /e; ln -s /e /etc; rm /etc; mv /e /etc; done",
    "climbs": "while :; do mv /etc /e; ln -s ../../../../../../etc /etc; rm /etc; mv /e /etc; done",
    "replaces": "while :; do cp /etc/version /etc/v; mv /etc/v /etc/version; done",
    "removes": "while :; do rm -f /etc/version; echo own > /etc/version; done",
}
READER = "while :; do v=$(cat /etc/version) || v=error; echo ${v:-empty} >> /read; done"


def test_two_hundred_containers(lab: Lab) -> None:  # noqa: F811
    lab.usual(NEWER)
    bundles = {"12.1": {"source": lab.bundle()}, "12.2": {"source": lab.bundle(NEW, NEWER)}}
    scripts = {"reader": READER, **HOSTILE}
    for name, script in scripts.items():
        lab.engine.start_container(APP, "sh", "-c", script, name=name)
    names = [f"plain{number}" for number in range(CONTAINERS - len(scripts))]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: lab.engine.start_container(APP, *SLEEP, name=name), names))
    pids = {name: lab.engine.client.inspect_container(name)["State"]["Pid"] for name in (*names, *scripts)}
    log = Path(f"/proc/{pids['reader']}/root/read")

    def versions() -> set[str]:
        return {Path(f"/proc/{pids[name]}/root/etc/version").read_text().strip() for name in names}

    for version in ("12.1", "12.2", "12.0"):
        started = time.monotonic()
        live = lab.converge(BASE, version, bundles, containers=LIVE)["restart"]["live"]
        seconds = time.monotonic() - started
        print(f"{version}: {seconds:.1f} s")
        assert seconds < SECONDS
        assert versions() == {version}
        word = "detached" if version == "12.0" else "attached"
        assert all(live[name][word] == [VERSION] for name in (*names, "reader"))
    assert set(log.read_text().split()) == {"12.0", "12.1", "12.2"}
    # nothing is mounted on the host, and nothing at another path than the named one
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/etc/version" in line]
    for name in HOSTILE:
        mounts = Path(f"/proc/{pids[name]}/mountinfo").read_text().splitlines()
        assert {line.split()[4].rpartition("/")[2] for line in mounts if "/etc/version " in line} <= {"version"}
