"""Salt's loader in this process: what `salt-call --local` uses, without a daemon or a process of its own."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import salt.config
import salt.loader

REPO = Path(__file__).resolve().parents[2]
# functions that leave out empty keys, or return a summary, unless `full` is true
FULL = {name: {"full": True} for name in ("apply", "converge", "diff", "impact", "plan", "rollback", "status")}


class Minion:
    """Execution and state modules of this checkout, loaded by Salt: `Minion(…).modules["baseimg.status"]()`.

    A loader copies its options: change them with `configure` (or assign `pillar`), which loads anew.
    """

    def __init__(self, root: Path, docker_url: str | None = None, **options: Any) -> None:
        self.root = Path(root)
        self.opts = _options(self.root, docker_url)
        self._loaded: dict[str, Any] = {}
        # a test that prunes does not wait for it; the tests of the grace set their own
        self.configure(**{"baseimg": {"grace": 0}, **options})

    def configure(self, pillar: Mapping[str, Any] | None = None, **options: Any) -> Minion:
        """Set minion options (`test=True`, say) and the pillar; returns itself."""
        if pillar is not None:
            self.opts["pillar"] = copy.deepcopy(dict(pillar))
            # `state.apply` does not take the pillar from here, it compiles it from files.
            files = self.root / "pillar"
            files.mkdir(exist_ok=True)
            (files / "top.sls").write_text(json.dumps({"base": {"*": ["test"]}}))
            (files / "test.sls").write_text(json.dumps(self.opts["pillar"]))
        self.opts.update(options)
        self._loaded.clear()
        return self

    @property
    def pillar(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self.opts["pillar"]))

    @pillar.setter
    def pillar(self, value: Mapping[str, Any]) -> None:
        self.configure(pillar=value)

    @property
    def modules(self) -> Any:
        """`modules["baseimg.status"](…)`: raises what the module raises."""
        return self._load()["modules"]

    @property
    def states(self) -> Any:
        """`states["baseimg.converged"](name=…)`: the state function alone, without requisites."""
        return self._load()["states"]

    @property
    def retcode(self) -> int:
        """The exit code that the last function or state set; `salt-call` takes it from the same place."""
        return int(self._load()["context"].get("retcode", 0))

    def _load(self) -> dict[str, Any]:
        if not self._loaded:
            context: dict[str, Any] = {}
            utils = salt.loader.utils(self.opts, context=context)
            modules = salt.loader.minion_mods(self.opts, context=context, utils=utils)
            serializers = salt.loader.serializers(self.opts)
            states = salt.loader.states(self.opts, modules, utils, serializers, context=context)
            self._loaded.update(modules=modules, states=states, context=context)
        return self._loaded


def _options(root: Path, docker_url: str | None) -> dict[str, Any]:
    defaults = salt.config.DEFAULT_MINION_OPTS.copy()
    defaults.update(
        root_dir=str(root),
        id="minion",
        file_client="local",
        file_roots={"base": [str(REPO / "salt")]},
        pillar_roots={"base": [str(root / "pillar")]},
        module_dirs=[str(REPO)],
        utils_dirs=[str(REPO / "_utils")],
        # New files of a test would stay invisible for 20 seconds.
        fileserver_list_cache_time=0,
        enable_fqdns_grains=False,
    )
    opts: dict[str, Any] = salt.config.minion_config(os.devnull, defaults=defaults, minion_id="minion")
    for key in ("cachedir", "pki_dir", "sock_dir", "extension_modules"):
        Path(opts[key]).mkdir(parents=True, exist_ok=True)
    opts["grains"] = dict(_grains())
    opts["pillar"] = {}
    if docker_url is not None:
        opts["docker.url"] = docker_url
    return opts


@cache
def _grains() -> dict[str, Any]:
    """The machine's grains, once per run: they take seconds, and no test changes them."""
    defaults = salt.config.DEFAULT_MINION_OPTS.copy()
    defaults["enable_fqdns_grains"] = False
    opts = salt.config.minion_config(os.devnull, defaults=defaults, minion_id="minion")
    return dict(salt.loader.grains(opts))
