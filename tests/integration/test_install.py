"""Three ways to install, each in a clean process, and the rules that hold for all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import pipelines
from tests.support.calls import Answer, Caller
from tests.support.pipelines import NOBODY
from tests.support.registry import Registry
from tests.support.sources import copy_to

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh clone."""
    return copy_to(tmp_path_factory.mktemp("clone"))


# The ways to install


@dataclass(frozen=True)
class Installed:
    """A minion with the suite: our core is below ``core``, Salt's loader files are below ``loader``."""

    call: Caller
    core: Path
    loader: Path


def checkout(clone: Path, where: Path) -> Installed:
    call = Caller(where, module_dirs=[str(clone)], utils_dirs=[str(clone / "_utils")])
    return Installed(call, clone / "_utils", clone)


def synced(clone: Path, where: Path) -> Installed:
    call = Caller(where, file_roots={"base": [str(clone / "salt")]})
    done = call("saltutil.sync_all")
    assert done.code == 0, done.err
    assert done.data["modules"] == ["modules.baseimg"]
    assert done.data["states"] == ["states.baseimg"]
    assert "utils.baseimg_core.disk.store.generations" in done.data["utils"]
    extmods = call.cache / "extmods"
    return Installed(call, extmods / "utils", extmods)


def environment(where: Path) -> Path:
    """Create a virtual environment that also has our packages (Salt, the Docker SDK); return its Python."""
    make = [sys.executable, "-m", "virtualenv", "-q", "--no-download", "--no-periodic-update"]
    subprocess.run([*make, "--setuptools=bundle", str(where)], check=True, capture_output=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # .pth paths follow the environment's own packages, so its own setuptools wins.
    (where / "lib" / version / "site-packages/ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return where / "bin/python"


def build(python: Path, cwd: Path | str, *arguments: str) -> str:
    """Run a build without isolation; return its output."""
    # Salt pins a release of packaging that is too old for setuptools, which brings its own
    (vendored,) = python.parents[1].glob("lib/*/site-packages/setuptools/_vendor")
    environment = {**os.environ, "PYTHONPATH": str(vendored)}
    command = [str(python), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip_install(python: Path, *what: str) -> None:
    build(python, "/", "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", *what)


def build_sdist(python: Path, source: Path) -> Path:
    """Build the sdist as pip and `build` do; return its path."""
    program = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    return source / "dist" / build(python, source, "-c", program).splitlines()[-1]


@pytest.fixture(scope="module")
def with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a virtual environment with the suite installed by pip, from its sdist."""
    where = tmp_path_factory.mktemp("pip")
    python = environment(where / "venv")
    # Setuptools builds inside the source tree, so it gets a copy.
    pip_install(python, str(build_sdist(python, copy_to(where / "source"))))
    return python


def editable(clone: Path, where: Path) -> Installed:
    python = environment(where / "venv")
    source = copy_to(where / "source")
    pip_install(python, "--editable", str(source))
    return Installed(Caller(where / "minion", python=python), source / "_utils", source)


@pytest.fixture(scope="module", params=["checkout", "synced", "pip", "editable"])
def installed(request: pytest.FixtureRequest, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    where = tmp_path_factory.mktemp(request.param) / "minion"
    if request.param == "pip":
        python = request.getfixturevalue("with_pip")
        return Installed(Caller(where, python=python), python.parents[1] / "lib", python.parents[1] / "lib")
    return {"checkout": checkout, "synced": synced, "editable": editable}[request.param](clone, where)


# One call for each loader kind, and the check of its answer. Runners, grains and beacons belong here too.


def _declared(answer: Answer) -> None:
    assert answer.code == 0
    assert answer.data == {}


def _mistaken(answer: Answer) -> None:
    assert answer.code != 0
    assert "[argument-invalid] what is 'nonsense' (str), expected one of: bases, builds" in answer.err


def _unreachable(answer: Answer) -> None:
    assert answer.code != 0
    assert answer.state["result"] is False
    assert answer.state["comment"].startswith("[engine-unreachable] ")


@dataclass(frozen=True)
class Kind:
    """A loader kind: its name in a loaded module, its directory, and a call that proves that it works."""

    name: str
    directory: str
    call: tuple[str, ...]
    check: Callable[[Answer], None]


CONVERGED = ("state.single", "baseimg.converged", "corp/base:12.0", "version=12.1.0", "test=True")
KINDS = [
    Kind("module", "modules", ("baseimg.declared", "nonsense"), _mistaken),
    Kind("states", "states", CONVERGED, _unreachable),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.directory)
def test_each_way_loads_each_kind(installed: Installed, kind: Kind) -> None:
    answer = installed.call(*kind.call)

    kind.check(answer)
    core = Path(answer.loaded["baseimg_core"])
    assert core.name == "__init__.py"
    assert core.parent.name == "baseimg_core"
    assert core.is_relative_to(installed.core)
    # the core is not loaded a second time under another name
    assert [name for name in answer.loaded if name.endswith("baseimg_core")] == ["baseimg_core"]
    (loader,) = (path for name, path in answer.loaded.items() if re.search(rf"\.{kind.name}\.baseimg$", name))
    assert Path(loader).is_relative_to(installed.loader)
    assert Path(loader).parent.name in (kind.directory, f"_{kind.directory}")


def test_each_way_has_the_grain(installed: Installed) -> None:
    answer = installed.call("grains.get", "baseimg")
    assert answer.code == 0
    assert "bases" in answer.data


def test_pip_brings_the_sls_files_and_says_where(with_pip: Path, clone: Path) -> None:
    ask = "import baseimg_core, json; print(json.dumps(baseimg_core.paths()))"
    done = subprocess.run([str(with_pip), "-c", ask], capture_output=True, text=True, check=True, cwd="/")
    paths = json.loads(done.stdout)
    assert paths.keys() == {"salt", "pillar", "reactor"}
    for name, directory in paths.items():
        assert Path(directory).is_relative_to(with_pip.parents[1])
        files = {path.relative_to(clone / name): path.read_bytes() for path in (clone / name).rglob("*.sls")}
        assert {path.relative_to(directory): path.read_bytes() for path in Path(directory).rglob("*.*")} == files


def test_a_file_root_and_the_example_are_enough(clone: Path, tmp_path: Path) -> None:
    """The operator's own top file names baseimg; `state.apply` without arguments syncs first."""
    own = tmp_path / "srv"
    own.mkdir()
    (own / "top.sls").write_text((clone / "pillar/state_top.sls").read_text())
    roots = {"file_roots": {"base": [str(own), str(clone / "salt")]}}
    answer = Caller(tmp_path / "minion", **roots, pillar_roots={"base": [str(clone / "pillar")]})("state.apply")
    assert answer.state["__id__"] == "baseimg corp/base:12.0"
    assert answer.state["comment"].startswith("[engine-unreachable] ")
    assert answer.code != 0


# Refused environments


class TestRefusals:
    """Each refusal names the missing requirement."""

    def refused(self, call: Caller) -> str:
        """Return the reason; assert that functions and states give it and that an unrelated state still runs."""
        answer = call("baseimg.declared")
        assert answer.code != 0
        sls = call.root / "refused.sls"
        own = "{% set problem = salt['baseimg.problem']() %}\n"
        sls.write_text(
            own + "unrelated:\n  test.succeed_without_changes\n"
            "corp/base:12.0:\n  baseimg.converged:\n    - version: '12.1'\n"
            "problem:\n  test.fail_without_changes:\n    - comment: {{ problem | json }}\n"
        )
        state = call("state.template", str(sls))
        assert state.code != 0
        results = {each["__id__"]: (each["result"], each["comment"]) for each in state.data.values()}
        assert results["unrelated"][0] is True
        assert results["corp/base:12.0"][0] is False
        reason = results["problem"][1]
        assert results["corp/base:12.0"][1] == reason
        return str(reason)

    def test_without_the_docker_sdk_everything_loads(self, clone: Path, tmp_path: Path) -> None:
        """Only containers, TCP engines and registries need the SDK; their errors say so."""
        remote = {"docker.url": "tcp://127.0.0.1:1"}
        call = Caller(tmp_path / "minion", module_dirs=[str(clone)], hidden=["docker"], **remote)
        _declared(call("baseimg.declared"))
        answer = call("baseimg.status")
        assert "[dependency-missing]" in answer.err
        assert "salt-pip install 'docker" in answer.err

    def test_without_its_core(self, clone: Path, tmp_path: Path) -> None:
        """Only the loader files are copied, not the core."""
        repo = tmp_path / "repo"
        repo.mkdir()
        for name in ("_modules", "_states"):
            (repo / name).symlink_to(clone / name)
        assert "No module named 'baseimg_core'" in self.refused(Caller(tmp_path / "minion", module_dirs=[str(repo)]))

    def test_not_as_root(self) -> None:
        # the process must read our Python and its imports, wherever they are installed
        capability = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capability]
        with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name:
            root = Path(name)
            root.chmod(0o755)
            repo = copy_to(root / "repo")
            call = Caller(root / "minion", module_dirs=[str(repo)], prefix=prefix, user="nobody")
            for path in (call.root, *call.root.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            assert "must run as root" in self.refused(call)

    def test_without_zstandard_everything_loads(self, clone: Path, tmp_path: Path) -> None:
        """Gzip bundles work without zstandard."""
        _declared(Caller(tmp_path / "minion", module_dirs=[str(clone)], hidden=["zstandard"])("baseimg.declared"))


def set_version(source: Path, version: str, *, core: bool = True, module: bool = True) -> None:
    """Set the version as a release does."""
    places = [(source / "_utils/baseimg_core/__init__.py", "__version__"), (source / "_modules/baseimg.py", "_VERSION")]
    for (path, name), release in zip(places, (core, module), strict=True):
        if release:
            text, count = re.subn(rf'^{name} = ".*"$', f'{name} = "{version}"', path.read_text(), flags=re.MULTILINE)
            assert count == 1
            path.write_text(text)


class TestTwoVersionsAtOnce:
    """pip and sync on one minion: the synced version is newer than the installed one."""

    @pytest.fixture
    def newer(self, tmp_path: Path) -> Path:
        """Return a later release."""
        source = copy_to(tmp_path / "newer")
        set_version(source, "99.9.0")
        return source

    @pytest.fixture
    def call(self, with_pip: Path, newer: Path, tmp_path: Path) -> Caller:
        return Caller(tmp_path / "minion", python=with_pip, file_roots={"base": [str(newer / "salt")]})

    @pytest.fixture
    def both(self, clone: Path, with_pip: Path) -> str:
        """Return the text that names both versions in the reason."""
        text = (clone / "_utils/baseimg_core/__init__.py").read_text()
        old = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
        assert old
        return f"baseimg 99.9.0 cannot use the core of version {old[1]} in {with_pip.parents[1]}/"

    def test_a_module_that_meets_another_version_of_the_core_says_both(self, call: Caller, both: str) -> None:
        assert call("saltutil.sync_modules").code == 0
        answer = call("baseimg.declared")
        assert answer.code != 0
        assert both in answer.err + answer.out

    def test_also_where_the_module_asks_for_what_that_core_does_not_have(
        self, call: Caller, newer: Path, both: str
    ) -> None:
        """The module imports a part that the older core does not have, as in most releases."""
        module = newer / "_modules/baseimg.py"
        text = module.read_text()
        first = "        from baseimg_core.minion import Minion\n"
        assert text.count(first) == 1
        module.write_text(text.replace(first, f"{first}        import baseimg_core.brand_new\n"))
        (newer / "_utils/baseimg_core/brand_new.py").touch()
        assert call("saltutil.sync_modules").code == 0
        answer = call("baseimg.declared")
        assert answer.code != 0
        assert both in answer.err + answer.out

    def test_everything_synced_wins_as_a_whole_or_not_at_all(self, call: Caller, both: str) -> None:
        assert call("saltutil.sync_all").code == 0
        answer = call("baseimg.declared")
        if answer.code == 0:
            loaded = [Path(path) for path in answer.loaded.values()]
            assert loaded
            assert all(path.is_relative_to(call.cache) for path in loaded)
        else:
            assert both in answer.err + answer.out


class TestPipelines:
    """The jobs of docs/operating/pipelines.md, from the wheel that pip built, as an unprivileged user."""

    def test_both_pages_have_one_job(self) -> None:
        commands = pipelines.commands()
        assert commands["gitlab"] == commands["github"]

    def test_the_job(self, with_pip: Path, tmp_path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name, Registry(tmp_path / "registry") as registry:
            work = Path(name)
            variables = pipelines.prepare(work, tmp_path / "images.tar", registry)
            # the process must read our Python, wherever it is installed
            capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
            user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capability]
            done = subprocess.run(
                [*user, "sh", "-euc", pipelines.script()],
                capture_output=True, text=True, check=False, cwd=work,
                env={**variables, "PATH": f"{with_pip.parent}:/usr/bin:/bin"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            pushed = json.loads((work / "pushed.json").read_text())
            assert (pushed["signed"], pushed["judged"]) == (True, True)
            assert pushed["source"].startswith(f"docker://{registry.host}/bundles@sha256:")
            assert 'failures="0"' in (work / "judge.xml").read_text()
            assert sorted(path.name for path in work.iterdir() if path.is_dir()) == []
