"""Holds and repeated rollbacks: a command repeated under stress must do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baseimg_core.model.store.drift import drift
from tests.functional.lab import BASE, NEWER, Lab
from tests.functional.test_states import converged, declare, run

pytestmark = pytest.mark.functional


@pytest.fixture
def bundles(lab: Lab) -> dict[str, Any]:
    lab.usual(NEWER)
    return {"12.1": declare(lab.bundle()), "12.2": declare(lab.bundle(BASE, NEWER))}


class TestRollbackAgain:
    def test_rolling_back_twice_is_rolling_back_once(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        first = lab.rollback(BASE)
        assert (first["changed"], first["direction"], first["to"]) == (True, "back", "12.0")
        for _ in range(2):
            again = lab.rollback(BASE)
            assert (again["changed"], again["direction"], again["to"]) == (False, "none", "12.0")
            assert "to= selects another version" in again["note"]
        assert lab.version() == "12.0"
        assert len(lab.history(BASE)) == 2

    def test_to_names_another_version(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        lab.rollback(BASE)
        forward = lab.rollback(BASE, to="12.1")
        assert (forward["changed"], forward["direction"], forward["to"]) == (True, "forward", "12.1")
        assert lab.rollback(BASE)["changed"] is False

    def test_after_going_forward_again_it_goes_back_again(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        lab.rollback(BASE)
        lab.converge(BASE, "12.2", bundles)
        assert lab.rollback(BASE)["to"] == "12.0"

    def test_what_pillar_declares_is_told(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        lab.minion.pillar = {"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles}}}}
        assert "pillar still declares 12.1" in lab.rollback(BASE)["note"]
        lab.converge(BASE, "12.1", bundles)
        assert "pillar still declares 12.1: the hold blocks it" in lab.rollback(BASE, hold=True)["note"]


class TestHold:
    def test_states_leave_a_held_base_where_it_is_and_warn(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        lab.rollback(BASE, hold=True, reason="shop does not start")
        arguments = {"name": BASE, "version": "12.1", "bundles": bundles}
        for test in (True, False):
            done = run(lab, test, "converged", arguments)
            assert (done["result"], done["changes"]) == (True, {})
            assert done["comment"].startswith(f"{BASE}: stays at 12.0 (")
            (warning,) = done["warnings"]
            assert "version 12.1 is held since" in warning
            assert "shop does not start" in warning
        assert lab.version() == "12.0"
        (status,) = lab.status(BASE)["bases"]
        assert [(hold["version"], hold["reason"]) for hold in status["holds"]] == [("12.1", "shop does not start")]

    def test_a_repeated_rollback_holds_what_the_first_one_left(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        lab.converge(BASE, "12.2", bundles)
        untouched = lab.rollback(BASE, to="12.2", hold=True, reason="broken")
        assert any("no version is held" in warning for warning in untouched["warnings"])
        lab.rollback(BASE)
        again = lab.rollback(BASE, hold=True, reason="broken")
        assert (again["changed"], [hold["version"] for hold in again["holds"]]) == (False, ["12.2"])
        assert lab.converge(BASE, "12.2", bundles)["changed"] is False

    def test_a_rollback_to_a_held_version_warns(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.converge(BASE, "12.1", bundles)
        lab.converge(BASE, "12.2", bundles)
        lab.hold(BASE, "12.1", reason="broken")
        assert any("held version" in warning for warning in lab.rollback(BASE)["warnings"])

    def test_another_version_passes(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.hold(BASE, "12.1", reason="broken")
        done = converged(lab, "12.2", bundles)
        assert "warnings" not in done
        assert lab.version() == "12.2"

    def test_an_untouched_node_can_be_held(self, lab: Lab, bundles: dict[str, Any]) -> None:
        assert lab.hold(BASE, "12.1", reason="broken")["changed"] is True
        assert lab.hold(BASE, "12.1", reason="broken")["changed"] is False
        (status,) = lab.status(BASE)["bases"]
        assert (status["interrupted"], drift(status)) == (False, "")  # no record is no crash
        assert lab.converge(BASE, "12.1", bundles)["changed"] is False
        lab.refused("base-held", "apply", bundles["12.1"]["source"])
        assert "holds" not in lab.unhold(BASE, "12.1")
        assert lab.unhold(BASE)["changed"] is False
        assert lab.converge(BASE, "12.1", bundles)["changed"] is True

    def test_a_version_that_nobody_knows_has_a_note(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.minion.pillar = {"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles}}}}
        assert "note" not in lab.hold(BASE, "12.2", reason="broken")
        done = lab.hold(BASE, "12.21", reason="broken")
        assert (done["changed"], done["note"].partition("known: ")[2]) == (True, "'12.0' or '12.1' or '12.2'")

    def test_nothing_stays_behind_when_the_hold_is_lifted(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.hold(BASE, "12.1", reason="broken")
        lab.unhold(BASE)
        assert not Path(lab.top(BASE), "baseimg").exists()

    @pytest.mark.parametrize(("until", "held"), [("2020-01-01T00:00:00Z", False), ("2998-01-01T04:00:00Z", True)])
    def test_it_ends_by_itself(self, lab: Lab, bundles: dict[str, Any], until: str, held: bool) -> None:
        lab.hold(BASE, "12.1", reason="broken", until="2999-01-01T04:00Z")
        path = Path(lab.top(BASE), "baseimg/holds.json")
        path.write_text(path.read_text().replace("2999-01-01T04:00:00Z", until))
        assert lab.converge(BASE, "12.1", bundles)["changed"] is not held

    def test_a_damaged_hold_is_not_no_hold(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.hold(BASE, "12.1", reason="broken")
        Path(lab.top(BASE), "baseimg/holds.json").write_text("{")
        lab.refused("record-invalid", "converge", BASE, "12.1", bundles)

    def test_wrong_arguments(self, lab: Lab, bundles: dict[str, Any]) -> None:
        lab.refused("argument-invalid", "hold", BASE, 12.1, reason="broken")
        lab.refused("argument-invalid", "hold", BASE, "12.1", reason="")
        lab.refused("argument-invalid", "hold", BASE, "12.1", reason="broken", until="soon")
        error = lab.refused("argument-invalid", "hold", BASE, "12.1", reason="broken", until="2020-01-01")
        assert "a time in the future" in error.info["message"]
        error = lab.refused("argument-invalid", "plan", BASE, 12.1, bundles)
        assert error.info["message"].endswith("""write it in quotes, '12.1', in a shell "'12.1'\"""")
        declared = {"version": "12.1", "bundles": {**bundles, "12.10": bundles["12.1"]}}
        lab.minion.pillar = {"baseimg": {"bases": {BASE: declared}}}
        for function in ("rollback", "pin"):
            error = lab.refused("argument-invalid", function, BASE, 12.1)
            assert "'12.1' or '12.10'" in error.info["message"]
        lab.refused("base-absent", "hold", "corp/none:1", "12.1", reason="broken")
