"""One engine and one minion for all tests of a cell, and a report of the results by cell."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import salt.version

pytest.register_assert_rewrite("tests.engines.node")

from tests.engines.cells import Cell, all_cells  # noqa: E402
from tests.engines.node import Node  # noqa: E402
from tests.functional.lab import BUSYBOX  # noqa: E402
from tests.support import images  # noqa: E402
from tests.support.images import ImageSpec  # noqa: E402
from tests.support.minion import Minion  # noqa: E402

# one line for each cell; `make engines` makes the table of docs/reference/compatibility.md from it
REPORT = os.environ.get("BASEIMG_ENGINES_REPORT")
# test_salt.py needs environments with other releases of Salt
collect_ignore = [] if os.environ.get("BASEIMG_SALTS") else ["test_salt.py"]
# keeps the layer of BUSYBOX, whose unpacking is a third of a load
KEPT = "registry.corp/kept:busybox"
SALT = str(salt.version.__version__)
CELLS: dict[str, dict[str, object]] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("cells")
        cells = [cell for cell in all_cells() if marker is None or marker.args[0](cell)]
        metafunc.parametrize("shared", cells, ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    cell: Cell = request.param
    work = tmp_path_factory.mktemp("node")
    with cell.engine(work) as engine:
        minion = Minion(work / "minion", pillar={"baseimg": {"engine": cell.declared(engine)}})
        node = Node(cell, engine, minion, work)
        identity = {"kind": cell.kind, "suite": cell.suite, "version": node.call("engines")[0]["version"]}
        CELLS.setdefault(
            str(cell), {**identity, "file_system": cell.named(engine.root), "salt": str(salt.version.__version__)}
        )
        engine.load(images.archive([ImageSpec(KEPT, [BUSYBOX])]))
        yield node


@pytest.fixture
def node(shared: Node, request: pytest.FixtureRequest) -> Iterator[Node]:
    """Yield the cell's node without images of a base; its token makes the layers of each test unique."""
    shared.token = request.node.nodeid
    yield shared
    shared.engine.remove_others(KEPT)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    cell = CELLS.get(report.nodeid.partition("[")[2].removesuffix("]"))
    if cell is not None and (report.when == "call" or report.failed):
        cell[report.outcome] = int(str(cell.get(report.outcome, 0))) + 1


def pytest_sessionfinish() -> None:
    if REPORT:
        with Path(REPORT).open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(cell) + "\n" for cell in CELLS.values())
