"""Kernel and file system are probed before any change, here against real refusals of the kernel."""

from __future__ import annotations

import errno
import multiprocessing
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from baseimg_core.errors import BaseimgError, FilesystemUnsuitable
from baseimg_core.linux import probe
from tests.support import seccomp
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.kernel import differences
from tests.support.plain import Node
from tests.support.trace import traced

pytestmark = pytest.mark.fault
forked = multiprocessing.get_context("fork")

# asm/unistd_64.h for x86-64, asm-generic/unistd.h for aarch64
NUMBERS = {
    "renameat2": {"x86_64": 316, "aarch64": 276},
    "setxattr": {"x86_64": 188, "aarch64": 5},
    "syncfs": {"x86_64": 306, "aarch64": 267},
}


def number(name: str) -> int:
    return NUMBERS[name][platform.machine()]


def in_child(work: Callable[[], object]) -> str:
    """Run ``work`` in a forked process; return the code and message of its error, empty without an error."""
    receiver, sender = forked.Pipe(duplex=False)

    def run() -> None:
        try:
            work()
            sender.send("")
        except BaseimgError as exc:
            sender.send(f"{exc.code}: {exc.message}")
        except BaseException as exc:
            sender.send(repr(exc))
            raise

    process = forked.Process(target=run)
    process.start()
    assert receiver.poll(60)
    message: str = receiver.recv()
    process.join()
    return message


@pytest.mark.parametrize("kind", ["ext4", "xfs", "xfs-noreflink", "btrfs"])
def test_file_systems_that_layers_lie_on(kind: str) -> None:
    with loop_fs(kind, XFS_MIN) as root:
        features = probe.probe(str(root))
        assert features.missing == []
        assert features.reflink is (kind in ("xfs", "btrfs"))
        assert probe.SCRATCH not in os.listdir(root)


@pytest.mark.parametrize(
    ("call", "error", "feature"),
    [
        ("renameat2", errno.EINVAL, "RENAME_EXCHANGE"),
        ("renameat2", errno.ENOSYS, "RENAME_EXCHANGE"),
        ("setxattr", errno.EOPNOTSUPP, "trusted"),
        ("setxattr", errno.EPERM, "trusted"),
        ("syncfs", errno.ENOSYS, "syncfs"),
        ("syncfs", errno.EPERM, "syncfs"),
    ],
)
def test_a_missing_feature_is_found_before_anything_is_written(
    tmp_path: Path, call: str, error: int, feature: str
) -> None:
    node = Node(tmp_path)

    def trace(point: str) -> None:
        raise AssertionError(f"{point} was reached")

    def work(step: Callable[[str], object]) -> None:
        seccomp.fail(number(call), error)
        with traced(trace):
            step("12.1")

    for step in (node.plan, node.converge):
        message = in_child(lambda step=step: work(step))
        assert message.startswith("filesystem-unsuitable: ")
        assert feature in message
    assert os.listdir(node.layer) == ["diff"]
    node.converge("12.1")
    assert differences(node.view(), node.views["12.1"]) == []


def test_the_error_names_the_directory_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path)
    lacking = probe.Features(exchange=False, trusted_xattrs=True, unnamed_files=True, syncfs=True, reflink=False)
    monkeypatch.setattr(probe, "probe", lambda _parent: lacking)
    with pytest.raises(FilesystemUnsuitable) as caught:
        node.converge("12.1")
    assert str(node.layer) in caught.value.message
    assert caught.value.hint


def test_a_leftover_of_a_killed_probe_is_removed(tmp_path: Path) -> None:
    (tmp_path / probe.SCRATCH / "first").mkdir(parents=True)
    assert probe.probe(str(tmp_path)).missing == []
    assert os.listdir(tmp_path) == []


def test_concurrent_probes_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _round: probe.probe(str(tmp_path)), range(80)))
    assert {tuple(result.missing) for result in results} == {()}
    assert os.listdir(tmp_path) == []
