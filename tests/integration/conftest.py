"""Salt's daemons: a module's own masters and minions below one short directory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemons
from tests.support.engine import Engine


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    # Paths of sockets must stay below 108 bytes. Parallel runs need different directories.
    root = Path(tempfile.mkdtemp(prefix="bi-", dir="/tmp"))
    yield {"root_dir": root}
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def daemons(salt_factories: Any) -> Iterator[Daemons]:
    with contextlib.ExitStack() as stack:
        yield Daemons(salt_factories, stack)


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """Start an engine for each of the module's NODES from this thread: engines end with their thread."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Engine(tmp_path_factory.mktemp(name))) for name in request.module.NODES}
