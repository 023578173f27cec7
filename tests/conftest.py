"""Fixtures and rules of the whole suite."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import loaders
from tests.support.engine import Engine
from tests.support.minion import Minion
from tests.support.mounts import enter_new_namespace

CI = os.environ.get("CI") == "true"
# engines start a process of Go for each layer and container, which ends sooner than it pays to collect garbage
os.environ.setdefault("GOGC", "400")

loaders.remember_files()
# Salt sets the lowest level, and would make a record of each file that a loader finds
logging.getLogger().setLevel(logging.INFO)

hypothesis.settings.register_profile("dev", deadline=None, max_examples=25)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=200)  # `make torture`
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "dev")


def pytest_configure() -> None:
    # SIGTERM (a CI timeout, for example) stops the run's engines and unmounts its file systems, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A container that another worker starts would copy this worker's mounts, and a prune would wait for that copy.
    if os.geteuid() == 0:
        enter_new_namespace()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take longest first, so that no worker is left with one of them at the end."""
    order = ["integration", "slow", "functional"]

    def rank(item: pytest.Item) -> int:
        return min((order.index(mark.name) for mark in item.iter_markers() if mark.name in order), default=len(order))

    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(rank(item), ranks.get(item.path, len(order)))
    items.sort(key=lambda item: ranks[item.path])


def pytest_collection_finish() -> None:
    # The garbage collector need not visit thousands of tests, and all of Salt, again and again.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    # Salt's loggers write to streams that are already closed here.
    logging.raiseExceptions = False


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure in CI: every dependency is installed, so a skip is a mistake."""
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true does not allow: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if item.get_closest_marker("skip_ok") is None:
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Return the Docker engine that all functional tests share; use unique references, or `make_engine`."""
    with Engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Return `make_engine(root=None, storage_driver="overlay2", args=())`, which starts a private engine."""
    made: list[Engine] = []

    def make(root: Path | None = None, storage_driver: str = "overlay2", *, args: tuple[str, ...] = ()) -> Engine:
        made.append(Engine(root or tmp_path / f"engine{len(made)}", storage_driver, args=args))
        made[-1].start()
        return made[-1]

    yield make
    for started in made:
        started.destroy()


@pytest.fixture
def salt_local(engine: Engine, tmp_path: Path) -> Minion:
    """Return this checkout's modules and states, loaded by Salt in this process, on the shared engine."""
    return Minion(tmp_path / "minion", engine.url)
