"""The minion and the engine are restarted at every step of every operation."""

from __future__ import annotations

import pytest

from tests.integration.conftest import daemons, salt_factories_config  # noqa: F401
from tests.integration.test_interrupted import InterruptedNode, interrupted, started  # noqa: F401
from tests.support.deadlines import wait_until

pytestmark = [pytest.mark.torture, pytest.mark.integration]


def test_a_minion_that_is_restarted(interrupted: InterruptedNode) -> None:  # noqa: F811
    interrupted.minion.terminate()
    interrupted.gone()
    interrupted.check_shown(lambda case: case.at_the_step)
    interrupted.check_new_containers(lambda case: case.at_the_step)
    interrupted.minion.start()
    interrupted.converge()


def test_an_engine_that_is_restarted(interrupted: InterruptedNode) -> None:  # noqa: F811
    """Every job succeeds. Of two jobs on one base, the second waits for the first and changes nothing."""
    interrupted.engine.restart()
    second = interrupted.publish("baseimg.apply", "salt://bundles/apply-stage.filled.tar")
    wait_until(lambda: second in interrupted.running(), f"job {second} runs")
    returned = interrupted.go_on()
    assert {name: value for name, value in returned.items() if not isinstance(value, list | dict)} == {}
    assert interrupted.returned(second)["changed"] is False
    interrupted.check_shown(lambda case: case.declared)
    interrupted.check_new_containers(lambda case: case.declared)
    interrupted.converge()
