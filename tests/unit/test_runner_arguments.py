"""Wrong arguments of the runner's functions: refused in words, with an exit code."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from tests.support.sources import REPO, public_functions

RUNNER = REPO / "_runners/baseimg.py"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runner", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__dict__.update(__opts__={}, __context__={})
    return module


@pytest.mark.parametrize(
    ("function", "arguments", "named", "reason"),
    [
        ("rollback", ["corp/base:12.0"], {"to": "12.0"}, "unknown argument to=; it takes: id, since, nodes"),
        ("rollback", [], {"sinse": "2026-11-24"}, "unknown argument sinse= (did you mean since=?); "),
        ("rollback", [1, 2, 3, 4], {}, "too many positional arguments; "),
        ("rollback", [1], {"id": 1}, "multiple values for argument 'id'; "),
        ("hold", ["corp/base:12.0", "12.1"], {}, "missing a required argument: 'reason'; it takes: base, version, "),
        (
            "rollout",
            [],
            {"canary": 1},
            "missing a required argument: 'base'; it takes: base, version, watch, keys of the policy -- ",
        ),
    ],
)
def test_a_wrong_argument(
    runner: ModuleType, function: str, arguments: list[Any], named: dict[str, Any], reason: str
) -> None:
    result = getattr(runner, function)(*arguments, **named, __pub_user="root")
    error = result["error"]
    assert error["code"] == "argument-invalid"
    assert f"{error['message']} -- ".startswith(f"baseimg.{function}: {reason}")
    assert error["hint"] == f"run: salt-run -d baseimg.{function}"
    assert result["retcode"] == runner.__dict__["__context__"]["retcode"] == (1 if function == "hold" else 17)


def test_a_person_gets_one_line(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runner.__dict__, "__opts__", {"fun": "baseimg.retry"})
    data = runner.retry()["data"]
    assert data["error"].startswith("[argument-invalid] baseimg.retry: missing a required argument: 'id'")
    assert data["retcode"] == 17


def test_an_interrupted_command_says_how_it_continues(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Salt exits in its handler of SIGINT and SIGTERM, and printed a traceback."""

    def interrupted(_command: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setitem(runner.__dict__, "_run", interrupted)
    with pytest.raises(SystemExit):  # a daemon must end
        runner.rollout("corp/base:12.0")
    monkeypatch.setitem(runner.__dict__, "__opts__", {"fun": "baseimg.rollout"})
    data = runner.rollout("corp/base:12.0")["data"]
    assert data["error"].startswith("[rollout-interrupted] baseimg.rollout was interrupted -- ")
    assert "baseimg.resume" in data["error"]
    assert data["retcode"] == 14


@pytest.mark.parametrize("function", [function.name for function in public_functions(RUNNER)])
def test_every_function_refuses_an_unknown_argument(runner: ModuleType, function: str) -> None:
    if function not in ("rollout", "plan"):  # their other arguments are keys of the policy
        assert "unknown argument colour=" in getattr(runner, function)(colour="red")["error"]["message"]
