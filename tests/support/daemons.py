"""One master and its minions, as real daemons."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import salt.client

from tests.support import commands
from tests.support.deadlines import SECONDS, scaled

# Daemons of a module start at the same time.
START_SECONDS = 2 * SECONDS


@dataclass(frozen=True)
class Reply:
    """What one command brought: its exit code, what each minion returned, and what it printed besides."""

    code: int
    data: Any
    text: str

    def states(self, minion: str) -> dict[str, dict[str, Any]]:
        """The minion's states by name."""
        results = self.data[minion]
        assert isinstance(results, dict), results
        return {state["name"]: state for state in results.values()}


class Master:
    """A started master. ``pillar`` is what every minion gets; assign it to change it."""

    def __init__(self, factory: Any, pillar_root: Path) -> None:
        self.factory = factory
        self._pillar_root = pillar_root
        self.pillar = {}

    @property
    def pillar(self) -> dict[str, Any]:
        return dict(json.loads((self._pillar_root / "all.sls").read_text()))

    @pillar.setter
    def pillar(self, value: Mapping[str, Any]) -> None:
        (self._pillar_root / "top.sls").write_text(json.dumps({"base": {"*": ["all"]}}))
        (self._pillar_root / "all.sls").write_text(json.dumps(value))

    def salt(self, target: str, function: str, *arguments: str) -> Reply:
        """``salt TARGET FUNCTION …``; the data is by minion, also where the target is one of them."""
        timeout = f"--timeout={scaled(SECONDS)}"
        return self._reply(self.command("salt", timeout, "--out=json", target, function, *arguments))

    def quick(self, minion: str, function: str, *arguments: Any, **named: Any) -> Reply:
        """As ``salt MINION FUNCTION …`` does, without the second that the command takes to start."""
        client = salt.client.get_local_client(mopts=dict(self.factory.config))
        try:
            done = client.cmd(minion, function, arguments, timeout=scaled(SECONDS), kwarg=named, full_return=True)
        finally:
            client.destroy()
        assert set(done) == {minion}, done
        return Reply(done[minion]["retcode"], {minion: done[minion]["ret"]}, str(done[minion]["ret"]))

    def run(self, function: str, *arguments: str) -> Reply:
        """``salt-run --out=json FUNCTION …``."""
        timeout = f"--timeout={scaled(SECONDS)}"
        return self._reply(self.command("salt-run", timeout, "--out=json", function, *arguments))

    def printed(self, command: str, *arguments: str) -> str:
        """What ``salt``, ``salt-run``, … print for people, with no format asked for."""
        process = self.command(command, *arguments)
        assert process.returncode == 0, process.stderr
        return process.stdout

    def call(self, minion: Any, function: str, *arguments: str) -> Reply:
        """``salt-call FUNCTION …`` on the minion's machine, with its configuration."""
        options = [f"--config-dir={minion.config_dir}", "--out=json", "--retcode-passthrough"]
        reply = self._reply(commands.run("salt-call", *options, function, *arguments))
        return Reply(reply.code, {minion.id: (reply.data or {}).get("local")}, reply.text)

    def command(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``salt`` or ``salt-run`` with the master's configuration."""
        return commands.run(program, f"--config-dir={self.factory.config_dir}", *arguments)

    @staticmethod
    def _reply(process: subprocess.CompletedProcess[str]) -> Reply:
        return Reply(process.returncode, _documents(process.stdout), process.stdout + process.stderr)


def _documents(text: str) -> Any:
    """The JSON that a command printed: ``salt`` prints a document for each minion; ``None`` if it printed none."""
    decoder, merged = json.JSONDecoder(), None
    while text := text.strip():
        try:
            document, end = decoder.raw_decode(text)
        except ValueError:
            return None
        merged = {**merged, **document} if isinstance(merged, dict) else document
        text = text[end:]
    return merged


class Daemons:
    """Starts daemons that end with ``stack``."""

    def __init__(self, factories: Any, stack: contextlib.ExitStack) -> None:
        self._factories, self._stack = factories, stack

    def master(
        self,
        name: str,
        file_roots: Sequence[Path],
        pillar_root: Path,
        environments: Mapping[str, Path] | None = None,
        **options: Any,
    ) -> Master:
        """A started master. `environments`: the file root of each environment besides base."""
        overrides = {
            "interface": "127.0.0.1",
            "worker_threads": 3,
            "file_roots": {
                "base": [str(root) for root in file_roots],
                **{environment: [str(root)] for environment, root in (environments or {}).items()},
            },
            "pillar_roots": {"base": [str(pillar_root)]},
            # New files would stay invisible for 20 seconds.
            "fileserver_list_cache_time": 0,
            "timeout": scaled(SECONDS),
            **_few_messages("master"),
            **options,
        }
        factory = self._factories.salt_master_daemon(name, overrides=overrides, start_timeout=scaled(START_SECONDS))
        self._stack.enter_context(factory.started())
        return Master(factory, pillar_root)

    def minions(self, master: Master, synced: bool = True, **options: Mapping[str, Any]) -> dict[str, Any]:
        """
        Started minions by name, with their options.

        ``synced``: they have the loader files and the core from the start, as after a ``saltutil.sync_all``, which
        asks the master for hundreds of files one by one.
        """
        factories = {
            name: master.factory.salt_minion_daemon(
                name,
                overrides={"enable_fqdns_grains": False, **_few_messages("minion"), **overrides},
                start_timeout=scaled(START_SECONDS),
            )
            for name, overrides in options.items()
        }
        for factory in factories.values() if synced else ():
            _sync(master, Path(factory.config["extension_modules"]))
        self._stack.callback(_all, [factory.terminate for factory in factories.values()])
        _all([factory.start for factory in factories.values()])
        return factories


def _sync(master: Master, extension_modules: Path) -> None:
    """Copy what ``saltutil.sync_all`` brings into a minion's directory."""
    for root in master.factory.config["file_roots"]["base"]:
        for kind in Path(root).glob("_*"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(kind, extension_modules / kind.name[1:], ignore=ignored, dirs_exist_ok=True)


def _few_messages(role: str) -> dict[str, Any]:
    """Options of a quiet daemon: by default it sends every debug message to the tests, a tenth of its work."""
    return {"log_level_logfile": "warning", f"pytest-{role}": {"log": {"level": "warning"}}}


def _all(functions: Sequence[Callable[[], Any]]) -> None:
    """Call them at the same time: daemons take seconds to start and to end."""
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result()
