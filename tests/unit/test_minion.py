"""What the core makes of Salt's own functions."""

from __future__ import annotations

import errno

import pytest

from baseimg_core.errors import BundleUnavailable, SpaceExhausted
from baseimg_core.minion import Minion
from baseimg_core.model.policy.pillar import Source


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (errno.ENOSPC, SpaceExhausted, "/var/cache/salt has no space: cannot fetch salt://b.tar"),
        (errno.EDQUOT, SpaceExhausted, "/var/cache/salt has no space"),
        (errno.EACCES, BundleUnavailable, "cannot fetch salt://b.tar: .*denied"),
    ],
)
def test_a_cache_that_cannot_be_written(code: int, error: type[Exception], message: str) -> None:
    def cache_file(*_arguments: object, **_named: object) -> str:
        raise OSError(code, "denied")

    minion = Minion({"cp.cache_file": cache_file}, {"cachedir": "/var/cache/salt"}, {})
    with pytest.raises(error, match=message):
        minion.fetch(Source("salt://b.tar"))
