"""Salt's commands in processes of their own, as an operator starts them: nothing of this process is in there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import commands
from tests.support.deadlines import SECONDS, scaled

SCRIPTS = Path(sys.executable).parent
# Nobody listens there: proves that our core was reached, and never asks the machine's own engine.
NO_ENGINE = "unix:///nonexistent/docker.sock"

# Run by the interpreter before anything else. Tells at the end where things were loaded from, and hides packages.
_SITECUSTOMIZE = """
import atexit, json, os, sys

class Hidden:
    names = os.environ.get("TEST_HIDDEN", "").split()
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def tell():
    modules = dict(sys.modules)
    loaded = {name: getattr(module, "__file__", None) for name, module in modules.items() if "baseimg" in name}
    with open(os.environ["TEST_LOADED"], "w") as file:
        json.dump(loaded, file)

sys.meta_path.insert(0, Hidden())
atexit.register(tell)
"""


@dataclass(frozen=True)
class Answer:
    """What a command said. ``loaded`` gives the files of all our modules that its process had at the end, by name."""

    code: int
    out: str
    err: str
    loaded: Mapping[str, str]

    @property
    def data(self) -> Any:
        """What the minion returned."""
        return json.loads(self.out)["local"]

    @property
    def state(self) -> dict[str, Any]:
        """The only state's return."""
        (state,) = self.data.values()
        return dict(state)


class Caller:
    """``salt-call --local`` with a configuration, caches and keys of its own below ``root``."""

    def __init__(
        self,
        root: Path,
        *,
        python: Path | None = None,
        hidden: Sequence[str] = (),
        prefix: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.root = root
        self.python = python or Path(sys.executable)
        self.hidden, self.prefix = hidden, prefix
        # Where the option is not given, salt-call overrides what the configuration says.
        self.cache = root / "var/cache/salt/minion"
        modules = root / "site"
        modules.mkdir(parents=True)
        (modules / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        config = {
            "id": "minion",
            "root_dir": str(root),
            "log_file": str(root / "log"),
            "file_client": "local",
            "docker.url": NO_ENGINE,
            # New files would stay invisible for 20 seconds.
            "fileserver_list_cache_time": 0,
            "enable_fqdns_grains": False,
            **options,
        }
        (root / "minion").write_text(json.dumps(config))
        self._options = ["--config-dir", str(root), "--local", "--out=json", "--retcode-passthrough"]

    def __call__(self, *arguments: str) -> Answer:
        report = self.root / "loaded.json"
        report.unlink(missing_ok=True)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(self.root / "site"),
            "TEST_LOADED": str(report),
            "TEST_HIDDEN": " ".join(self.hidden),
        }
        command = [*self.prefix, str(self.python), str(SCRIPTS / "salt-call")]
        process = subprocess.run(
            [*command, *self._options, *arguments],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scaled(SECONDS),
            check=False,
        )
        loaded = json.loads(report.read_text()) if report.exists() else {}
        return Answer(process.returncode, process.stdout, process.stderr, loaded)

    def forked(self, *arguments: str) -> Answer:
        """As a call in a process of its own, but the process is a fork of this one, which saves a second."""
        process = commands.run("salt-call", *self._options, *arguments)
        return Answer(process.returncode, process.stdout, process.stderr, {})
