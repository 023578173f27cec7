"""Engines that baseimg refuses, by their own description."""

from __future__ import annotations

from typing import Any

import pytest

from baseimg_core.engine.docker import ROOTLESS, check_driver, features_of
from baseimg_core.errors import StorageUnsupported

SECCOMP = "name=seccomp,profile=default"


@pytest.mark.parametrize(
    ("driver", "features", "named"),
    [
        ("btrfs", set(), "'btrfs'"),
        ("fuse-overlayfs", set(), "'fuse-overlayfs'"),
        ("overlay", {"seccomp", "rootless"}, "no owners"),
    ],
)
def test_refused(driver: str, features: set[str], named: str) -> None:
    with pytest.raises(StorageUnsupported, match=named):
        check_driver(driver, "overlay", features, {"rootless": "no owners"})


def test_not_refused() -> None:
    check_driver("overlay", "overlay", {"seccomp"}, ROOTLESS)
    check_driver("overlay2", "overlay2", {"seccomp", "userns"}, ROOTLESS)


@pytest.mark.parametrize(
    ("info", "features"),
    [
        ({"SecurityOptions": [SECCOMP, "name=rootless"]}, {"seccomp", "rootless"}),
        ({"SecurityOptions": None}, set()),
        ({}, set()),
    ],
)
def test_features(info: dict[str, Any], features: set[str]) -> None:
    assert features_of(info) == features
