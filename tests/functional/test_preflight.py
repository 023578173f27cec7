"""Whatever makes a converge fail is found by the plan, by the state in test mode and by the preparation, alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from baseimg_core import zstd
from tests.functional.lab import BASE, Lab

pytestmark = pytest.mark.functional


def full_disk(lab: Lab, _monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    lab.minion.configure(baseimg={"reserve": 99, "grace": 0})
    return {}


def without_zstandard(_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(zstd, "library", lambda: None)
    return {}


def protected(_lab: Lab, _monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"protect": ["corp/app:*"]}


@pytest.mark.parametrize(
    ("code", "prepare"),
    [
        ("space-exhausted", full_disk),
        ("compression-unsupported", without_zstandard),
        ("image-protected", protected),
    ],
    ids=["space", "compression", "protection"],
)
def test_every_preparation_finds_it(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    prepare: Callable[[Lab, pytest.MonkeyPatch], dict[str, Any]],
) -> None:
    """On a full disk, and without zstandard, the dry run said "would go" and the fetch succeeded."""
    lab.usual()
    bundles = {"12.1": {"source": lab.bundle()}}
    named = prepare(lab, monkeypatch)
    messages = {
        lab.refused(code, function, BASE, "12.1", bundles, **named).info["message"]
        for function in ("plan", "fetch", "converge")
    }
    assert len(messages) == 1
    lab.minion.configure(test=True)
    before = lab.layers()
    ret = lab.minion.states["baseimg.converged"](BASE, "12.1", bundles, **named)
    assert ret["result"] is False
    assert ret["comment"].startswith(f"[{code}] {messages.pop()}")
    assert lab.layers() == before


def test_a_hold_stops_the_preparation(lab: Lab) -> None:
    lab.usual()
    bundles = {"12.1": {"source": lab.bundle()}}
    lab.hold(BASE, "12.1", "shop does not start")
    assert "shop does not start" in lab.plan(BASE, "12.1", bundles)["held"]
    assert "shop does not start" in lab.refused("base-held", "fetch", BASE, "12.1", bundles).info["message"]
    assert lab.fetch(BASE, "12.0")["needed"] is False
