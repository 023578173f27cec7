"""Jobs are killed, minion or engine are restarted, or the engine is down, at every step of every operation."""

from __future__ import annotations

import pytest

from baseimg_core.disk.store.generations import POINTS
from tests.integration.conftest import daemons, salt_factories_config  # noqa: F401
from tests.integration.test_interrupted import (  # noqa: F401
    ALL_CASES,
    NODE,
    InterruptedNode,
    interrupted,
    started,
    test_killed_jobs,
)
from tests.support.deadlines import wait_until

pytestmark = [pytest.mark.torture, pytest.mark.integration]

CASES = ALL_CASES


def test_the_cases_have_every_step() -> None:
    assert {case.point for case in CASES} == set(POINTS)


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


def test_an_engine_that_is_down(interrupted: InterruptedNode) -> None:  # noqa: F811
    """Operations finish a swap that they have started; an error says which version the base shows."""
    interrupted.engine.kill()
    returned = interrupted.go_on()
    for case in CASES:
        message = str(returned[case.name])
        if case.operation in ("apply", "rollback"):
            assert "[engine-unreachable]" in message
            assert (f"shows {case.declared} now" in message) is (case.at_the_end == case.declared)
        is_local = case.operation == "adopt" or case.point in ("prune.deleted", "prune.recorded")
        assert ("[engine-unreachable]" in message) is not is_local
    states = interrupted.master.quick(NODE, "state.apply", "baseimg").states(NODE)
    comments = [state["comment"] for state in states.values()]
    assert len(comments) >= len(interrupted.converged)
    assert all(comment.startswith("[engine-unreachable]") for comment in comments)
    interrupted.engine.start()
    interrupted.check_shown(lambda case: case.at_the_end)
    interrupted.check_new_containers(lambda case: case.at_the_end)
    interrupted.converge()
