"""
Imports run one way: model, linux ← disk, engine ← registry, ops ← minion ← loader files.

The model is pure.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import CORE, LOADER_FILES, REPO, core_files, imports, parsed

# room -> the rooms and the third-party packages that it may import. A room is a module or a package of the core.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "__init__": ({"_saltext"}, set()),
    "_saltext": (set(), set()),
    "display": (set(), set()),
    "redact": (set(), set()),
    "errors": ({"display", "redact"}, set()),
    "progress": (set(), set()),
    "http_get": (set(), set()),
    "zstd": (set(), set()),  # imports one of two libraries by name
    "model": ({"display", "errors", "model"}, set()),
    "linux": ({"errors", "linux"}, set()),
    "disk": ({"display", "errors", "progress", "zstd", "model", "linux", "disk"}, {"cryptography"}),
    "docker_sdk": ({"errors"}, {"docker"}),
    "engine": ({"display", "errors", "zstd", "model", "linux", "docker_sdk", "engine"}, set()),
    "registry": ({"errors", "progress", "model", "linux", "disk", "docker_sdk", "registry"}, {"urllib3"}),
    "context": ({"progress", "model", "linux", "engine"}, set()),
    "ops": (
        {
            *("__version__", "display", "errors", "progress", "http_get", "zstd", "docker_sdk", "context", "model"),
            *("linux", "disk", "engine", "ops"),
        },
        set(),
    ),
    "minion": ({"errors", "redact", "context", "model", "engine", "registry", "ops"}, set()),
    "goals": ({"minion", "model", "ops"}, set()),
    "minion_judge": ({"minion", "model", "ops"}, set()),
    "cli": ({"__version__", "errors", "linux", "model", "engine", "registry", "ops"}, set()),
    "report": ({"display", "errors", "model", "report"}, {"jinja2", "markupsafe", "packageurl", "cyclonedx"}),
    "rollout": ({"__version__", "display", "errors", "http_get", "model", "linux", "disk", "rollout"}, set()),
}
# The packages within a layer. A subject has the same name in every layer.
SUBJECTS = {
    *("stack", "bundle", "store", "packages", "images", "impact", "containers", "policy", "legacy", "rollout", "fixes"),
}
# Standard library modules for the model: none reads, writes, waits, or asks for the time. Add only modules like these.
PURE = {
    *(
        "__future__",
        "abc",
        "base64",
        "bisect",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "difflib",
        "enum",
        "fnmatch",
    ),
    *(
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "shlex",
        "stat",
        "string",
        "struct",
        "textwrap",
    ),
    *("types", "typing", "unicodedata"),
}
# pure rooms -> modules that each may use in addition. `datetime` reads a given time and never asks for the present one;
# `uuid` makes IDs from names (uuid5); the libraries for documents and pages read and write nothing.
PURE_ROOMS: dict[str, set[str]] = {
    "model": set(),
    "report": {"datetime", "jinja2", "markupsafe", "uuid", "packageurl", "cyclonedx"},
}
# Functions that break purity without an import.
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}
OURS = "baseimg_core"


def violations(tree: ast.AST, room: str, package: str) -> list[str]:
    rooms, others = ROOMS[room]
    errors = []
    for line, name in imports(tree, package):
        top, _, rest = name.partition(".")
        if top == OURS:
            if rest.partition(".")[0] not in rooms:
                errors.append(f"{line}: {room} must not import {name}")
        elif room in PURE_ROOMS and top not in PURE | PURE_ROOMS[room]:
            errors.append(f"{line}: the {room} is pure and must not import {name}")
        elif top not in sys.stdlib_module_names and top not in others:
            errors.append(f"{line}: {room} must not import {name}")
    if room in PURE_ROOMS:
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
        errors += [f"{call.lineno}: the {room} calls {ast.unparse(call.func)}" for call in calls if _impure(call)]
    return errors


def _impure(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in IMPURE_CALLS


def place(path: Path) -> tuple[str, str]:
    """Return a core file's room and package."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return parts[0], ".".join([OURS, *parts[:-1]])


def test_imports_run_one_way() -> None:
    wrong = {}
    for path in core_files():
        room, package = place(path)
        assert room in ROOMS, f"{room} is a new room of the core: say above what it may import"
        wrong[str(path.relative_to(CORE))] = violations(parsed(path), room, package)
    assert {path: lines for path, lines in wrong.items() if lines} == {}


@pytest.mark.parametrize(
    ("room", "code", "wrong"),
    [
        ("model", "from . import ids\nfrom ..errors import BaseimgError\nimport json", ""),
        ("model", "import os", "os"),
        ("model", "import os.path", "os.path"),
        ("model", "from os import path", "os.path"),
        ("model", "import time", "time"),
        ("model", "from datetime import datetime", "datetime"),
        ("model", "def f():\n    import subprocess", "subprocess"),
        ("model", "open('x')", "open"),
        ("model", "from ..linux import files", "baseimg_core.linux.files"),
        ("model", "from baseimg_core.ops import bases", "baseimg_core.ops.bases"),
        ("model", "import docker", "docker"),
        ("disk", "import os\nfrom ..model.stack import ids\nfrom ..linux.files import save", ""),
        ("disk", "from ..engine.base import Image", "baseimg_core.engine.base.Image"),
        ("disk", "from .. import ops", "baseimg_core.ops"),
        ("disk", "import docker", "docker"),
        ("engine", "from .. import docker_sdk\nimport http.client", ""),
        ("engine", "import docker.errors", "docker.errors"),
        ("engine", "from ..disk import store", "baseimg_core.disk.store"),
        ("ops", "from ..linux.files import save\nfrom ..engine import docker", ""),
        ("ops", "import docker", "docker"),
        ("ops", "import salt.utils.files", "salt"),
        ("errors", "from .model import stack", "baseimg_core.model.stack"),
    ],
)
def test_the_rule_itself(room: str, code: str, wrong: str) -> None:
    package = OURS if room == "errors" else f"{OURS}.{room}"
    errors = violations(ast.parse(code), room, package)
    assert len(errors) == bool(wrong)
    assert wrong in "".join(errors)


WITHOUT_REGISTRIES = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "urllib3":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from baseimg_core.errors import BundleUnavailable
from baseimg_core.minion import Minion
from baseimg_core.model.policy.pillar import Source

minion = Minion({"config.get": lambda key, default=None: default}, {"cachedir": "/tmp"}, {})
try:
    minion.fetch(Source("docker://registry.corp:5000/base:1"))
except BundleUnavailable as exc:
    print(exc)
"""


def test_a_minion_needs_no_code_for_registries() -> None:
    """Without urllib3, or with an old urllib3, a registry is one typed error and everything else works."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_REGISTRIES],
        env={**os.environ, "PYTHONPATH": str(CORE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[bundle-unavailable] registries cannot be used on this node")
    assert "install the Python package 'urllib3'" in run.stdout


def test_two_http_stacks() -> None:
    """The core uses ``http.client`` and ``urllib3``; the parser of a header is no stack (ADR 30)."""
    used: dict[str, set[str]] = {}
    for path in core_files():
        room, package = place(path)
        for _line, name in imports(parsed(path), package):
            if name.startswith(("http.", "urllib.request", "urllib3", "requests", "aiohttp", "httpx")):
                used.setdefault(name.partition(".")[0], set()).add(f"{room}: {name}")
    assert set(used) == {"http", "urllib3", "urllib"}
    assert used["urllib"] == {"registry: urllib.request.parse_http_list"}
    assert {name.partition(":")[0] for name in used["urllib3"]} == {"registry"}


def test_a_subject_has_the_same_name_on_every_layer() -> None:
    """The packages of a layer are subjects; list a new subject in SUBJECTS."""
    layers = ("model", "disk", "ops")
    packages = {path.parent.name for layer in layers for path in (CORE / layer).glob("*/__init__.py")}
    assert packages <= SUBJECTS


def test_nothing_in_the_core_imports_salt() -> None:
    errors = [
        f"{path.relative_to(REPO)}:{line}"
        for path in core_files()
        for line, name in imports(parsed(path), place(path)[1])
        if name.partition(".")[0] == "salt"
    ]
    assert errors == []


EXCHANGE = {"exchange", "renameat2"}


def exchanges(tree: ast.AST) -> list[int]:
    """Return the lines that name the exchange of two directories."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in EXCHANGE)
        or (isinstance(node, ast.Name) and node.id in EXCHANGE)
        or (isinstance(node, ast.FunctionDef) and node.name in EXCHANGE)
        or (isinstance(node, ast.ImportFrom) and any(alias.name in EXCHANGE for alias in node.names))
        or (isinstance(node, ast.Constant) and node.value in EXCHANGE)
    ]


def test_only_generations_touches_a_live_layer() -> None:
    users = {str(path.relative_to(CORE)) for path in core_files() if exchanges(parsed(path))}
    # syscalls.py defines it, probe.py tries it in a scratch directory, files.py exchanges a file with its spare
    assert users == {"linux/syscalls.py", "linux/probe.py", "linux/files.py", "disk/store/generations.py"}
    # once: every swap takes the same path
    assert len(exchanges(parsed(CORE / "disk/store/generations.py"))) == 1
    assert not any(exchanges(parsed(path)) for path in LOADER_FILES)


# Loader kinds that import the core when Salt loads them; the others (states by choice) use `__salt__` only.
SEE_THE_CORE = {"_modules", "_grains", "_runners"}


@pytest.mark.parametrize("path", LOADER_FILES, ids=lambda path: str(path.relative_to(REPO)))
class TestLoaderFiles:
    def test_states_and_beacons_import_nothing_of_ours(self, path: Path) -> None:
        ours = [line for line, name in imports(parsed(path)) if name.partition(".")[0] == OURS]
        assert path.parent.name in SEE_THE_CORE or ours == []

    def test_a_stale_core_is_purged_before_it_is_imported(self, path: Path) -> None:
        tree = parsed(path)
        ours = [line for line, name in imports(tree) if name.partition(".")[0] == OURS]
        purges = [
            statement.lineno
            for statement in tree.body
            if isinstance(statement, ast.Expr) and "purge_if_stale" in ast.unparse(statement)
        ]
        assert not ours or (purges and purges[0] < min(ours))

    def test_other_packages_are_salt_alone(self, path: Path) -> None:
        tops = {name.partition(".")[0] for _line, name in imports(parsed(path))}
        assert tops <= {*sys.stdlib_module_names, "salt", OURS}
