"""Salt's daemons: masters and minions of a module's own, below one short directory."""

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
    # Sockets are below it: their paths must stay below 108 bytes. Parallel runs need directories of their own.
    root = Path(tempfile.mkdtemp(prefix="bi-", dir="/tmp"))
    yield {"root_dir": root}
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def daemons(salt_factories: Any) -> Iterator[Daemons]:
    with contextlib.ExitStack() as stack:
        yield Daemons(salt_factories, stack)


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """An engine for each of the module's NODES. This thread starts them, so they end with it."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Engine(tmp_path_factory.mktemp(name))) for name in request.module.NODES}
