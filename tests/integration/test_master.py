"""A master that serves the suite: the files it offers, and upgrades without a restart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import NO_ENGINE
from tests.support.daemons import Daemons, Master, Reply
from tests.support.deadlines import SECONDS, scaled
from tests.support.sources import copy_to

pytestmark = pytest.mark.integration

SECRET = "nobody-may-read-this"
PROCESSES, THREADS = "processes", "threads"
WRONG = ("baseimg.declared", "nonsense")
CONVERGED = ("state.single", "baseimg.converged", "corp/base:12.0", "version=12.1.0", "test=True")


@dataclass(frozen=True)
class ServedMaster:
    """A master whose only file root is ``salt/`` in a clone, and a minion of each way to run jobs."""

    master: Master
    minions: dict[str, Any]
    clone: Path

    def sync(self, minion: str) -> Reply:
        """Sync as after every change of the suite; wait until the minion has reloaded its modules."""
        reply = self.master.quick(minion, "saltutil.sync_all")
        assert reply.code == 0, reply.text
        assert self.master.quick(minion, "saltutil.refresh_modules", **{"async": False}).code == 0
        return reply


@pytest.fixture(scope="module")
def served_master(daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> ServedMaster:
    clone = copy_to(tmp_path_factory.mktemp("clone"))
    (clone / ".git").mkdir()
    (clone / ".git/config").write_text(f"[remote]\nurl = https://user:{SECRET}@git\n")
    (clone / "pillar/secret.sls").write_text(f"password: {SECRET}\n")
    master = daemons.master("site", [clone / "salt"], tmp_path_factory.mktemp("pillar"))
    engine = {"docker.url": NO_ENGINE}
    minions = daemons.minions(master, synced=False, processes=engine, threads={**engine, "multiprocessing": False})
    return ServedMaster(master, minions, clone)


class TestFileServer:
    """Minions read the files they need and no other file of the repository."""

    def test_lists_states_and_loader_files_only(self, served_master: ServedMaster) -> None:
        (files,) = served_master.master.quick(PROCESSES, "cp.list_master").data.values()
        assert "baseimg/init.sls" in files
        assert "_modules/baseimg.py" in files
        assert "_states/baseimg.py" in files
        assert "_utils/baseimg_core/disk/store/generations.py" in files
        pattern = re.compile(
            r"(baseimg|orch)/[\w/]+\.sls|_(modules|states|utils|runners|grains|beacons|engines)/[\w/]+\.(py|typed)"
        )
        assert [name for name in files if not pattern.fullmatch(name)] == []

    def test_lists_every_one_of_them(self, served_master: ServedMaster) -> None:
        (files,) = served_master.master.quick(PROCESSES, "cp.list_master").data.values()
        ours = [
            *served_master.clone.glob("_*/**/*.py"),
            *served_master.clone.glob("_*/**/py.typed"),
            *(served_master.clone / "salt").rglob("*.sls"),
        ]
        assert set(files) == {str(path.relative_to(served_master.clone)).removeprefix("salt/") for path in ours}

    @pytest.mark.parametrize(
        "path",
        [
            "pillar/secret.sls",
            "../pillar/secret.sls",
            "baseimg/../../pillar/secret.sls",
            # leaves the target of a link
            "_modules/../pillar/secret.sls",
            "%2e%2e/pillar/secret.sls",
            "|../pillar/secret.sls",
            "{clone}/pillar/secret.sls",
            "_states/../.git/config",
            "../../../../../../../../etc/hostname",
        ],
    )
    def test_serves_nothing_else(self, served_master: ServedMaster, path: str) -> None:
        url = "salt://" + path.replace("{clone}", str(served_master.clone))
        (text,) = served_master.master.quick(PROCESSES, "cp.get_file_str", url).data.values()
        assert not text

    def test_serves_what_it_lists(self, served_master: ServedMaster) -> None:
        """Listed files are served, so an empty result in the other tests means a refusal."""
        for path in ("baseimg/init.sls", "_utils/baseimg_core/__init__.py"):
            (text,) = served_master.master.quick(PROCESSES, "cp.get_file_str", f"salt://{path}").data.values()
            assert text.strip() == (served_master.clone / "salt" / path).read_text().strip()

    def test_a_minion_that_asks_by_itself_gets_nothing_else_either(self, served_master: ServedMaster) -> None:
        """A hostile client does not clean its paths; the master must refuse them."""
        tricks = [
            "../pillar/secret.sls",
            "_modules/../pillar/secret.sls",
            "_modules/../../.git/config",
            "../.git/config",
        ]
        tricks += ["pillar/secret.sls", "//../pillar/secret.sls", "./../pillar/secret.sls", "..%2fpillar/secret.sls"]
        tricks += ["..\\pillar\\secret.sls", "_utils/baseimg_core/../../pillar/secret.sls", "setup.cfg", ".git/config"]
        tricks += ["baseimg/../../pillar/secret.sls", "../tests/conftest.py", "../../../../../../../../etc/hostname"]
        tricks += [
            "|../pillar/secret.sls",
            "_modules/..?index=0",
            f"{served_master.clone}/pillar/secret.sls",
            "../setup.cfg",
        ]
        tricks += [f"{trick}?index=0" for trick in tricks]
        known, *others = asked(served_master.minions[PROCESSES], "baseimg/init.sls", *tricks)
        assert "baseimg.converged" in known
        assert others == [""] * len(tricks)


_ASK = """
import json, sys
import salt.config, salt.fileclient, salt.minion
opts = salt.config.minion_config(sys.argv[1])
opts.update(salt.minion.resolve_dns(opts))
client = salt.fileclient.RemoteClient(opts)
load = {"cmd": "_serve_file", "saltenv": "base", "loc": 0}
answers = [client._channel_send({**load, "path": path}, raw=True) for path in sys.argv[2:]]
print(json.dumps([{key if isinstance(key, str) else key.decode(): value for key, value in one.items()}["data"].decode()
    if any(one.values()) else "" for one in answers]))
"""


def asked(minion: Any, *paths: str) -> list[str]:
    """Return the master's answers to a minion that sends these paths unchanged."""
    command = [sys.executable, "-W", "ignore", "-c", _ASK, minion.config["conf_file"], *paths]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=scaled(SECONDS))
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("minion", [PROCESSES, THREADS])
class TestUpgrade:
    """The clone changes and is synced; the minion does not restart."""

    @pytest.fixture(autouse=True)
    def _as_released(self, served_master: ServedMaster, minion: str) -> Iterator[None]:
        """Reset the clone to the released files."""
        copy_to(served_master.clone)
        served_master.sync(minion)
        yield
        (served_master.clone / "_utils/baseimg_core/brand_new.py").unlink(missing_ok=True)

    @staticmethod
    def comment(reply: Reply) -> str:
        assert reply.code != 0
        (states,) = reply.data.values()
        (state,) = states.values()
        return str(state["comment"])

    def test_the_core_changes(self, served_master: ServedMaster, minion: str) -> None:
        assert "[argument-invalid]" in served_master.master.quick(minion, *WRONG).text
        assert "[engine-unreachable]" in self.comment(served_master.master.quick(minion, *CONVERGED))

        errors = served_master.clone / "_utils/baseimg_core/errors.py"
        edit(errors, 'code = "argument-invalid"', 'code = "argument-renamed"')
        edit(errors, 'code = "engine-unreachable"', 'code = "engine-renamed"')
        changed = served_master.sync(minion)

        assert changed.data[minion]["utils"] == ["utils.baseimg_core.errors"]
        assert changed.data[minion]["modules"] == []
        assert "[argument-renamed]" in served_master.master.quick(minion, *WRONG).text
        assert "[engine-renamed]" in self.comment(served_master.master.quick(minion, *CONVERGED))

    def test_module_and_core_change_together(self, served_master: ServedMaster, minion: str) -> None:
        """The module needs a part of the core that was just added."""
        assert "[argument-invalid]" in served_master.master.quick(minion, *WRONG).text

        (served_master.clone / "_utils/baseimg_core/brand_new.py").write_text('WORD = "brand new"\n')
        module = served_master.clone / "_modules/baseimg.py"
        edit(module, "    import baseimg_core\n", "    import baseimg_core\n    import baseimg_core.brand_new\n")
        module.write_text(module.read_text() + "\n\ndef word():\n    return baseimg_core.brand_new.WORD\n")
        served_master.sync(minion)

        assert served_master.master.quick(minion, "baseimg.word").data == {minion: "brand new"}
        assert "[argument-invalid]" in served_master.master.quick(minion, *WRONG).text

    def test_a_new_version(self, served_master: ServedMaster, minion: str) -> None:
        """Module and core of different versions refuse to work together; once both are synced, they work."""
        core = served_master.clone / "_utils/baseimg_core/__init__.py"
        old = re.search(r'^__version__ = "(.*)"$', core.read_text(), re.MULTILINE)
        assert old
        assert served_master.master.quick(minion, "baseimg.declared").data == {minion: {}}

        edit(served_master.clone / "_modules/baseimg.py", f'_VERSION = "{old[1]}"', '_VERSION = "99.9.0"')
        served_master.sync(minion)
        refused = served_master.master.quick(minion, "baseimg.declared")
        assert refused.code != 0
        assert re.search(rf"baseimg 99\.9\.0 cannot use the core of version {re.escape(old[1])} in /", refused.text)

        edit(core, f'__version__ = "{old[1]}"', '__version__ = "99.9.0"')
        served_master.sync(minion)
        accepted = served_master.master.quick(minion, "baseimg.declared")
        assert accepted.code == 0
        assert accepted.data == {minion: {}}
