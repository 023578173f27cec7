"""Fixtures and rules of the whole suite."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.engine import Engine
from tests.support.minion import Minion

CI = os.environ.get("CI") == "true"

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=3000)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "dev")


def pytest_configure() -> None:
    # A run that is told to end (a CI timeout, say) takes its engines and mounts down, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    # Salt's loggers write to streams that are closed by then.
    logging.raiseExceptions = False


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI everything is installed: a skipped test there is a test that nobody runs."""
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
    """One private Docker engine for all functional tests; use references of your own, or `make_engine`."""
    with Engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """`make_engine(root=None, storage_driver="overlay2", args=())`: a started engine of the test's own."""
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
    """This checkout's modules and states, loaded by Salt in this process, using the shared engine."""
    return Minion(tmp_path / "minion", engine.url)
