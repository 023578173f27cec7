"""The figures of a torture run, printed at its end; docs/design/reliability.md cites them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_FIGURES = "figures"


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return `report(text)`, which shows the test's figures at the end of the run."""

    def add(text: str) -> None:
        request.node.user_properties.append((_FIGURES, text))  # a worker sends them with the result

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [each for outcome in ("passed", "failed") for each in terminalreporter.stats.get(outcome, ())]
    figures = [(each, text) for each in reports if each.when == "call" for _, text in each.user_properties]
    if figures:
        terminalreporter.section("figures")
    for each, text in figures:
        terminalreporter.write_line(f"{each.nodeid} ({each.duration:.0f} s): {text}")
