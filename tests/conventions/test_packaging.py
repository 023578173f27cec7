"""A checkout, a file server and pip deliver the same files; the pins satisfy setup.cfg."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import baseimg_core

REPO = Path(__file__).resolve().parents[2]
LOADER_DIRS = sorted(path.name for path in REPO.glob("_*") if path.is_dir() and not path.name.startswith("__"))


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    return parser


def _lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip()]


def test_pip_installs_every_package(setup_cfg: configparser.ConfigParser) -> None:
    core = REPO / "_utils/baseimg_core"
    packages = {
        ".".join(path.parent.relative_to(core.parent).parts)
        for path in core.rglob("*.py")
        if "__pycache__" not in path.parts
    }
    loaders = {f"baseimg_core._loader.{name[1:]}" for name in LOADER_DIRS if name != "_utils"}
    directories = {
        path.parent.relative_to(REPO) for top in ("salt", "pillar", "reactor") for path in REPO.glob(f"{top}/**/*.sls")
    }
    files = {".".join(("baseimg_core._files", *directory.parts)) for directory in directories}
    assert set(_lines(setup_cfg["options"]["packages"])) == packages | loaders | files
    package_data = {name for name, value in setup_cfg["options.package_data"].items() if value == "*.sls"}
    assert package_data == {name.lower() for name in files}


def test_a_release_has_one_version_and_a_date() -> None:
    """The module names the version too, because it must refuse the core of another one."""
    module = re.search(r'^_VERSION = "(.*)"$', (REPO / "_modules/baseimg.py").read_text(), re.MULTILINE)
    assert module
    assert module[1] == baseimg_core.__version__
    release = re.search(r"^## \[(.*)\] - \d{4}-\d\d-\d\d$", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert release
    assert release[1] == baseimg_core.__version__


def test_the_file_root_offers_every_loader_directory() -> None:
    links = {path.name: path for path in (REPO / "salt").glob("_*")}
    assert sorted(links) == LOADER_DIRS
    if (REPO / ".git").exists():  # an sdist has copies
        assert {name: path.readlink() for name, path in links.items()} == {name: Path("..") / name for name in links}


def test_the_file_root_does_not_shadow_salt() -> None:
    assert not (REPO / "salt/__init__.py").exists()


def test_pins_satisfy_the_requirements(setup_cfg: configparser.ConfigParser) -> None:
    lines = _lines((REPO / "requirements/dev.txt").read_text())
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    requirement_lists = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    for requirement in (Requirement(line) for value in requirement_lists for line in _lines(value)):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_demo_installs_a_part_of_the_test_packages() -> None:
    demo, dev = (_lines((REPO / f"requirements/{name}.txt").read_text())[1:] for name in ("demo", "dev"))
    assert set(demo) < set(dev)
