"""One image, built once and loaded into each engine at another time, gives one bundle."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from tests.engines.cells import Cell
from tests.engines.node import BASE, NEW, Node
from tests.engines.test_traps import build
from tests.functional.lab import BUSYBOX
from tests.support import images, rootfs
from tests.support.deadlines import wait_until
from tests.support.images import file, whiteout
from tests.support.minion import Minion

pytestmark = pytest.mark.functional

KINDS = ("docker-overlay2", "docker-containerd", "podman", "containerd")
BUILDERS = [False, True]  # BuildKit
SCRATCH, UNNAMED = "registry.corp/scratch:1", "registry.corp/unnamed:1"
# tars without entries for parents
LOOSE = images.layer_tar([file("srv/a/file", b"1"), file("srv/gone", b"1"), file("etc/version", b"12.0\n")])
LOOSE_NEW = images.layer_tar([file("srv/a/file", b"2"), whiteout("srv/gone"), file("srv/b/new", b"2")])
STEPS = [f"FROM {SCRATCH}", "ADD added /etc/added", "RUN mkdir -p /opt/a && echo 1 > /opt/a/f && ln /opt/a/f /opt/a/g"]
MORE = ["RUN rm -r /opt/a && mkdir /opt/a && echo 2 > /opt/a/h && chmod 700 /srv && mknod /opt/p p && rm /etc/version"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Start one node for each kind of engine."""
    suites = list(rootfs.suites())
    with ExitStack() as stack:
        nodes = []
        for kind in KINDS:
            cell = Cell(kind, suites[-1]) if suites else Cell(kind)
            work = tmp_path / kind
            work.mkdir()
            engine = stack.enter_context(cell.engine(work))
            minion = Minion(work / "minion", pillar={"baseimg": {"engine": cell.declared(engine)}})
            nodes.append(Node(cell, engine, minion, work, "one"))
        yield nodes


@pytest.mark.parametrize("buildkit", BUILDERS, ids=["classic", "buildkit"])
def test_one_digest_in_every_engine(nodes: list[Node], buildkit: bool) -> None:
    first = nodes[0]
    if buildkit and subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip("BuildKit is not installed")
    first.load_stacks({SCRATCH: [BUSYBOX, LOOSE], UNNAMED: [BUSYBOX, LOOSE, LOOSE_NEW]})
    build(first, BASE, *STEPS, buildkit=buildkit)
    build(first, NEW, *STEPS, *MORE, buildkit=buildkit)
    pairs = [(BASE, NEW), (SCRATCH, UNNAMED)]
    archive = first.engine.save(BASE, NEW, SCRATCH, UNNAMED)
    seconds, digests = [], []
    for node in nodes:
        if node is not first:
            wait_until(lambda: int(time.time()) > max(seconds), "another second")
            node.engine.load(archive)
        seconds.append(int(os.stat(os.path.join(node.directories(UNNAMED)[0], "srv/b")).st_mtime))
        path = str(node.work / "b.tar")
        digests.append([node.call("build", source, target, path)["digest"] for source, target in pairs])
    assert len(set(seconds)) == len(nodes)  # each engine created the unnamed directories at another time
    assert digests == [digests[0]] * len(nodes)


def test_a_layer_that_containerd_discarded_is_refused(nodes: list[Node]) -> None:
    """The setting `discard_unpacked_layers` of containerd's CRI plugin discards such layers."""
    node = nodes[-1]
    node.load_stacks({BASE: [BUSYBOX, LOOSE], NEW: [BUSYBOX, LOOSE, LOOSE_NEW]})
    rows = node.engine.ctr("content", "ls", f'labels."containerd.io/uncompressed"=={images.diff_id(LOOSE_NEW)}')  # type: ignore[attr-defined]
    node.engine.ctr("content", "rm", *[line.split()[0] for line in rows.splitlines()[1:]])  # type: ignore[attr-defined]
    with pytest.raises(CommandExecutionError) as caught:
        node.call("build", BASE, NEW, str(node.work / "b.tar"))
    assert caught.value.info["code"] == "packed-layer-absent"
