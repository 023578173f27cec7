"""The expected duration of a rollout."""

from __future__ import annotations

from baseimg_core.model.rollout import forecast
from baseimg_core.model.rollout.forecast import Rates
from baseimg_core.model.rollout.record import UPDATED, Rollout, RolloutNode
from baseimg_core.rollout.recorder import timestamp

AT = "2026-11-24T03:00:00.000+00:00"


def at(seconds: int) -> str:
    return f"2026-11-24T03:{seconds // 60:02}:{seconds % 60:02}.000+00:00"


def test_rates_are_of_updated_nodes() -> None:
    times = {"prepared": at(50), "started": at(60)}
    nodes = {f"node{number}": RolloutNode(0, UPDATED, ended=at(60 + number), **times) for number in (10, 20, 90)}
    nodes["node4"] = RolloutNode(0, "failed", started=at(60), ended=at(600))
    old, empty = (Rollout(name, "b", "2", "ops", AT, {}, [], nodes if name == "1" else {}) for name in ("1", "2"))
    assert forecast.measured([empty, old], timestamp) == Rates("1", 20, 3 / 50)
    assert forecast.measured([empty], timestamp) is None


def test_every_wave_has_its_batches_and_soaks_lie_between() -> None:
    rates = Rates("1", apply_seconds=20, prepared_per_second=0.5)
    assert forecast.seconds([1, 0, 9], 4, 600, rates) == 10 / 0.5 + (1 + 3) * 20 + 600
    assert forecast.seconds([], 4, 600, rates) == 0
