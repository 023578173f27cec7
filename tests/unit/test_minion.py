"""What the core makes of Salt's own functions."""

from __future__ import annotations

import errno

import pytest

from baseimg_core.errors import ArgumentInvalid, BundleUnavailable, SpaceExhausted
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


SALT_SSH = {"cachedir": "/x/running_data/var/cache/salt/minion", "root_dir": "/var/tmp/.root_1_salt/running_data"}


def test_salt_ssh_without_pillar_is_refused() -> None:
    """Seen: `salt-ssh HOST state.apply baseimg` succeeded without a state, and protected images were not protected."""
    unseen = Minion({"config.get": lambda _key, default=None, **_options: default}, SALT_SSH, {})
    for reads in (unseen.declared, lambda: unseen.context(trust=True)):
        with pytest.raises(ArgumentInvalid, match="salt-ssh gives functions on the target no pillar"):
            reads()
    assert unseen.declared_bases() == {}  # a rollback needs none
    # states that salt-ssh runs on the target have the pillar
    assert Minion({}, SALT_SSH, {"baseimg": {}}).declared()["bases"] == {}
