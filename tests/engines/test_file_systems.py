"""Apply and roll back on each supported file system, without an engine; verify finds no change."""

from __future__ import annotations

import pytest

from baseimg_core.ops import bases, converge, rollback, verify
from tests.engines.cells import FILE_SYSTEMS
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.kernel import differences
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.functional


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_there_and_back(kind: str) -> None:
    with loop_fs(kind, XFS_MIN) as point:
        node = Node(point)
        pristine = node.view()
        for version in ("12.1", "12.2"):
            node.converge(version)
            verified = verify.verify(node.engine, bases.locate(node.engine, BASE), True)
            assert (verified["version"], verified["findings"]) == (version, [])
        # unchanged live content does not count as changed; otherwise every run would repair it
        again = converge.converge(node.context, BASE, "12.2", node.bundles, repair=True)
        assert (again["changed"], again["repaired"]) == (False, False)
        rollback.roll_back(node.context, BASE, "pristine")
        assert differences(node.view(), pristine) == []
