"""One engine for all tests of a cell, and a minion that uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.engines.node")

from tests.engines.cells import Cell, all_cells  # noqa: E402
from tests.engines.node import Node  # noqa: E402
from tests.support.minion import Minion  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared" in metafunc.fixturenames:
        wanted = metafunc.definition.get_closest_marker("cells")
        cells = [cell for cell in all_cells() if wanted is None or wanted.args[0](cell)]
        metafunc.parametrize("shared", cells, ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    cell: Cell = request.param
    work = tmp_path_factory.mktemp("node")
    with cell.engine(work) as engine:
        minion = Minion(work / "minion", pillar={"baseimg": {"engine": cell.declared(engine)}})
        yield Node(cell, engine, minion, work)


@pytest.fixture
def node(shared: Node, request: pytest.FixtureRequest) -> Iterator[Node]:
    """The cell's node, without images; no other test has the same layers."""
    shared.token = request.node.nodeid
    yield shared
    shared.engine.remove_all()
