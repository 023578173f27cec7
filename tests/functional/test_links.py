"""Generations that share inodes on a real engine: views of containers, and the engine's own checks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, SLEEP, Lab, layer
from tests.support.images import file, hardlink
from tests.support.node import saved_diff_ids

pytestmark = pytest.mark.functional
LARGE = bytes(range(256)) * 8192
OLD = layer(
    file("usr/lib/large", LARGE, 0o755),
    hardlink("usr/lib/same", "usr/lib/large"),
    file("var/large", LARGE),
    file("etc/version", b"12.0\n"),
)
CHANGED = layer(file("etc/version", b"12.1\n"))
SUM = f"{hashlib.sha256(LARGE).hexdigest()}  /usr/lib/large"


@pytest.fixture
def linked(lab: Lab) -> Lab:
    """Load a base and its new version on a node that hard-links generations."""
    lab.minion.configure(baseimg={"link": "hardlink"})
    old = [BUSYBOX, OLD]
    lab.load({BASE: old, NEW: [*old, CHANGED], APP: [*old, APP_LAYER]})
    return lab


def live(lab: Lab) -> Path:
    return Path(lab.dirs(BASE)[0])


def pristine(lab: Lab) -> Path:
    return live(lab).parent / "baseimg/generations/0"


def test_containers_and_the_engine(linked):
    lab, before = linked, saved_diff_ids(linked.engine, BASE, APP)
    running = lab.engine.start_container(APP, *SLEEP, name="before")
    lab.apply(lab.bundle())
    assert (live(lab) / "usr/lib/large").samefile(pristine(lab) / "usr/lib/same")
    assert not (live(lab) / "var/large").samefile(pristine(lab) / "var/large")

    # inodes identify the generation of a container
    later = lab.engine.start_container(APP, *SLEEP, name="after")
    containers = lab.status(BASE)["bases"][0]["containers"]
    assert (containers["outdated"], containers["current"]) == (["before"], ["after"])

    for container in (running, later):  # a write changes only the container's copy
        lab.engine.exec(container, "sh", "-c", "echo more >> /usr/lib/large")
        assert SUM not in lab.engine.exec(container, "sha256sum", "/usr/lib/large")
    assert lab.engine.run(APP, "sha256sum", "/usr/lib/large").strip() == SUM
    assert lab.engine.run(APP, "stat", "-c", "%h", "/usr/lib/large", "/var/large").split() == ["4", "1"]
    assert lab.verify(BASE, deep=True)[0]["ok"]

    lab.rollback(BASE)
    assert saved_diff_ids(lab.engine, BASE, APP) == before
    assert lab.verify(BASE, deep=True)[0]["pristine"] == "proven"
    lab.engine.remove_container(running)
    lab.prune(BASE, keep=0)
    assert saved_diff_ids(lab.engine, BASE, APP) == before


def test_the_state_does_not_hide_a_damaged_original(linked):
    lab = linked
    bundle = lab.bundle()
    state = lab.minion.states["baseimg.converged"]
    arguments = {"name": BASE, "version": "12.1", "bundles": {"12.1": {"source": bundle}}, "repair": True}
    assert state(**arguments)["result"]
    with (live(lab) / "usr/lib/large").open("r+b") as large:
        large.write(b"damage")
    for _ in range(2):
        state_result = state(**arguments)
        assert (state_result["result"], state_result["changes"]) == (False, {})
        assert state_result["comment"].startswith("[pristine-damaged]")
    lab.refused("pristine-damaged", "rollback", BASE, to="pristine")
    assert lab.verify(BASE)[0]["pristine"] == "damaged"


@pytest.mark.parametrize("value", ["hard", None, True, ["auto"]])
def test_a_wrong_value_is_named(linked, value):
    bundle = linked.bundle()
    linked.minion.configure(baseimg={"link": value})
    error = linked.refused("argument-invalid", "apply", bundle)
    assert error.info["message"].startswith("baseimg:link is ")
    assert "expected one of: auto, reflink, copy, hardlink" in error.info["message"]
