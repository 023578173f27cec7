"""The figures of a torture run, printed at its end; docs/design/reliability.md cites them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_FIGURES = pytest.StashKey[dict[str, str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return `report(text)`, which shows the test's figures at the end of the run."""

    def add(text: str) -> None:
        request.config.stash.setdefault(_FIGURES, {})[request.node.name] = text

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(_FIGURES, {}):
        terminalreporter.section("figures")
        for name, text in figures.items():
            terminalreporter.write_line(f"{name}: {text}")
