"""Docker with userns-remap, which shifts owners on disk only."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.engines.cells import Cell
from tests.engines.node import BASE, NEW, Node
from tests.functional.lab import BUSYBOX, SLEEP, layer
from tests.support import kernel
from tests.support.images import directory, fifo, file, symlink, whiteout
from tests.support.kernel import differences
from tests.support.minion import Minion
from tests.support.userns import FIRST

pytestmark = pytest.mark.functional

# cap_net_bind_service, as setcap(8) writes it: version 2, effective
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
OLD = layer(file("etc/own", b"old", uid=7, gid=8), file("etc/gone"), directory("srv", uid=33, gid=33))
CHANGES = layer(
    file("etc/own", b"new", uid=33, gid=34),
    file("etc/nobody", uid=65534, gid=65534),
    file("usr/bin/tool", b"tool", 0o4755, xattrs={"security.capability": CAPABILITY}),
    directory("srv", 0o2770, uid=7, gid=9),
    symlink("srv/link", "own", uid=5, gid=6),
    fifo("srv/fifo", uid=5, gid=6),
    whiteout("etc/gone"),
)
STACKS = {BASE: [BUSYBOX, OLD], NEW: [BUSYBOX, OLD, CHANGES]}


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Yield a node with userns-remap and a node without, with the same images."""
    with (
        Cell("docker-userns").engine(tmp_path_factory.mktemp("u")) as shifted_engine,
        Cell("docker-overlay2").engine(tmp_path_factory.mktemp("p")) as other,
    ):
        nodes = []
        for cell, engine in ((Cell("docker-userns"), shifted_engine), (Cell("docker-overlay2"), other)):
            work = tmp_path_factory.mktemp("node")
            minion = Minion(work / "minion", pillar={"baseimg": {"engine": cell.declared(engine)}})
            nodes.append(Node(cell, engine, minion, work))
            nodes[-1].load_stacks(STACKS)
        yield nodes[0], nodes[1]


def test_one_bundle_serves_both(pair: tuple[Node, Node]) -> None:
    shifting, plain = pair
    bundles = [node.bundle() for node in pair]
    with open(bundles[0], "rb") as first, open(bundles[1], "rb") as second:
        assert first.read() == second.read()
    for node, bundle in zip(pair, reversed(bundles), strict=True):
        unpacked = node.show(NEW)
        pristine = node.show(BASE)
        node.engine.start_container(BASE, *SLEEP, name="running")
        applied = node.call("apply", bundle, containers={"live": ["/etc/own"]})
        assert applied["restart"]["live"]["running"]["attached"] == ["/etc/own"]
        output = node.engine.exec("running", "sh", "-c", "cat /etc/own; stat -c ' %u:%g' /etc/own")
        assert output == "new 33:34\n"
        # equals the engine's own unpacked target, with owners and attributes
        assert differences(node.show(BASE), unpacked) == []
        assert node.call("verify", BASE, deep=True)[0]["ok"] is True
        assert node.engine.run(BASE, "stat", "-c", "%u:%g %a", "/etc/own", "/srv") == "33:34 644\n7:9 2770\n"
        node.call("rollback", BASE)
        assert node.engine.exec("running", "stat", "-c", "%u:%g", "/etc/own") == "7:8\n"
        assert differences(node.show(BASE), pristine) == []
    assert kernel.show([os.fsencode(first) for first in shifting.directories(NEW)])[b"etc/own"].uid == FIRST + 33
    assert plain.show(NEW)[b"etc/own"].uid == 33
    assert shifting.call("diff", BASE, NEW)["counts"] == plain.call("diff", BASE, NEW)["counts"]


def test_what_is_not_done_there_says_so(pair: tuple[Node, Node]) -> None:
    for function, arguments in (("adopt", ()), ("import_legacy", ("/tmp/x-1-diff.tar.gz", BASE, "/tmp/x.tar"))):
        with pytest.raises(Exception, match="storage-unsupported"):
            pair[0].call(function, *arguments)
