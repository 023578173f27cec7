"""Which engines are refused by what they say of themselves."""

from __future__ import annotations

from typing import Any

import pytest

from baseimg_core.engine.docker import ROOTLESS, check_driver
from baseimg_core.errors import StorageUnsupported

SECCOMP = "name=seccomp,profile=default"


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({"Driver": "btrfs", "SecurityOptions": [SECCOMP]}, "'btrfs'"),
        ({"Driver": "fuse-overlayfs", "SecurityOptions": None}, "'fuse-overlayfs'"),
        ({"Driver": "overlay", "SecurityOptions": [SECCOMP, "name=rootless"]}, "no owners"),
    ],
)
def test_refused(info: dict[str, Any], named: str) -> None:
    with pytest.raises(StorageUnsupported, match=named):
        check_driver(info, "overlay", {"rootless": "no owners"})


def test_not_refused() -> None:
    check_driver({"Driver": "overlay", "SecurityOptions": [SECCOMP]}, "overlay", ROOTLESS)
    check_driver({"Driver": "overlay2", "SecurityOptions": [SECCOMP, "name=userns"]}, "overlay2", ROOTLESS)
