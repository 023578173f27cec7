"""The whole matrix of tests/fault/test_oserrors.py: every error of every call of every operation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.test_oserrors import CALLS, OPERATIONS, check_call

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_under_every_error(tmp_path: Path, name: str, call: str) -> None:
    check_call(tmp_path, name, call, whole=True)
