"""No result and no error prints control characters from the texts of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.functional.lab import APP, BASE, BUSYBOX, NEW, Lab, layer
from tests.support.images import ImageSpec, archive, file, symlink

pytestmark = pytest.mark.functional

ESC = "\x1b]0;owned\x07"


def package(name: str, version: str) -> str:
    return f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: all\n\n"


def base_layer(version: str, *more: Any) -> bytes:
    status = (
        package("libc", version)
        + package(f"lib{ESC}", f"{version}{ESC}")
        + package("gone" if version == "0" else "new", ESC)
    )
    return layer(
        file("etc/passwd", f"root:x:0:0::/:/bin/sh\nuser{ESC}:x:{1000 + int(version)}:0:{ESC}:/:/bin/sh\n".encode()),
        file("etc/os-release", f'ID=debian\nVERSION_ID="{version}{ESC}"\nPRETTY_NAME="{ESC}"\n'.encode()),
        file("var/lib/dpkg/status", status.encode()),
        file(f"var/lib/dpkg/info/lib{ESC}.list", f"/usr/bin/{ESC}\n".encode()),
        file(f"etc/changed{ESC}", version.encode()),
        *more,
    )


@pytest.fixture
def node(lab: Lab) -> Lab:
    program = file(f"usr/bin/{ESC}", b"#!/bin/sh\nexec sleep 1000000\n", 0o755)
    old = [
        BUSYBOX,
        base_layer("0", program, file(f"usr/lib/gone{ESC}", b"x"), file(f"usr/lib/python3{ESC}/x.py", b"x")),
    ]
    own = layer(
        file(f"opt/script{ESC}", f"#!/usr/bin/{ESC}\n".encode(), 0o755),
        file(f"opt/owned{ESC}", b"x", uid=1000),
        file(f"etc/changed{ESC}", b"mine"),
        file(f"opt/next{ESC}.sh", f"#!/bin/sh\n/usr/bin/{ESC} {ESC}\n".encode(), 0o755),
        symlink(f"opt/link{ESC}", f"/usr/lib/gone{ESC}"),
    )
    configs = {
        BASE: {"Env": [f"HOME=/root{ESC}", f"X{ESC}=1"], "Labels": {ESC: ESC}},
        NEW: {"Env": [f"HOME=/home{ESC}"], "Cmd": [ESC]},
        APP: {
            "Entrypoint": [f"/usr/bin/{ESC}", ESC],
            "Env": [f"JAVA_HOME=/usr/lib/gone{ESC}"],
            "WorkingDir": f"/opt/{ESC}",
        },
    }
    stacks = {BASE: old, NEW: [BUSYBOX, base_layer("1")], APP: [*old, own]}
    lab.engine.load(archive([ImageSpec(ref, stacks[ref], configs[ref]) for ref in stacks]))
    return lab


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, content in value.items():
            yield from texts(key)
            yield from texts(content)
    elif isinstance(value, list | tuple | set):
        for content in value:
            yield from texts(content)
    else:
        yield str(value)


def unsafe(value: Any) -> list[str]:
    return [repr(text) for text in texts(value) if not text.replace("\n", "").isprintable()]


def result_of(work: Callable[[], Any]) -> Any:
    """Return the result of an operation, or the error that Salt shows."""
    try:
        return work()
    except CommandExecutionError as exc:
        return [str(exc), exc.info]


def test_no_result_steers_a_terminal(node: Lab) -> None:
    node.engine.start_container(APP, name="shop")
    bundle = node.bundle()
    declared = {"12.1": {"source": bundle}}
    state = {"name": BASE, "version": "12.1", "bundles": declared}
    results = {
        "diff": result_of(lambda: node.diff(BASE, NEW)),
        "inspect": result_of(lambda: node.inspect(bundle, verify=True)),
        "impact": result_of(lambda: node.impact(BASE, bundle)),
        "refused": result_of(lambda: node.minion.states["baseimg.converged"](**state)),
        "planned": result_of(lambda: node.in_test_mode.states["baseimg.converged"](**state, accept=["*"])),
        "converged": result_of(lambda: node.minion.states["baseimg.converged"](**state, accept=["*"])),
        "status": result_of(lambda: node.status(BASE)),
    }
    (live,) = (status["path"] for status in node.status(BASE)["bases"])
    with open(os.path.join(live, f"etc/changed{ESC}"), "w", encoding="utf-8") as edited:
        edited.write("by hand")
    results["verify"] = result_of(lambda: node.verify(BASE, deep=True))
    results["rollback"] = result_of(lambda: node.rollback(BASE))
    results["prune"] = result_of(lambda: node.prune(BASE, keep=0))
    results["history"] = result_of(lambda: node.history(BASE))
    assert "owned" in str(results["impact"])  # the result contains texts of the image
    assert "owned" in str(results["verify"])
    assert {name: problems for name, result in results.items() if (problems := unsafe(result))} == {}
