"""The jobs of docs/operating/pipelines.md, and a registry with the images that they name."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from tests.support import images, ssh
from tests.support.images import ImageSpec, file
from tests.support.registry import Registry
from tests.support.sources import REPO

NOBODY = 65534


def commands() -> dict[str, list[str]]:
    """Return the commands of each job on the page."""
    text = (REPO / "docs/operating/pipelines.md").read_text()
    gitlab, github = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    (script,) = (step["run"] for step in github["jobs"]["bundle"]["steps"] if "run" in step)
    return {"gitlab": gitlab["bundle"]["script"], "github": script.splitlines()}


def script() -> str:
    """Return the job as a shell script, without the installation of the wheel."""
    return "\n".join(command for command in commands()["gitlab"] if not command.startswith("pip install"))


def prepare(work: Path, archive: Path, registry: Registry) -> dict[str, str]:
    """
    Push the images of a job, and write its key and its list of applications for an unprivileged user.

    Args:
        work: The directory in which the job runs.
        archive: A path for an archive of the images.
        registry: The registry.

    Returns:
        The variables of the job.
    """
    base = images.layer_tar([file("bin/sh", b"sh", 0o755), file("etc/version", b"12.0\n", uid=7)])
    update = images.layer_tar([file("etc/version", b"12.1\n", uid=7)])
    app = images.layer_tar([file("app/run", b"run")])
    stacks = {"base:12.0": [base], "base:12.1": [base, update], "app:1": [base, app]}
    archive.write_bytes(images.archive([ImageSpec(ref, layers, {"Cmd": ["sh"]}) for ref, layers in stacks.items()]))
    place = f"docker://{registry.host}/corp"
    for ref in stacks:
        copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}:{ref}"]
        subprocess.run([*copy, f"{place}/{ref}"], check=True)
    key = ssh.make_key(work / "release")
    (work / "apps.txt").write_text(f"{place}/app:1\n")
    for path in (work, *work.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    return {
        "HOME": str(work),
        "TMPDIR": str(work),
        "OLD": f"{place}/base:12.0",
        "NEW": f"{place}/base:12.1",
        "BUNDLES": f"{registry.host}/bundles",
        "RELEASE_KEY": str(key.path),
    }
