"""A process killed at any step, or at a random moment, leaves the complete old or new base."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baseimg_core.disk.store import generations
from baseimg_core.errors import PristineUnproven, SpaceExhausted
from baseimg_core.linux import syscalls
from baseimg_core.linux.files import temporary_directory
from baseimg_core.ops import adopt as ops_adopt
from baseimg_core.ops import bases, prune, rollback
from tests.support import forks, legacy
from tests.support.deadlines import wait_until
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.kernel import differences
from tests.support.plain import BASE, Node
from tests.support.stores import OPTIONAL_FILES, STORE_FILES
from tests.support.trace import traced

pytestmark = pytest.mark.fault

STAGING = [point for point in generations.POINTS if point.startswith("stage.")]
SWAPPING = [point for point in generations.POINTS if point.startswith("swap.")]
RECOVERING = [point for point in generations.POINTS if point.startswith("recover.")]
PRUNING = [point for point in generations.POINTS if point.startswith("prune.")]
ADOPTING = [point for point in generations.POINTS if point.startswith("adopt.")]
RANDOM_KILLS = 70


@pytest.fixture(scope="module", params=["xfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Mount a file system for all tests; `tests/torture/test_kill_steps.py` has ext4 and btrfs."""
    with loop_fs(request.param, XFS_MIN) as root:
        yield root


@pytest.fixture
def node(disk: Path) -> Iterator[Node]:
    with temporary_directory(str(disk), "node-") as root:
        yield Node(Path(root))


def in_child(work: Callable[[], object], trace: Callable[[str], None] | None = None) -> int:
    """Run ``work`` in a forked process; return its wait status."""

    def traced_work() -> None:
        with traced(trace) if trace else contextlib.nullcontext():
            work()

    return forks.run(traced_work)


def is_killed_at(point: str, work: Callable[[], object]) -> bool:
    """Run ``work`` in a process that is killed when it reaches ``point``; return whether it reached it."""

    def trace(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    status = in_child(work, trace)
    assert status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), status
    return status != 0


def killed_at(point: str, work: Callable[[], object]) -> None:
    """Run ``work`` in a process that is killed when it reaches ``point``."""
    assert is_killed_at(point, work), f"{point} was never reached"


def check_live_version(node: Node, *possible: str) -> str:
    """Assert that the base shows exactly one of these versions and that status agrees; return it."""
    view = node.view()
    matching = [version for version in possible if not differences(view, node.views[version])]
    assert len(matching) == 1, {version: differences(view, node.views[version]) for version in possible}
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert status["version"] == matching[0]
    return matching[0]


def check_tidy(node: Node) -> None:
    """Assert that the store contains no file that the record does not list."""
    home = node.layer / "baseimg"
    assert sorted(os.listdir(node.layer)) == ["baseimg", "diff"]
    assert set(os.listdir(home)) - OPTIONAL_FILES == STORE_FILES
    record = json.loads((home / "state.json").read_text())
    known = {str(generation["number"]) for generation in record["generations"]}
    assert set(os.listdir(home / "generations")) == known - {str(record["current"])}
    assert set(os.listdir(home / "index")) == {f"{number}.jsonl" for number in known}
    assert record["intent"] is None
    assert all(generation["activated"] for generation in record["generations"])


def check_history(node: Node) -> None:
    """Assert that the history has every swap once, each starting at the previous one's result."""
    lines = bases.locate(node.engine, BASE).store.records.history()
    assert len({line["id"] for line in lines}) == len(lines)
    assert all(earlier["after"] == later["before"] for earlier, later in itertools.pairwise(lines))
    assert lines[-1]["to"] == check_live_version(node, "12.0", "12.1", "12.2")


@pytest.mark.parametrize("point", STAGING + SWAPPING)
def test_first_apply(node, point):
    killed_at(point, lambda: node.converge("12.1"))
    check_live_version(node, "12.0", "12.1")
    node.converge("12.1")
    check_live_version(node, "12.1")
    check_tidy(node)
    check_history(node)


@pytest.mark.parametrize("point", STAGING + SWAPPING)
def test_second_apply(node, point):
    node.converge("12.1")
    killed_at(point, lambda: node.converge("12.2"))
    check_live_version(node, "12.1", "12.2")
    node.converge("12.2")
    check_live_version(node, "12.2")
    check_tidy(node)
    check_history(node)


@pytest.mark.parametrize("point", STAGING + SWAPPING)
def test_apply_then_another_version_is_wanted(node, point):
    killed_at(point, lambda: node.converge("12.1"))
    node.converge("12.0")
    check_live_version(node, "12.0")
    if (node.layer / "baseimg").exists():
        check_tidy(node)
    else:
        assert os.listdir(node.layer) == ["diff"]


@pytest.mark.parametrize("point", SWAPPING)
def test_rollback(node, point):
    node.converge("12.1")
    killed_at(point, lambda: rollback.roll_back(node.context, BASE, "pristine"))
    check_live_version(node, "12.0", "12.1")
    rollback.roll_back(node.context, BASE, "pristine")
    check_live_version(node, "12.0")
    check_tidy(node)
    check_history(node)


# before the first record and after the last step, recovery has fewer steps
RECOVERIES = [
    (first, point)
    for first in STAGING + SWAPPING[:-1]
    for point in (RECOVERING if first in (*STAGING[-2:], *SWAPPING) else RECOVERING[:1])
]


@pytest.mark.parametrize(("first", "point"), RECOVERIES)
def test_recovery_of_an_apply(node, first, point):
    killed_at(first, lambda: node.converge("12.1"))
    killed_at(point, lambda: node.converge("12.1"))
    check_live_version(node, "12.0", "12.1")
    node.converge("12.1")
    check_live_version(node, "12.1")
    check_tidy(node)
    check_history(node)


@pytest.mark.parametrize("point", PRUNING)
def test_prune(node, point):
    for version in ("12.1", "12.2", "12.0", "12.2"):
        node.converge(version)
    # a generation stays, and no point is reached, while another process's new mount namespace has a copy of a mount
    wait_until(lambda: is_killed_at(point, lambda: prune.prune(node.context, BASE, 0, False)), f"prune reaches {point}")
    check_live_version(node, "12.2")

    def pruned() -> bool:
        prune.prune(node.context, BASE, 0, False)
        return bases.locate(node.engine, BASE).store.read().present == [0, 2]

    wait_until(pruned, "prune deletes everything but the pristine and the live content")
    check_tidy(node)
    node.converge("12.0")
    check_live_version(node, "12.0")


@pytest.fixture(params=["proven", "unproven"])
def old_node(node, tmp_path, request):
    """Return a node that the old scripts updated; a damaged backup makes its pristine content unprovable."""
    target = tmp_path / "target"
    (target / "etc").mkdir(parents=True)
    (target / "etc/version").write_text("old 12.1")
    (target / "etc/added").write_text("added")
    upper = str(node.stack[0])
    archive = legacy.pack(upper, [str(target), upper], tmp_path / "BASE-12.1-diff.tar.gz")
    legacy.update(node.root / "layers", archive, "12.1", upper, "12.0")
    if request.param == "unproven":
        (node.root / "layers/tmp/backup/12.0/etc/version").write_text("XXXX")
    node.views["adopted"] = node.view()
    node.expected = request.param
    return node


def adopt(node: Node) -> dict:
    return ops_adopt.adopt(node.context)


def check_adopted(node: Node) -> None:
    """Assert that adoption changed nothing that containers see and status reports the pristine state."""
    assert differences(node.view(), node.views["adopted"]) == []
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    pristine = {"proven": "kept", "unproven": "unproven"}[node.expected]
    assert (status["version"], status["generation"], status["pristine"]) == ("12.1", 1, pristine)
    assert (status["interrupted"], status["legacy"]) == (False, "")
    home = node.layer / "baseimg"
    assert sorted(os.listdir(node.layer)) == ["baseimg", "diff"]
    assert set(os.listdir(home)) - OPTIONAL_FILES == STORE_FILES
    assert os.listdir(home / "generations") == (["0"] if pristine == "kept" else [])
    assert sorted(os.listdir(home / "index")) == (["0.jsonl", "1.jsonl"] if pristine == "kept" else ["1.jsonl"])
    (line,) = bases.locate(node.engine, BASE).store.records.history()
    assert (line["action"], line["from"], line["to"]) == ("adopt", "12.0", "12.1")
    if pristine == "kept":
        node.converge("12.2")
        check_live_version(node, "12.2")
        node.converge("12.0")
        check_live_version(node, "12.0")
    else:
        for version in ("12.0", "12.1", "12.2"):
            with pytest.raises(PristineUnproven):
                node.converge(version)


@pytest.mark.parametrize("point", ADOPTING)
def test_adopt(old_node, point):
    killed_at(point, lambda: adopt(old_node))
    assert differences(old_node.view(), old_node.views["adopted"]) == []
    status = bases.status(old_node.engine, bases.locate(old_node.engine, BASE))
    assert (status["version"], status["legacy"]) in (("12.0", "12.1"), ("12.1", ""))
    assert adopt(old_node)["pristine"] == old_node.expected
    check_adopted(old_node)


@pytest.mark.parametrize(
    ("first", "point"),
    [
        (first, point)
        for first in ADOPTING[:-1]
        for point in (RECOVERING if ADOPTING.index(first) >= ADOPTING.index("adopt.recorded") else RECOVERING[:1])
    ],
)
def test_recovery_of_an_adoption(old_node, first, point):
    killed_at(first, lambda: adopt(old_node))
    killed_at(point, lambda: adopt(old_node))
    assert differences(old_node.view(), old_node.views["adopted"]) == []
    assert adopt(old_node)["pristine"] == old_node.expected
    check_adopted(old_node)


@pytest.mark.parametrize("point", ADOPTING)
def test_an_error_at_any_point_of_an_adoption(old_node, point):
    def trace(reached: str) -> None:
        if reached == point:
            raise OSError(28, "No space left on device")

    with traced(trace), pytest.raises(SpaceExhausted):
        adopt(old_node)
    assert differences(old_node.view(), old_node.views["adopted"]) == []
    if ADOPTING.index(point) < ADOPTING.index("adopt.recorded"):
        assert os.listdir(old_node.layer) == ["diff"]
    assert adopt(old_node)["pristine"] == old_node.expected
    check_adopted(old_node)


def test_every_point_is_passed(node):
    passed_points: list[str] = []
    with traced(passed_points.append):
        (node.root / "layers/tmp").mkdir()
        (node.root / "layers/tmp/baseimg.properties").write_text(f"base.dir={node.stack[0]}\nbase.ver=12.0\n")
        adopt(node)
        for version in ("12.1", "12.2", "12.0"):
            node.converge(version)
        prune.prune(node.context, BASE, 0, False)
    assert set(passed_points) == set(generations.POINTS)


def test_random_kills(node):
    rng = random.Random(12)
    began = time.monotonic()
    in_child(lambda: node.converge("12.1"))
    # keep the last runs only: a run on a busy disk must not spread the moments of all later kills
    whole = collections.deque([time.monotonic() - began], maxlen=8)
    version, killed = "12.1", 0
    for _ in range(RANDOM_KILLS):
        next_version = rng.choice([version_name for version_name in node.views if version_name != version])
        began = time.monotonic()
        pid = forks.start(functools.partial(node.converge, next_version))
        descriptor = os.pidfd_open(pid)
        if select.select([descriptor], [], [], rng.uniform(0, max(whole)))[0]:
            whole.append(time.monotonic() - began)
        os.kill(pid, signal.SIGKILL)
        os.close(descriptor)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        version = check_live_version(node, version, next_version)
    assert killed > RANDOM_KILLS // 4  # otherwise most moments were outside the operation
    node.converge("12.1")
    check_live_version(node, "12.1")
    check_tidy(node)
    check_history(node)


@pytest.mark.parametrize("next_version", ["12.1", "12.0"])
def test_an_interrupt_right_after_the_exchange_loses_nothing(node, next_version, monkeypatch):
    """The old content then lies under the new generation's name and must not be mistaken for it."""
    versions = {"12.1": "12.0", "12.0": "12.1"}
    if next_version == "12.0":
        node.converge("12.1")
    exchange = syscalls.exchange

    def interrupted(first: str, second: str) -> None:
        exchange(first, second)
        if first == str(node.layer / "diff"):  # skips the probe of the file system
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            node.converge(next_version)
    check_live_version(node, next_version)
    node.converge(versions[next_version])
    check_live_version(node, versions[next_version])
    check_tidy(node)
    check_history(node)


@pytest.mark.parametrize("point", STAGING + SWAPPING)
def test_an_error_at_any_point_leaves_old_or_new(node, point):
    """An OSError at any point leaves the complete old or new base, and the next run succeeds."""

    def trace(reached: str) -> None:
        if reached == point:
            raise OSError(28, "No space left on device")

    with traced(trace), pytest.raises(Exception, match=r"space|No space"):
        node.converge("12.1")
    if point.startswith("stage."):
        assert os.listdir(node.layer) == ["diff"]
    check_live_version(node, "12.0", "12.1")
    node.converge("12.1")
    check_live_version(node, "12.1")
    check_tidy(node)
