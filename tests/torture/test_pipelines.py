"""The job of docs/operating/pipelines.md in a bare chroot: a read-only root, one writable directory, no user."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.integration.test_install import build, environment, pip_install
from tests.support import pipelines
from tests.support.pipelines import NOBODY
from tests.support.registry import Registry
from tests.support.sources import copy_to

pytestmark = pytest.mark.torture

WHEEL = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"


def installed_wheel(root: Path) -> Path:
    """Return the Python of a virtual environment with the wheel, which is built as pip builds it."""
    python = environment(root / "venv")
    source = copy_to(root / "source")
    pip_install(python, str(source / "dist" / build(python, source, "-c", WHEEL).splitlines()[-1]))
    return python


def bare_root(root: Path, writable: Path, *read_only: Path) -> str:
    """Return a script that mounts a root directory with these directories alone, at their own paths."""
    lines = [f"mount -t tmpfs none {root}"]
    for path in (*read_only, writable):
        inside = shlex.quote(f"{root}{path}")
        lines += [f"mkdir -p {inside}", f"mount --bind {shlex.quote(str(path))} {inside}"]
        if path != writable:
            lines.append(f"mount -o remount,ro,bind {inside}")
    lines += [f"ln -s usr/{name} {root}/{name}" for name in ("bin", "lib", "lib64")]
    return "\n".join([*lines, f"mount -o remount,ro {root}"])


def test_the_job_in_a_bare_chroot(tmp_path: Path) -> None:
    python = installed_wheel(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name, Registry(tmp_path / "registry") as registry:
        work = Path(name)
        variables = pipelines.prepare(work, tmp_path / "images.tar", registry)
        variables["PATH"] = f"{python.parent}:/usr/bin:/bin"
        interpreter, packages = Path(sys.base_prefix), Path(sysconfig.get_path("purelib"))
        mounts = bare_root(root, work, Path("/usr"), interpreter, packages, python.parents[1])
        job = f"cd {work}; touch /new 2>/dev/null && exit 99; test $(id -u) = {NOBODY}; {pipelines.script()}"
        given = [f"{key}={value}" for key, value in variables.items()]
        chroot = ["chroot", f"--userspec={NOBODY}:{NOBODY}", str(root), "env", "-i", *given, "sh", "-euc", job]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-euc", f"{mounts}\nexec {shlex.join(chroot)}"],
            capture_output=True, text=True, check=False, env=dict(os.environ),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        pushed = json.loads((work / "pushed.json").read_text())
        assert (pushed["signed"], pushed["judged"]) == (True, True)
        assert 'failures="0"' in (work / "judge.xml").read_text()
        assert sorted(path.name for path in work.iterdir() if path.is_dir()) == []
