"""The reference is complete: its functions are those of the docstrings, its keys those of the code."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from baseimg_core.model.policy import pillar
from baseimg_core.model.rollout import fleet
from tests.support import fleets
from tests.support.sources import REPO, public_functions


def script(name: str) -> ModuleType:
    """Load a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", REPO / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_functions_are_those_of_the_docstrings() -> None:
    functions = script("functions")
    assert functions.PAGE.read_text() == functions.page(), "a docstring has changed: run `make docs`"


def test_every_function_and_argument_is_in_the_page() -> None:
    page = script("functions").page()
    for directory, prefix in (("_modules", "salt-call "), ("_states", ""), ("_runners", "salt-run ")):
        for function in public_functions(REPO / directory / "baseimg.py"):
            assert page.count(f"\n### {prefix}baseimg.{function.name}\n") == 1


def test_docstrings_become_markdown() -> None:
    functions = script("functions")
    docstring = (
        "Do ``this``\nnow.\n\nname, other\n    What :py:func:`baseimg.layer` takes,\n    in full.\n\nkey\n    Last.\n\n"
        "Returns ``x``.\n\n.. code-block:: bash\n\n    salt-call\n    more\n"
    )
    assert functions._markdown(docstring) == (
        "Do `this`\nnow.\n\n- `name, other`: What `baseimg.layer` takes,\n  in full.\n- `key`: Last.\n\n"
        "Returns `x`.\n\n```bash\nsalt-call\nmore\n```"
    )


def keys(page: str, section: str = "") -> set[str]:
    """Return the keys in the tables of a page, or of one of its sections."""
    text = (REPO / "docs/reference" / page).read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    names = re.findall(r"^\| (`[\w, `]+`) \|", text, re.MULTILINE)
    return {name for cell in names for name in re.findall(r"\w+", cell)}


@pytest.mark.parametrize(
    ("page", "section", "declared"),
    [
        ("pillar.md", "bases", pillar._BASE_KEYS | pillar._BUNDLE_KEYS),
        ("pillar.md", "builds", pillar._BUILD_KEYS),
        ("configuration.md", "", pillar._OPTIONS),
    ],
)
def test_every_key_is_documented(page: str, section: str, declared: frozenset[str]) -> None:
    assert keys(page, section) == declared


def test_the_table_of_a_fleet_is_what_the_runner_prints() -> None:
    page = (REPO / "docs/operating/monitoring.md").read_text()
    assert f"# salt-run baseimg.fleet\n{fleet.table(fleets.observed_fleet(2000))}\n```" in page
