"""A master that serves the suite: the files it offers, and upgrades without a restart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.minion
from salt.fileclient import RemoteClient

from tests.support.calls import NO_ENGINE
from tests.support.daemons import Daemons, Master, Reply
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

    def test_lists_states_and_all_loader_files(self, served_master: ServedMaster) -> None:
        (files,) = served_master.master.quick(PROCESSES, "cp.list_master").data.values()
        assert "baseimg/init.sls" in files
        assert "_modules/baseimg.py" in files
        assert "_states/baseimg.py" in files
        assert "_utils/baseimg_core/disk/store/generations.py" in files
        pattern = re.compile(
            r"(baseimg|orch)/[\w/]+\.sls|_(modules|states|utils|runners|grains|beacons|engines)/[\w/]+\.(py|typed)"
        )
        assert [name for name in files if not pattern.fullmatch(name)] == []
        ours = [
            *served_master.clone.glob("_*/**/*.py"),
            *served_master.clone.glob("_*/**/py.typed"),
            *(served_master.clone / "salt").rglob("*.sls"),
        ]
        assert set(files) == {str(path.relative_to(served_master.clone)).removeprefix("salt/") for path in ours}

    def test_serves_nothing_else(self, served_master: ServedMaster) -> None:
        paths = [
            "pillar/secret.sls",
            "../pillar/secret.sls",
            # leaves the target of a link
            "_modules/../pillar/secret.sls",
            "%2e%2e/pillar/secret.sls",
            "|../pillar/secret.sls",
            f"{served_master.clone}/pillar/secret.sls",
            "_states/../.git/config",
            "../../../../../../../../etc/hostname",
        ]
        known, *others = fetched(served_master.minions[PROCESSES], "baseimg/init.sls", *paths)
        assert "baseimg.converged" in known
        assert others == [""] * len(paths)

    def test_serves_what_it_lists(self, served_master: ServedMaster) -> None:
        """Listed files are served, so an empty result in the other tests means a refusal."""
        paths = ("baseimg/init.sls", "_utils/baseimg_core/__init__.py")
        contents = fetched(served_master.minions[PROCESSES], *paths)
        assert contents == [(served_master.clone / "salt" / path).read_text() for path in paths]

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


def client_of(minion: Any) -> RemoteClient:
    """Return the file client of a minion, in this process."""
    opts = salt.config.minion_config(minion.config["conf_file"])
    opts.update(salt.minion.resolve_dns(opts))
    return RemoteClient(opts)


def fetched(minion: Any, *paths: str) -> list[str]:
    """Return what a minion fetches from these paths; an empty text for a path that it does not get."""
    client = client_of(minion)
    try:
        files = [client.cache_file(f"salt://{path}") for path in paths]
    finally:
        client.destroy()
    return [Path(file).read_text() if file else "" for file in files]


def asked(minion: Any, *paths: str) -> list[str]:
    """Return the master's answers to a minion that sends these paths unchanged."""
    client = client_of(minion)
    load = {"cmd": "_serve_file", "saltenv": "base", "loc": 0}
    try:
        answers = [client._channel_send({**load, "path": path}, raw=True) for path in paths]
    finally:
        client.destroy()
    texts = [{key if isinstance(key, str) else key.decode(): text for key, text in each.items()} for each in answers]
    return [text["data"].decode() if any(text.values()) else "" for text in texts]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new))


def comment(reply: Reply) -> str:
    """Return the comment of the only state, which failed."""
    assert reply.code != 0
    (states,) = reply.data.values()
    (state,) = states.values()
    return str(state["comment"])


@pytest.mark.parametrize("minion", [PROCESSES, THREADS])
def test_upgrades_without_a_restart(served_master: ServedMaster, minion: str) -> None:
    """The clone changes and is synced; the minion does not restart."""
    copy_to(served_master.clone)
    (served_master.clone / "_utils/baseimg_core/brand_new.py").unlink(missing_ok=True)
    served_master.sync(minion)
    quick = served_master.master.quick
    assert "[argument-invalid]" in quick(minion, *WRONG).text
    assert "[engine-unreachable]" in comment(quick(minion, *CONVERGED))

    # the core alone
    errors = served_master.clone / "_utils/baseimg_core/errors.py"
    edit(errors, 'code = "argument-invalid"', 'code = "argument-renamed"')
    edit(errors, 'code = "engine-unreachable"', 'code = "engine-renamed"')
    changed = served_master.sync(minion)
    assert changed.data[minion]["utils"] == ["utils.baseimg_core.errors"]
    assert changed.data[minion]["modules"] == []
    assert "[argument-renamed]" in quick(minion, *WRONG).text
    assert "[engine-renamed]" in comment(quick(minion, *CONVERGED))

    # the module needs a part of the core that was just added
    (served_master.clone / "_utils/baseimg_core/brand_new.py").write_text('WORD = "brand new"\n')
    module = served_master.clone / "_modules/baseimg.py"
    edit(module, "    import baseimg_core\n", "    import baseimg_core\n    import baseimg_core.brand_new\n")
    module.write_text(module.read_text() + "\n\ndef word():\n    return baseimg_core.brand_new.WORD\n")
    served_master.sync(minion)
    assert quick(minion, "baseimg.word").data == {minion: "brand new"}
    assert "[argument-renamed]" in quick(minion, *WRONG).text

    # module and core of different versions refuse to work together; once both are synced, they work
    core = served_master.clone / "_utils/baseimg_core/__init__.py"
    old = re.search(r'^__version__ = "(.*)"$', core.read_text(), re.MULTILINE)
    assert old
    assert quick(minion, "baseimg.declared").data == {minion: {}}
    edit(module, f'_VERSION = "{old[1]}"', '_VERSION = "99.9.0"')
    served_master.sync(minion)
    refused = quick(minion, "baseimg.declared")
    assert refused.code != 0
    assert re.search(rf"baseimg 99\.9\.0 cannot use the core of version {re.escape(old[1])} in /", refused.text)
    edit(core, f'__version__ = "{old[1]}"', '__version__ = "99.9.0"')
    served_master.sync(minion)
    accepted = quick(minion, "baseimg.declared")
    assert accepted.code == 0
    assert accepted.data == {minion: {}}
