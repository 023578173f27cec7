"""Salt's documentation of every function is complete, and every error is documented."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest
import yaml

from baseimg_core import errors
from baseimg_core.errors import BaseimgError
from baseimg_core.model.policy import pillar
from baseimg_core.rollout import discovery
from baseimg_core.rollout import errors as rollout_errors
from tests.support.minion import Minion
from tests.support.sources import (
    CORE,
    LOADER_FILES,
    REPO,
    Function,
    arguments,
    core_files,
    parsed,
    public_functions,
)

ERRORS_PAGE = REPO / "docs/reference/errors.md"
README_LINES = 200


def _kinds(*kinds: str) -> list[object]:
    return [
        pytest.param(function, id=f"{path.parent.name}.{function.name}")
        for path in LOADER_FILES
        if path.parent.name in kinds
        for function in public_functions(path)
    ]


def _function(name: str) -> Function:
    (function,) = (candidate for candidate in public_functions(REPO / "_modules/baseimg.py") if candidate.name == name)
    return function


def _doc(function: Function) -> str:
    return ast.get_docstring(function) or ""


def blocks(doc: str, language: str) -> list[str]:
    """Return the contents of a docstring's code blocks."""
    matches = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?: +.*)?\n?)+)", doc, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in matches]


def documented(doc: str) -> set[str]:
    """Return the arguments with a paragraph: a line with their names, followed by indented text."""
    return {
        name.strip()
        for line, _text in re.findall(r"^(\w+(?:, \w+)*)\n( +\S.*)", doc, re.MULTILINE)
        for name in line.split(",")
    }


@pytest.mark.parametrize("function", _kinds("_modules", "_runners"))
class TestExecutionFunctions:
    def test_says_what_it_does(self, function: Function) -> None:
        assert _doc(function).partition("\n\n")[0].endswith(".")

    def test_has_an_example_that_calls_it(self, function: Function) -> None:
        assert "CLI Example:" in _doc(function)
        examples = blocks(_doc(function).partition("CLI Example:")[2], "bash")
        assert examples
        for example in examples:
            for command in example.replace("\\\n", " ").splitlines():
                assert re.match(rf"salt(-call|-run| '[^']+') baseimg\.{function.name}( |$)", command), command

    def test_documents_its_arguments_and_no_others(self, function: Function) -> None:
        same = re.search(r":py:func:`baseimg\.(\w+)`[\w ]* with the same arguments", _doc(function))
        if same:
            assert arguments(function) == arguments(_function(same[1]))
        else:
            assert documented(_doc(function)) == set(arguments(function))


@pytest.mark.parametrize("function", _kinds("_states"))
class TestStateFunctions:
    def test_documents_its_arguments_and_no_others(self, function: Function) -> None:
        assert documented(_doc(function)) == set(arguments(function))

    def test_has_an_example_that_fits_its_signature(self, function: Function) -> None:
        examples = blocks(_doc(function), "yaml")
        assert examples
        for example in examples:
            for declared in yaml.safe_load(example).values():
                ((called, given),) = declared.items()
                if function.name == "mod_watch":  # Salt calls it, for another state
                    continue
                assert called == f"baseimg.{function.name}"
                names = {name for group in given for name in group}
                assert names <= set(arguments(function))
                assert names >= _required(function) - {"name"}

    def test_takes_a_name_first(self, function: Function) -> None:
        assert arguments(function)[0] == "name"


def _required(function: Function) -> set[str]:
    names = arguments(function)
    return set(names[: len(names) - len(function.args.defaults)])


@pytest.fixture(scope="module")
def minion(tmp_path_factory: pytest.TempPathFactory) -> Minion:
    return Minion(tmp_path_factory.mktemp("minion"), "unix:///nonexistent/docker.sock")


class TestArgspec:
    """The public signatures keep these names, order and defaults; new arguments go at the end."""

    PROMISED = {  # noqa: RUF012
        "layer": {"image": ...},
        "diff": {"source": ..., "target": ...},
        "build": {"source": ..., "target": ..., "bundle": ..., "version": None, "compression": "zstd", "test": False},
        "inspect": {"bundle": ..., "verify": False},
        "apply": {"bundle": ..., "hash": None},
        "rollback": {"base": ..., "to": None},
        "status": {"base": None},
        "history": {"base": ...},
    }
    STATES = {  # noqa: RUF012
        "converged": {"name": ..., "version": ..., "bundles": None},
        "built": {"name": ..., "source": ..., "target": ...},
    }

    @staticmethod
    def check_signatures(report: dict[str, dict[str, object]], promised: dict[str, dict[str, object]]) -> None:
        for name, expected in promised.items():
            spec = report[f"baseimg.{name}"]
            args, defaults = list(spec["args"] or ()), list(spec["defaults"] or ())
            padded = dict(zip(args, [...] * (len(args) - len(defaults)) + defaults, strict=True))
            assert list(padded.items())[: len(expected)] == list(expected.items()), name
            assert ... not in list(padded.values())[len(expected) :], f"{name} asks for more than was promised"

    def test_execution_module(self, minion: Minion) -> None:
        self.check_signatures(minion.modules["sys.argspec"]("baseimg"), self.PROMISED)

    def test_states(self, minion: Minion) -> None:
        self.check_signatures(minion.modules["sys.state_argspec"]("baseimg"), self.STATES)

    def test_nothing_else_is_offered_by_accident(self, minion: Minion) -> None:
        """An import without a leading underscore becomes an execution function."""
        for kind, report in (("_modules", "sys.argspec"), ("_states", "sys.state_argspec")):
            offered = {name.partition(".")[2] for name in minion.modules[report]("baseimg")}
            assert offered == {function.name for function in public_functions(REPO / kind / "baseimg.py")}


def test_a_rollout_sends_only_arguments_that_converge_takes() -> None:
    """A pillar key that ``converge`` does not take would fail every node of a rollout."""
    base = {"version": "12.1", "bundles": {}}
    (declared,) = pillar.declared({"bases": {"corp/base:12.0": base}})["bases"].values()
    assert declared.keys() - discovery._NO_ARGUMENTS <= set(arguments(_function("converge")))


def classes() -> list[type[BaseimgError]]:
    named = [*vars(errors).values(), *vars(rollout_errors).values()]
    subclasses = [value for value in named if isinstance(value, type) and issubclass(value, BaseimgError)]
    return [value for value in dict.fromkeys(subclasses) if value is not BaseimgError]


@cache
def raised() -> list[tuple[Path, ast.Call]]:
    """Return every place in the core that creates a baseimg error."""
    names = {error.__name__ for error in classes()}
    return [
        (path, node)
        for path in core_files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


@cache
def used_names() -> frozenset[str]:
    """Return every name that the core or the execution module uses."""
    paths = [*core_files(), REPO / "_modules/baseimg.py"]
    return frozenset(node.id for path in paths for node in ast.walk(parsed(path)) if isinstance(node, ast.Name))


class TestErrors:
    def test_codes_are_unique_and_easy_to_type(self) -> None:
        codes = [error_class.code for error_class in classes()]
        assert len(codes) == len(set(codes))
        assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)

    @pytest.mark.parametrize("error_class", classes(), ids=lambda error: error.__name__)
    def test_each_has_a_code_and_a_docstring_of_its_own(self, error_class: type[BaseimgError]) -> None:
        assert "code" in vars(error_class)
        assert inspect.getdoc(error_class) not in (None, "", inspect.getdoc(BaseimgError))

    @pytest.mark.parametrize("error_class", classes(), ids=lambda error: error.__name__)
    def test_each_says_what_to_do(self, error_class: type[BaseimgError]) -> None:
        """Each error has a hint, or a message that names the expected value."""
        if error_class.hint:
            return
        calls = [(path, call) for path, call in raised() if call.func.id == error_class.__name__]  # type: ignore[attr-defined]
        silent = [
            f"{path.relative_to(CORE)}:{call.lineno}"
            for path, call in calls
            if len(call.args) + len(call.keywords) < 2 and "expected" not in ast.unparse(call)
        ]
        assert silent == []

    @pytest.mark.parametrize("error_class", classes(), ids=lambda error: error.__name__)
    def test_each_is_raised_somewhere(self, error_class: type[BaseimgError]) -> None:
        assert error_class.__name__ in used_names()

    def test_the_page_lists_every_code_and_no_others(self) -> None:
        words = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", ERRORS_PAGE.read_text()))
        codes = {error_class.code for error_class in classes()}
        assert codes - words == set()
        assert set(_headings(ERRORS_PAGE)) <= codes


def _headings(page: Path) -> list[str]:
    """Return the page's headings that are an error code, including codes of deleted errors."""
    return re.findall(r"^#+ `?([a-z]+(?:-[a-z]+)+)`?$", page.read_text(), re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
