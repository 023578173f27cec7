"""A node refuses jobs that arrive too late or belong to a rollout that it has rolled back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid, JobStale
from baseimg_core.ops import job_terms


def test_a_late_job(tmp_path: Path) -> None:
    job_terms.parse(60 + time.time(), "1", False, str(tmp_path)).check_terms()
    for cancels in (False, True):
        with pytest.raises(JobStale, match=r"5\d s after the time"):
            job_terms.parse(time.time() - 55, "1", cancels, str(tmp_path)).check_terms()
    assert list(tmp_path.iterdir()) == []


def test_a_rollout_that_was_rolled_back(tmp_path: Path) -> None:
    converge = job_terms.parse(None, "1", False, str(tmp_path))
    converge.check_terms()
    job_terms.parse(None, ["2", "1"], True, str(tmp_path)).check_terms()
    job_terms.parse(None, ["2", "1"], True, str(tmp_path)).check_terms()
    with pytest.raises(JobStale, match="rollout 1 was rolled back"):
        converge.check_terms()
    job_terms.parse(None, "3", False, str(tmp_path)).check_terms()
    assert (tmp_path / "baseimg/rolled-back").read_text() == "2\n1\n"


def test_ids_are_bounded(tmp_path: Path) -> None:
    for number in range(0, 1500, 100):
        job_terms.parse(None, [str(number + offset) for offset in range(100)], True, str(tmp_path)).check_terms()
    lines = (tmp_path / "baseimg/rolled-back").read_text().split()
    assert (len(lines), lines[-1]) == (1000, "1499")


def test_a_job_without_terms(tmp_path: Path) -> None:
    job_terms.parse(None, None, False, str(tmp_path)).check_terms()


@pytest.mark.parametrize(("not_after", "rollout"), [("x", None), (True, None), (None, 3), (None, "a b"), (None, [""])])
def test_mistakes(tmp_path: Path, not_after: Any, rollout: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        job_terms.parse(not_after, rollout, False, str(tmp_path))
