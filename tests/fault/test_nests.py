"""Nests: stacked bases, each at its own version, in every order, and killed at every step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from baseimg_core.disk.store import generations
from baseimg_core.disk.store.generations import Store
from baseimg_core.errors import BaseNested, LayerBusy
from baseimg_core.model.store.nests import FOLLOW
from baseimg_core.ops import bases, mask_space, plan, prepare, preview, prune, verdicts
from baseimg_core.ops.nest import Nest
from tests.support import forks
from tests.support.kernel import differences, show
from tests.support.nests import NestNode, files, orders, tag
from tests.support.trace import traced

pytestmark = pytest.mark.fault

OS, JAVA, FRAME, APP, OS_NEW = "corp/os:1", "corp/java:1", "corp/frame:1", "corp/app:1", "corp/os:1.1"
POINTS = [point for point in generations.POINTS if point.startswith(("stage.", "swap."))]


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return os <- java <- frame <- app; java 2 is built on os:1, java 3 on os:2, os:1.1 on os:1."""
    made = NestNode(tmp_path)
    made.image(OS, "", files({"etc/os": "1", "lib/ssl": "ssl 1", "lib/crypto": "crypto 1", "opt/x/y": "1"}))
    made.image(JAVA, OS, files({"lib/java": "java 1", "lib/crypto": "java's crypto"}))
    made.image(FRAME, JAVA, files({"frame": "1"}))
    made.image(APP, FRAME, files({"app/run": "app"}))
    made.image(OS_NEW, OS, files({"etc/os": "1.1", "lib/ssl": "ssl 1.1"}))
    fixed = {"etc/os": "2", "lib/ssl": "ssl 2", "lib/crypto": "crypto 2", "lib/more": "2", "opt/x": "a file"}
    new = made.version(OS, "2", [], files(fixed))
    made.version(OS, "3", [], files({"etc/os": "3", "lib/other": "3"}))
    made.bundle(OS, "1.1", made.stacks[OS_NEW], made.engine.image(OS_NEW).diff_ids)
    made.version(JAVA, "2", made.stacks[OS], files({"lib/java": "java 2", "lib/jit": "2"}))
    made.version(JAVA, "3", new, files({"lib/java": "java 3"}))
    made.version(FRAME, "2", made.stacks[JAVA], files({"frame": "2"}))
    return made


def check_exact_view(node: NestNode, base: str, version: str) -> None:
    assert differences(node.view(base), node.views[base, version]) == []
    assert node.live(base) == version


@pytest.mark.parametrize("java", ["2", "3"])
def test_two_bases_at_their_own_versions_in_every_order(tmp_path: Path, node: NestNode, java: str) -> None:
    for order in orders({OS: "2", JAVA: java}):
        for base, version in order:
            planned = node.plan(base, version)
            done = node.converge(base, version)
            assert planned["changed"] is done["changed"] is True
            check_exact_view(node, base, version)
        check_exact_view(node, OS, "2")
        check_exact_view(node, JAVA, java)
        app = [*node.stacks[APP][:2], *node.stacks[JAVA]]
        assert differences(node.view(APP), show(app)) == []
        for base, version in order:
            assert node.plan(base, version)["changed"] is node.converge(base, version)["changed"] is False
        for base, _version in order:
            node.rollback(base, "pristine")
        check_exact_view(node, OS, "1")
        check_exact_view(node, JAVA, "1")


def test_three_bases_change_again_and_back(node: NestNode) -> None:
    for base, version in [(FRAME, "2"), (OS, "2"), (JAVA, "3"), (OS, "3"), (JAVA, "2"), (OS, "1"), (OS, "2")]:
        node.converge(base, version)
        check_exact_view(node, base, version)
        check_exact_view(node, FRAME, "2")
    node.converge(JAVA, "1")
    check_exact_view(node, FRAME, "2")
    check_exact_view(node, OS, "2")
    # java is at its own version again, so it follows os
    assert node.view(JAVA)[b"etc/os"] == node.views[OS, "2"][b"etc/os"]


def test_a_base_at_its_own_version_follows_unless_it_is_declared_exact(node: NestNode) -> None:
    done = node.converge(OS, "2")
    assert done["kept"] == []
    assert node.view(JAVA)[b"etc/os"] == node.views[OS, "2"][b"etc/os"]
    node.below[JAVA] = "exact"
    assert node.plan(JAVA, "1")["changed"] is True
    node.converge(JAVA, "1")
    check_exact_view(node, JAVA, "1")
    node.converge(OS, "3")
    check_exact_view(node, JAVA, "1")


def test_a_base_that_is_declared_to_follow_shows_its_layer_over_what_is_below(node: NestNode) -> None:
    node.below[JAVA] = FOLLOW
    node.converge(JAVA, "2")
    top = node.root / "copy"
    subprocess.run(["cp", "-a", str(node.stacks[JAVA][0]), str(top)], check=True)
    node.converge(OS, "2")
    assert differences(node.view(JAVA), show([top, *node.stacks[OS]])) == []


def test_prune_keeps_the_masks_of_the_way_back(node: NestNode) -> None:
    """A rollback makes no mask, so a full disk does not prevent it."""
    for version in ("2", "1.1"):
        node.converge(OS, version)
    original, made = node.view(OS_NEW), list[str]()
    prune.prune(replace(node.context, grace=0), None, 0, test=False)
    with traced(made.append):
        node.rollback(OS, "2")
    assert "stage.begun" not in made
    check_exact_view(node, OS, "2")
    assert differences(node.view(OS_NEW), original) == []


def test_masks_are_prepared(node: NestNode) -> None:
    for base in (FRAME, JAVA):
        node.converge(base, "2")
    uppers = [Store(str(node.stacks[base][0].parent)) for base in (JAVA, FRAME)]

    def numbers() -> list[list[int]]:
        return [record.present for store in uppers if (record := store.read())]

    before = numbers()
    goal = node.goal(OS, "2")
    assert node.plan(OS, "2")["preparation"] == "needed"
    assert prepare.prepare(node.context, goal, 1e9)["changed"]
    prepared = numbers()
    assert all(len(new) == len(old) + 1 for new, old in zip(prepared, before, strict=True))
    assert node.plan(OS, "2")["preparation"] == "ready"
    assert not prepare.prepare(node.context, goal, 1e9)["changed"]
    prune.prune(node.context, None, 5, test=False)
    assert numbers() == prepared
    node.converge(OS, "2")
    assert numbers() == prepared
    for base in (OS, JAVA, FRAME):
        check_exact_view(node, base, "2")
    assert node.plan(OS, "2")["preparation"] == "live"


def test_the_space_of_masks_is_planned(node: NestNode) -> None:
    node.converge(FRAME, "2")
    base = bases.locate(node.engine, OS)
    record = bases.initial_record(node.engine, base)
    with contextlib.ExitStack() as stack:
        catalogue = plan.Catalogue(node.context, node.goal(OS, "2").bundles, stack)
        steps = plan.plan_route(record, "2", catalogue)
        nest = Nest.read(node.context, base, record, {catalogue.manifest("2").target.chain_id})
        judge = verdicts.build_image_judge(node.context, nest, steps, catalogue)
        planned = [mask_space.needed(nest, steps, catalogue, known) for known in (judge, None)]
    node.converge(OS, "2")
    made = Store(str(node.stacks[FRAME][0].parent)).read().live
    judged, counted = planned
    assert judged[0] >= made.bytes > 0
    assert judged[1] >= made.paths
    assert counted[0] >= made.bytes


def test_a_version_of_the_base_stays_what_it_is(node: NestNode) -> None:
    node.converge(OS, "1.1")
    planned = node.plan(OS, "2")
    done = node.converge(OS, "2")
    assert done["kept"] == planned["kept"]
    (kept,) = done["kept"]
    assert (kept["base"], kept["version"], kept["images"], kept["declared"]) == (OS_NEW, "1.1", [OS_NEW], None)
    assert differences(node.view(OS_NEW), node.views[OS_NEW, "1.1"]) == []
    node.converge(OS, "3")
    assert differences(node.view(OS_NEW), node.views[OS_NEW, "1.1"]) == []
    node.rollback(OS, "pristine")
    assert differences(node.view(OS_NEW), node.views[OS_NEW, "1.1"]) == []
    assert Store(str(node.stacks[OS_NEW][0].parent)).read().current == 0


def test_a_version_that_is_loaded_later_is_kept_by_the_next_run(node: NestNode) -> None:
    node.converge(OS, "1.1")
    layers = node.engine.tags.pop(OS_NEW)
    node.converge(OS, "2")
    node.engine.tags[OS_NEW] = layers
    assert differences(node.view(OS_NEW), node.views[OS_NEW, "1.1"]) != []
    assert node.plan(OS, "2")["changed"] is True
    assert node.converge(OS, "2")["changed"] is True
    assert differences(node.view(OS_NEW), node.views[OS_NEW, "1.1"]) == []
    assert node.plan(OS, "2")["changed"] is node.converge(OS, "2")["changed"] is False


def test_a_rollback_leads_to_the_content_before_not_to_another_mask(node: NestNode) -> None:
    node.converge(JAVA, "2")
    node.converge(JAVA, "3")
    node.converge(OS, "2")
    assert node.rollback(JAVA)["to"] == "2"
    check_exact_view(node, JAVA, "2")
    check_exact_view(node, OS, "2")


def test_prune_keeps_the_way_back_before_masks_of_the_live_content(node: NestNode) -> None:
    node.converge(JAVA, "2")
    node.converge(JAVA, "3")
    node.converge(OS, "2")
    node.converge(OS, "3")
    context = replace(node.context, grace=0)
    (pruned,) = prune.prune(context, JAVA, 1, False)
    assert pruned["removed"] == ["3", "3"]  # the first generation of version 3, and its mask over os:2
    assert node.rollback(JAVA)["to"] == "2"
    check_exact_view(node, JAVA, "2")
    check_exact_view(node, OS, "3")


def test_a_lower_content_that_was_found_damaged_is_refused(node: NestNode) -> None:
    node.converge(OS, "2")
    store = Store(str(node.stacks[OS][0].parent))
    record = store.read()
    record.generations[record.current].damaged = True
    store.save(record)
    with pytest.raises(BaseNested):
        node.converge(JAVA, "2")
    assert node.live(JAVA) == "1"


def test_every_base_of_the_nest_is_locked(node: NestNode) -> None:
    node.converge(JAVA, "2")
    with Store(str(node.stacks[JAVA][0].parent)).lock(0, "test"), pytest.raises(LayerBusy):
        node.converge(OS, "2")
    with Store(str(node.stacks[OS][0].parent)).lock(0, "test"), pytest.raises(LayerBusy):
        node.converge(JAVA, "3")


def killed(work: Callable[[], object], point: str, times: int) -> bool:
    """Run ``work`` in a process that is killed when it reaches ``point`` for the ``times``-th time."""
    left = [times]

    def trace(reached: str) -> None:
        left[0] -= reached == point
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced_work() -> None:
        with traced(trace):
            work()

    status = forks.run(traced_work)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_step(node: NestNode, point: str) -> None:
    node.converge(FRAME, "2")
    node.converge(JAVA, "2")
    times = 1
    while killed(lambda: node.converge(OS, "2"), point, times):
        live_version = node.live(OS)
        assert live_version in ("1", "2")
        for base, version in {OS: live_version, JAVA: "2", FRAME: "2"}.items():
            check_exact_view(node, base, version)
        times += 1
    assert times > 1
    for base, version in {OS: "2", JAVA: "2", FRAME: "2"}.items():
        check_exact_view(node, base, version)


WEB = "corp/web:1"


@pytest.fixture
def deep(node: NestNode) -> NestNode:
    """Four stacked bases, os <- java <- frame <- app, and web next to java on os; each has a version 2."""
    node.image(WEB, OS, files({"web": "1", "lib/ssl": "web's ssl"}))
    node.version(WEB, "2", node.stacks[OS], files({"web": "2"}))
    node.version(APP, "2", node.stacks[FRAME], files({"app/run": "app 2"}))
    return node


@pytest.mark.parametrize("point", [point for point in POINTS if point != "stage.filled"])
def test_a_run_of_every_base_is_killed_at_every_step(deep: NestNode, point: str) -> None:
    """A change of all bases is killed at every step, in the plan's order. The next run completes it."""
    before = {OS: "2", JAVA: "1", FRAME: "2", APP: "2", WEB: "2"}
    after = {OS: "3", JAVA: "2", FRAME: "1", APP: "2", WEB: "2"}
    run(deep, before)
    times = 1
    while killed(lambda: run(deep, after), point, times):
        for base in after:
            live_version = deep.live(base)
            assert live_version in (before[base], after[base])
            if live_version != tag(base):
                assert differences(deep.view(base), deep.views[base, live_version]) == []
        times += 3
    assert times > 1
    run(deep, after)
    for base, version in after.items():
        assert deep.live(base) == version
        assert not deep.plan(base, version)["changed"]
        if version != tag(base):
            assert differences(deep.view(base), deep.views[base, version]) == []


def run(node: NestNode, goals: dict[str, str]) -> None:
    """Converge every base in the order of the plan."""
    for base in preview.order(node.engine, [node.goal(*goal) for goal in goals.items()]):
        node.converge(base, goals[base])
