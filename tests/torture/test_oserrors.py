"""The whole matrix of tests/fault/test_oserrors.py: every error of every call of every operation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.test_oserrors import CALLS, OPERATIONS, check_call
from tests.support.fs import XFS_MIN, loop_fs

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_under_every_error(tmp_path: Path, name: str, call: str) -> None:
    check_call(tmp_path, name, call, whole=True)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_on_other_file_systems(name: str, kind: str) -> None:
    with loop_fs(kind, XFS_MIN) as root:
        for call in CALLS:
            check_call(root, name, call, whole=False)
