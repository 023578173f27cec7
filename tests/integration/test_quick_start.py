"""Every command of the README and the fleet's quick start runs and prints the documented output."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.deadlines import scaled
from tests.support.engine import Engine
from tests.support.ports import free_port
from tests.support.sources import REPO, copy_to
from tests.support.walkthrough import Command, File, Machine, steps

pytestmark = pytest.mark.integration

README = (REPO / "README.md").read_text(encoding="utf-8")
FLEET = (REPO / "docs/operating/quick-start.md").read_text(encoding="utf-8")
URL = "https://git.example.com/baseimg.git"


def demo_material() -> ModuleType:
    """Return the demo's images: the README shows the same names and counts."""
    spec = importlib.util.spec_from_file_location("demo_material", REPO / "scripts/demo/material.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the module's dataclasses look it up
    spec.loader.exec_module(module)
    return module


def commit(directory: Path) -> None:
    """Make a git repository of a directory."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "-q"], ["add", "--all"], [*identity, "commit", "-q", "--message=test"]):
        subprocess.run(["git", "-C", str(directory), *arguments], check=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Return a machine with Docker, Salt, and the quick start's images; it clones this checkout."""
    root = tmp_path_factory.mktemp("quick-start")
    commit(copy_to(root / "source"))
    # short, because Salt's sockets lie below it (unix(7): 107 bytes)
    with Engine(root / "engine") as engine, tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as salt:
        material = demo_material()
        engine.load(material.archive(material.images()))
        environment = {
            "DOCKER_HOST": engine.url,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{root}/source.insteadOf",
            "GIT_CONFIG_VALUE_0": URL,
        }
        with Machine(root / "machine", environment) as machine:
            ports = {"publish_port": free_port(), "ret_port": free_port()}
            common = {"root_dir": salt, "fileserver_list_cache_time": 0, "log_level_logfile": "warning"}
            master = {"interface": "127.0.0.1", "auto_accept": True, "worker_threads": 3, "timeout": 60, **ports}
            minion = {"id": "node1", "master": "127.0.0.1", "enable_fqdns_grains": False}
            minion |= {"master_port": ports["ret_port"], "publish_port": ports["publish_port"]}
            machine.write(File("/etc/salt/master", json.dumps({**common, **master})))
            machine.write(File("/etc/salt/minion", json.dumps({**common, **minion})))
            yield machine


def play(machine: Machine, page: str) -> None:
    """Play a document; start the fleet's daemons before the first command that needs them."""
    started = False
    for step in steps(page):
        if isinstance(step, File):
            machine.write(File(step.path, with_digest(machine, step.content)))
            continue
        if step.text.startswith(("salt ", "salt-run ")) and not started:
            machine.start("salt-master")
            machine.start("salt-minion")
            machine.wait_for(f"salt --timeout={scaled(10)} --out=txt node1 test.ping | grep --quiet 'node1: True'")
            started = True
        machine.play(step)


def with_digest(machine: Machine, content: str) -> str:
    """Insert the bundle's digest: it depends on the machine's busybox, so documents abbreviate it."""
    bundles = sorted((machine.directory / "srv/salt").rglob("*.tar"))
    digest = hashlib.sha256(bundles[-1].read_bytes()).hexdigest() if bundles else ""
    return content.replace("sha256:…", f"sha256:{digest}")


def test_every_command_prints_what_the_documents_show(machine: Machine) -> None:
    play(machine, README.partition("## Quick start")[2])
    play(machine, FLEET)


def test_the_opening_shows_steps_of_the_quick_start() -> None:
    opening, _, rest = README.partition("## Quick start")
    opening_steps = [step for step in steps(opening) if isinstance(step, Command)]
    assert opening_steps
    assert [step for step in opening_steps if step not in list(steps(rest))] == []


def test_no_command_of_the_readme_is_left_out() -> None:
    """Commands outside ``console`` blocks would not be played, so the README has none; `make demo` alone is named."""
    named = set(re.findall(r"`((?:git|make|pip|salt|salt-call|salt-pip|salt-run) [^`]+)`", README))
    assert named <= {"make demo"}
    languages = [line.strip().removeprefix("```") for line in README.splitlines() if line.strip().startswith("```")]
    assert set(languages[::2]) <= {"console", "yaml", "text"}
    assert set(languages[1::2]) == {""}
