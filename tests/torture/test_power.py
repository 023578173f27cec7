"""Power cuts at every step of every operation and at random, with and without a flushed journal."""

from __future__ import annotations

import random

import pytest

from tests.support.fs import Disk
from tests.support.power import (
    OPERATIONS,
    check_live_version,
    check_nest,
    check_recovery,
    cut_at,
    cut_at_random,
    cut_nest_at,
    nest,
    nest_points,
    points,
    prepared,
)

pytestmark = pytest.mark.torture

DISKS = {"ext4": ("ext4", ""), "ext4-writeback": ("ext4", "data=writeback"), "xfs": ("xfs", ""), "btrfs": ("btrfs", "")}
RANDOM_CUTS = 60


@pytest.mark.parametrize("flush", [False, True], ids=["lost journal", "flushed journal"])
@pytest.mark.parametrize(("operation", "point"), [(name, point) for name in OPERATIONS for point in points(name)])
@pytest.mark.parametrize("disk", DISKS)
def test_at_every_step(disk: str, operation: str, point: str, flush: bool) -> None:
    with Disk(*DISKS[disk]) as device:
        node = prepared(device, operation)
        cut_at(device, node, operation, point, flush)
        check_live_version(node, OPERATIONS[operation].possible)
        check_recovery(node)


@pytest.mark.parametrize("step", nest_points())
@pytest.mark.parametrize("disk", [name for name in DISKS if name != "ext4-writeback"])
def test_at_every_step_of_a_nest(disk: str, step: str) -> None:
    with Disk(*DISKS[disk]) as device:
        node = nest(device)
        cut_nest_at(device, node, step)
        check_nest(node)


@pytest.mark.parametrize("disk", [name for name in DISKS if name != "btrfs"])
def test_at_random_moments(disk: str) -> None:
    """Cuts follow each other on one disk. A copy of a btrfs device is only consistent between writes."""
    random.seed(24)
    with Disk(*DISKS[disk]) as device:
        node = prepared(device, "first converge")
        version = "12.0"
        for number in range(RANDOM_CUTS):
            target = random.choice([name for name in node.views if name != version])
            cut_at_random(device, node, target, 0.5, flush=number % 2 == 0)
            version = check_live_version(node, (version, target))
            device.sync()
        check_recovery(node)
