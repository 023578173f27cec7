"""A question to the fleet waits for connected nodes only."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from baseimg_core.rollout import fleet_query
from baseimg_core.rollout.fleet_query import FleetQuery
from baseimg_core.rollout.screen import Screen

NODES = ["node1", "node2", "node3"]


@pytest.fixture(autouse=True)
def no_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_query, "QUIET", 0)


def replies(*answering: str, patience: int = 10) -> Iterator[dict[str, Any] | None]:
    """Salt's iterator: answers, then nothing until its timeouts; ``reached`` in the last item marks them."""
    for node in answering:
        yield {node: {"ret": node, "retcode": 0}}
    for _ in range(patience):
        yield None
    yield {"timeouts": {"ret": "reached"}}


def take(connected: set[str], *answering: str) -> tuple[dict[str, Any], list[set[str]]]:
    """Return the answers, and the nodes that the query checked connections of."""
    checked = []

    def connected_of(nodes: set[str]) -> set[str]:
        checked.append(nodes)
        return nodes & connected

    query = FleetQuery(NODES, connected_of, Screen(io.StringIO()))
    return query.take(replies(*answering)), checked


def test_everybody_answers_and_nobody_is_looked_up() -> None:
    assert take(set(), *NODES) == (dict(zip(NODES, NODES, strict=True)), [])


def test_a_node_without_a_connection_is_not_waited_for() -> None:
    assert take({"node1", "node2"}, "node1", "node2") == ({"node1": "node1", "node2": "node2"}, [set(NODES)])


def test_a_silent_node_with_a_connection_is_waited_for() -> None:
    assert "timeouts" in take(set(NODES), "node1", "node2")[0]


@pytest.mark.parametrize(("connected", "answering"), [({"node2"}, ["node1"]), ({"node1"}, [])])
def test_a_list_of_connections_that_lacks_a_node_which_answered_proves_nothing(
    connected: set[str], answering: list[str]
) -> None:
    """The nodes are behind address translation, or the master caches no grains."""
    assert "timeouts" in take(connected, *answering)[0]


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(fleet_query, "_REDRAW", 0)
    FleetQuery(NODES, set, Screen(stream)).take(replies(*NODES))
    assert "2 of 3 nodes answered" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")
