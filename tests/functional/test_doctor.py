"""`baseimg.doctor`: one line for each problem, with a code and a command."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baseimg_core import zstd
from baseimg_core.disk.bundle import signature
from baseimg_core.engine.roots import default_layers_roots
from baseimg_core.linux import clock_sync, probe
from baseimg_core.ops import doctor as ops_doctor
from tests.functional.lab import BASE, Lab
from tests.support.registry import Registry
from tests.support.sources import REPO

pytestmark = pytest.mark.functional


@pytest.fixture
def node(lab: Lab) -> Iterator[Lab]:
    """Yield a node without problems; its grain reads the layers of the private engine."""
    options = dict(lab.minion.opts["baseimg"])
    root = str(lab.engine.data_root / "overlay2")
    lab.minion.configure(baseimg={**options, "layers_roots": [root]})
    yield lab
    lab.minion.configure(pillar={}, baseimg=options)


# expected on a test machine: no time service, and no access to the namespaces of PID 1
USUAL = {"clock-unsynchronised", "mounts-unreadable"}


def findings(lab: Lab) -> list[dict[str, Any]]:
    """Return the checks that are not ok."""
    checks = lab.doctor(full=True)["checks"]
    return [check for check in checks if check["level"] != "ok" and check["code"] not in USUAL]


def only(lab: Lab, subject: str, code: str, level: str = "failed") -> dict[str, Any]:
    """Return the only finding, after checking its line, the exit code and the grain."""
    (check,) = findings(lab)
    assert (check["subject"], check["code"], check["level"]) == (subject, code, level)
    assert check["command"]
    lines = lab.doctor()
    line = next(line for line in lines if f"[{code}]" in line)
    assert line.startswith(f"{level:7} {subject}: [{code}] ")
    assert line.endswith(f" -- {check['command']}")
    assert level != "failed" or line == lines[0]
    assert lab.minion.retcode == (level == "failed")
    assert grain(lab)["ready"] is (level != "failed")
    return check


def grain(lab: Lab) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("grain", REPO / "_grains/baseimg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__opts__"] = lab.minion.opts
    spec.loader.exec_module(module)
    grains: dict[str, Any] = module.baseimg()["baseimg"]
    return grains


class TestReady:
    def test_a_sound_node_is_ready(self, node: Lab) -> None:
        assert "ready" not in grain(node)
        assert findings(node) == []
        lines = node.doctor()
        subjects = {line.split(None, 1)[1].partition(":")[0] for line in lines}
        assert subjects >= {"Python", "Salt", "installation", "docker SDK", "zstd", "signatures", "engine"}
        assert subjects >= {"file system", "space", "clock", "top.sls", "trusted keys", "registries", "grain", "pillar"}
        assert "mount namespace" in subjects
        assert all("\n" not in line for line in lines)
        assert node.minion.retcode == 0
        assert grain(node)["ready"] is True

    def test_the_node_stays_as_it_was(self, node: Lab) -> None:
        node.usual()
        before = node.layers()
        node.doctor()
        assert node.layers() == before
        assert not list(Path(node.engine.data_root).rglob(probe.SCRATCH))


class TestFindings:
    def test_no_engine(self, node: Lab) -> None:
        node.minion.configure(**{"docker.url": "unix:///nonexistent/docker.sock"})
        try:
            only(node, "engine", "engine-unreachable")
        finally:
            node.minion.configure(**{"docker.url": node.engine.url})

    def test_no_zstandard(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zstd, "library", lambda: None)
        assert "pip install 'zstandard'" in only(node, "zstd", "compression-unsupported")["command"]

    def test_no_docker_sdk(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "docker", None)
        assert "docker>=" in only(node, "docker SDK", "dependency-missing", "warning")["command"]

    def test_no_cryptography(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signature, "AVAILABLE", False)
        missing = only(node, "signatures", "signature-unsupported", "warning")
        assert "pip install 'cryptography'" in missing["command"]

    def test_a_file_system_without_a_feature(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        features = probe.Features(exchange=False, trusted_xattrs=True, unnamed_files=True, syncfs=True, reflink=False)
        monkeypatch.setattr(probe, "probe", lambda _parent: features)
        assert "RENAME_EXCHANGE" in only(node, "file system", "filesystem-unsuitable")["message"]

    def test_too_little_space(self, node: Lab) -> None:
        node.minion.configure(baseimg={**node.minion.opts["baseimg"], "reserve": 99})
        assert "prune" in only(node, "space", "space-exhausted")["command"]

    def test_a_mistake_in_pillar(self, node: Lab) -> None:
        node.minion.pillar = {"baseimg": {"bases": {BASE: {"version": 12.1}}}}
        only(node, "pillar", "argument-invalid")

    def test_a_trusted_key_that_is_none(self, node: Lab) -> None:
        node.minion.configure(baseimg={**node.minion.opts["baseimg"], "trusted_keys": {"release": "ssh-rsa no"}})
        only(node, "trusted keys", "argument-invalid")

    def test_the_grain_does_not_see_the_layers(self, node: Lab) -> None:
        node.minion.configure(baseimg={**node.minion.opts["baseimg"], "layers_roots": ["/nowhere"]})
        check = only(node, "grain", "layers-unseen", "warning")
        assert str(node.engine.data_root) in check["command"]

    def test_a_clock_that_was_set_back(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        node.usual()
        node.apply(node.bundle())
        monkeypatch.setattr(ops_doctor, "now", lambda: "2020-01-01T00:00:00Z")
        only(node, "clock", "clock-skewed")

    def test_no_time_service(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock_sync, "is_synchronised", lambda: False)
        checks = {check["subject"]: check for check in node.doctor(full=True)["checks"]}
        assert (checks["clock"]["code"], checks["clock"]["level"]) == ("clock-unsynchronised", "warning")
        monkeypatch.setattr(clock_sync, "is_synchronised", lambda: True)
        assert "[clock-" not in "".join(node.doctor())

    def test_two_installations(self, node: Lab) -> None:
        synced = Path(node.minion.opts["extension_modules"]) / "utils/baseimg_core"
        synced.mkdir(parents=True)
        sys.path.insert(0, str(node.work))
        (node.work / "baseimg-0.1.0.dist-info").mkdir()
        (node.work / "baseimg-0.1.0.dist-info/METADATA").write_text("Name: baseimg\nVersion: 0.1.0\n")
        try:
            check = only(node, "installation", "version-mixed")
        finally:
            sys.path.remove(str(node.work))
            synced.rmdir()
        assert "uninstall -y baseimg" in check["command"]

    def test_two_top_files(self, node: Lab, tmp_path: Path) -> None:
        for name in ("ours", "theirs"):
            (tmp_path / name / "baseimg").mkdir(parents=True)
            (tmp_path / name / "top.sls").touch()
        (tmp_path / "ours/baseimg/init.sls").touch()
        roots = node.minion.opts["file_roots"]
        node.minion.configure(file_roots={"base": [str(tmp_path / "ours"), str(tmp_path / "theirs")]})
        try:
            assert str(tmp_path / "theirs/top.sls") in only(node, "top.sls", "top-file-doubled")["command"]
        finally:
            node.minion.configure(file_roots=roots)

    def test_a_registry_that_does_not_have_the_bundle(self, node: Lab, tmp_path: Path) -> None:
        with Registry(tmp_path / "registry") as registry:
            node.usual()
            place = f"{registry.host}/doctor/base:12.1"
            bundles = {"12.1": {"source": f"docker://{place}"}}
            node.minion.pillar = {"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles}}}}
            assert place in only(node, "registry", "bundle-unavailable")["message"]
            node.push(node.bundle(), place)
            assert findings(node) == []

    def test_a_node_without_the_core(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        function = node.minion.modules["baseimg.doctor"]
        missing = ModuleNotFoundError("No module named 'baseimg_core'", name="baseimg_core")
        monkeypatch.setitem(function.__globals__, "_MISSING", missing)
        first, *others = function()
        assert first.startswith("failed  installation: [dependency-missing] ")
        assert " -- salt-call --local saltutil.sync_all; for salt-ssh, " in first
        subjects = ["Python", "Salt", "docker SDK", "zstd", "signatures"]
        assert [line.split(":")[0] for line in others] == [f"ok      {subject}" for subject in subjects]
        assert function(full=True)["ready"] is False
        assert node.minion.retcode == 1

    def test_a_node_without_the_core_and_without_packages(self, node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each is one line with the command that mends it, the failures first."""
        function = node.minion.modules["baseimg.doctor"]
        monkeypatch.setitem(function.__globals__, "_MISSING", SyntaxError("invalid syntax"))
        monkeypatch.setitem(function.__globals__, "_PYTHON", (4, 0))
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/salt-pip")
        lines = [line.split(" -- ") for line in function()]
        assert [(line.split("]")[0], command) for line, command in lines[:5]] == [
            ("failed  installation: [dependency-missing", "upgrade the package salt-minion"),
            ("failed  Python: [python-old", "upgrade the package salt-minion"),
            ("failed  zstd: [compression-unsupported", "salt-pip install 'zstandard'"),
            ("warning docker SDK: [dependency-missing", "salt-pip install 'docker>=7.1,<8'"),
            ("warning signatures: [signature-unsupported", "salt-pip install 'cryptography'"),
        ]


def test_the_grain_reads_the_directories_that_the_doctor_expects(lab: Lab) -> None:
    """The grain must not import the core, so it has its own list, which equals the doctor's."""
    spec = importlib.util.spec_from_file_location("grain", REPO / "_grains/baseimg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__opts__"] = {}
    spec.loader.exec_module(module)
    assert module._roots() == default_layers_roots()


def test_the_oldest_python_is_that_of_the_package() -> None:
    assert f"python_requires = >={'.'.join(map(str, ops_doctor.PYTHON))}\n" in (REPO / "setup.cfg").read_text()


def test_the_checks_without_the_core_have_the_same_limits(lab: Lab) -> None:
    without_core = lab.minion.modules["baseimg.doctor"].__globals__
    assert (without_core["_PYTHON"], without_core["_SALT"]) == (ops_doctor.PYTHON, ops_doctor.SALT)
