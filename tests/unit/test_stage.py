"""Stage a chain of deltas: how many contents exist at the same time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from baseimg_core.errors import SpaceExhausted
from baseimg_core.model.store.record import Generation, Record
from baseimg_core.ops import stage
from baseimg_core.ops.plan import Plan

STEPS = [f"12.{number}" for number in range(1, 53)]


class Chain:
    """A base whose versions are each reached by a delta from the version before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int = 0) -> None:
        self.record = Record("b:1", "", ("",), {0: Generation(0, "12.0", "", 1)})
        self.present: set[str] = set()
        self.peak, self._fails_at = 0, fails_at
        monkeypatch.setattr(stage, "_stage", self._stage)

    def run(self) -> Generation:
        """Stage the whole route."""
        store = SimpleNamespace(abandon=lambda _record, generation: self.present.remove(generation.version))
        catalogue = SimpleNamespace(bundle=lambda _version: SimpleNamespace(encodings={"delta": 1}))
        base: Any = SimpleNamespace(store=store)
        unused: Any = None
        return stage.stage(unused, base, self.record, Plan(STEPS[-1], None, None, STEPS), catalogue)  # type: ignore[arg-type]

    def _stage(self, _context: Any, _base: Any, _record: Any, start: Generation, route: list[str], _all: Any) -> Any:
        assert start.version in {"12.0", *self.present}
        if start.number + 1 == self._fails_at:
            raise SpaceExhausted("full")
        self.present.add(route[0])
        self.peak = max(self.peak, len(self.present))
        return Generation(start.number + 1, route[0], "", 1)


def test_a_chain_of_deltas_keeps_one_content_beside_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(monkeypatch)
    assert chain.run().version == STEPS[-1]
    assert (chain.peak, chain.present) == (2, {STEPS[-1]})


def test_a_failure_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(monkeypatch, fails_at=30)
    with pytest.raises(SpaceExhausted):
        chain.run()
    assert chain.present == set()
