"""The tables of exit codes in the documentation, compared with real commands."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import pytest

from baseimg_core.disk.store.layout import TIME_FORMAT
from tests.functional.lab import BASE, NEW, Lab
from tests.support.calls import NO_ENGINE, Caller
from tests.support.sources import REPO, public_functions

pytestmark = pytest.mark.functional

PAGE = REPO / "docs/operating/exit-codes.md"
HEADINGS = {"_modules": "salt-call and salt", "_states": "States", "_runners": "salt-run"}
# arguments with which each function fails on a node without an engine; `problem` never fails
FAILING: dict[str, tuple[str, ...]] = {
    "adopt": (),
    "apply": ("/nowhere.tar",),
    "build": (BASE, NEW, "/nowhere/b.tar"),
    "converge": (BASE, "'12.1'"),
    "declared": ("nonsense",),
    "diff": (BASE, NEW),
    "engines": (),
    "containers": (BASE,),
    "fetch": (BASE, "'12.1'"),
    "fixes": ("corp/none:1",),
    "history": (BASE,),
    "hold": (BASE, "'12.1'", "reason=x"),
    "impact": (BASE,),
    "import_legacy": ("/nowhere.tar.gz", BASE, "/nowhere/b.tar"),
    "inspect": ("/nowhere.tar",),
    "judge": ("/nowhere.tar", BASE),
    "judgement": (BASE,),
    "layer": (BASE,),
    "live": (BASE,),
    "metrics": (),
    "note_refusal": (BASE, "12.1", "clock-skewed", "wrong"),
    "order": (),
    "pin": (BASE, "'12.1'"),
    "plan": (BASE, "'12.1'"),
    "prepare": (BASE, "'12.1'"),
    "prune": (),
    "push": ("/nowhere.tar", "127.0.0.1:1/b:1"),
    "rollback": (BASE,),
    "sbom": ("corp/none:1",),
    "sign": ("/nowhere.tar", "/nowhere.key"),
    "status": (),
    "summary": (),
    "trial": (BASE, "/nowhere.tar", BASE),
    "give_up": (BASE, "shop"),
    "unhold": (BASE,),
    "unpin": (BASE, "'12.1'"),
    "verify": (),
    "doctor": (),
}


def rows(section: str) -> list[list[str]]:
    """Return the functions of each row in a section's table."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [re.findall(r"`(\w+)`", line.split(" | ")[0]) for line in text.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("kind", HEADINGS)
def test_every_function_is_in_one_row(kind: str) -> None:
    listed = [name for row in rows(HEADINGS[kind]) for name in row]
    functions = [function.name for function in public_functions(REPO / kind / "baseimg.py")]
    assert sorted(listed) == sorted(name for name in functions if name != "mod_watch")  # Salt calls it, people do not


def call(where: Path, url: str, **options: object) -> Caller:
    """Return a caller of ``salt-call --local --retcode-passthrough`` with this checkout."""
    roots = {"module_dirs": [str(REPO)], "utils_dirs": [str(REPO / "_utils")]}
    return Caller(where, **{**roots, "docker.url": url, **options})


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """Return a caller on a node without an engine."""
    return call(tmp_path_factory.mktemp("nowhere"), NO_ENGINE)


def test_each_function_that_may_fail_is_tried() -> None:
    assert {name for row in rows(HEADINGS["_modules"]) for name in row} - FAILING.keys() == {"problem"}


@pytest.mark.parametrize("name", sorted(FAILING.keys() - {"engines", "order"}))
def test_a_function_that_fails(nowhere: Caller, name: str) -> None:
    done = nowhere.forked(f"baseimg.{name}", *FAILING[name])
    assert done.code == 1, done.out + done.err
    assert re.search(r"\[[a-z]+(-[a-z]+)+\]", done.out + done.err)
    assert "Traceback" not in done.out + done.err
    assert "Additional info" not in done.out + done.err


def test_the_engines_of_a_wrong_declaration(tmp_path: Path) -> None:
    assert call(tmp_path, NO_ENGINE, baseimg={"engine": "rkt"})("baseimg.engines").code == 1


def test_the_order_of_a_wrong_declaration(tmp_path: Path) -> None:
    pillar = tmp_path / "pillar"
    pillar.mkdir()
    (pillar / "top.sls").write_text(json.dumps({"base": {"*": ["wrong"]}}))
    (pillar / "wrong.sls").write_text(json.dumps({"baseimg": {"bases": "nonsense"}}))
    done = call(tmp_path / "minion", NO_ENGINE, pillar_roots={"base": [str(pillar)]})("baseimg.order")
    assert done.code == 1, done.out + done.err
    assert "[argument-invalid]" in done.out + done.err


def test_a_problem_is_a_text(nowhere: Caller) -> None:
    assert nowhere("baseimg.problem").code == 0


def test_functions_and_states_on_a_node(lab: Lab, tmp_path: Path) -> None:
    lab.usual()
    bundles = {"12.1": {"source": lab.bundle()}}
    (tmp_path / "files").mkdir()
    sls = {"base": {"baseimg.converged": [{"name": BASE}, {"version": "12.1"}, {"bundles": bundles}]}}
    (tmp_path / "files/sound.sls").write_text(json.dumps(sls))
    sls["base"]["baseimg.converged"][1] = {"version": "13"}
    (tmp_path / "files/wrong.sls").write_text(json.dumps(sls))
    roots = {"base": [str(tmp_path / "files")]}
    run = call(tmp_path / "minion", lab.engine.url, file_roots=roots, baseimg={"grace": 0})
    assert run.forked("baseimg.status").code == 0
    assert run.forked("baseimg.verify").code == 0
    assert run.forked("state.apply", "sound", "test=True").code == 0
    done = run.forked("state.apply", "sound")
    assert (done.code, done.state["result"]) == (0, True)
    assert run("state.apply", "wrong").code == 2
    assert run.forked("baseimg.verify").code == 0

    Path(lab.dirs(BASE)[0], "etc/version").write_text("changed by hand\n")
    assert run.forked("baseimg.verify").code == 1
    # the damage is recorded: the state succeeds with a warning
    done = run.forked("state.apply", "sound")
    assert (done.code, done.state["result"]) == (0, True)
    assert "was changed on this node" in done.state["comment"]
    assert any("was changed on this node" in warning for warning in done.state["warnings"])

    # a warning that repeats says since when
    record = Path(lab.top(BASE), "baseimg/state.json")
    data = json.loads(record.read_text())
    (damaged,) = (generation for generation in data["generations"] if generation["damaged"])
    earlier = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=41, minutes=1)
    assert damaged["damaged_since"] > earlier.strftime(TIME_FORMAT)
    damaged["damaged_since"] = earlier.strftime(TIME_FORMAT)
    record.write_text(json.dumps(data))
    assert "12.1 was changed on this node, for 41 days" in run.forked("state.apply", "sound").state["comment"]
