"""Debian workloads: a base image with Java and its security updates, as two more layers or rebuilt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from bench.images import Layer, layer
from tests.support import apt
from tests.support.mounts import unmount_below

SUITE = "bookworm"
PACKAGES = ["ca-certificates", "curl", "openssl", "python3-minimal", "openjdk-17-jre-headless", "procps", "cron"]
APT = ("apt-get", "-q", "--yes", "--no-install-recommends", "--option=APT::Sandbox::User=root")
# A base image has no package lists and no files that record the installation's time.
LEAVINGS = ("var/lib/apt/lists", "var/cache/apt", "var/log", "var/cache/ldconfig")


def make(where: Path) -> tuple[list[Layer], list[Layer]]:
    """Return the layers of ``12.0`` (as released) and of ``12.1`` (upgraded, documentation removed)."""
    tree, upgraded, slim = where / "tree", where / "upgraded", where / "slim"
    for directory in (tree, upgraded, slim):
        shutil.rmtree(directory, ignore_errors=True)
    sources = _sources()
    _run("debootstrap", "--variant=minbase", SUITE, tree, sources[0].mirror)
    _packages(tree, sources[:1], "install", *PACKAGES)
    released = _pack(where / "0.tar", tree, [])
    with _Overlay(where, upgraded, [tree]) as point:
        _packages(point, sources, "dist-upgrade")
    with _Overlay(where, slim, [upgraded, tree]) as point:
        for name in ("doc", "man"):
            shutil.rmtree(point / "usr/share" / name)
    layers = [released, _pack(where / "1.tar", upgraded, [tree]), _pack(where / "2.tar", slim, [upgraded, tree])]
    for directory in (tree, upgraded, slim):
        shutil.rmtree(directory)
    return layers[:1], layers


def rebuilt(where: Path, archive: Path) -> tuple[list[Layer], list[Layer]]:
    """Return the released layer of the archive, and a rebuilt target: the same packages, installed later."""
    _source, target = make(where)
    released = where / "released.tar"
    with tarfile.open(archive) as tar:
        (image,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        with tar.extractfile(image["Layers"][0]) as file, released.open("wb") as out:  # type: ignore[union-attr]
            shutil.copyfileobj(file, out)
    return [layer(released)], target


def _sources() -> list[apt.Source]:
    """Return the release's source, then its updates; the tree fetches its own package lists."""
    try:
        sources = apt.sources(SUITE)
    except apt.MirrorMissing as error:
        raise SystemExit(f"bench: {error}") from error
    if len(sources) < 2:
        raise SystemExit(f"bench: apt has no mirror of {SUITE}-security; add one to /etc/apt/sources.list.d")
    return sources


def _packages(root: Path, sources: Sequence[apt.Source], *command: str) -> None:
    """Run `apt-get COMMAND` in a tree without starting services, then clean up."""
    (root / "etc/apt/sources.list").write_text("".join(f"{source}\n" for source in sources))
    lent = [Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt")]
    kept = {path: _bytes(root / path.relative_to("/")) for path in lent}
    for path in lent:
        (root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to("/"))
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    (root / "proc").mkdir(exist_ok=True)
    _run("mount", "--bind", "/proc", root / "proc")
    try:
        _run("chroot", root, *APT, *apt.UPDATE)
        _run("chroot", root, *APT, *command)
    finally:
        _run("umount", root / "proc")
    policy.unlink()
    for path in lent:
        inside = root / path.relative_to("/")
        if kept[path] is None and path.name == "resolv.conf":
            inside.unlink()
    for name in LEAVINGS:
        for file in sorted((root / name).rglob("*"), reverse=True):
            if not file.is_dir() or file.is_symlink():
                file.unlink()


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


class _Overlay:
    """An overlay whose changes stay in ``upper``, above ``lower`` (top first)."""

    def __init__(self, where: Path, upper: Path, lower: Sequence[Path]) -> None:
        self._work, self._point = where / "work", where / "point"
        self._upper, self._lower = upper, lower

    def __enter__(self) -> Path:
        for directory in (self._work, self._point, self._upper):
            directory.mkdir()
        lower = ":".join(map(str, self._lower))
        options = f"lowerdir={lower},upperdir={self._upper},workdir={self._work},redirect_dir=off,metacopy=off"
        _run("mount", "-t", "overlay", "overlay", "-o", options, self._point)
        return self._point

    def __exit__(self, *_: object) -> None:
        unmount_below(self._point)
        self._point.rmdir()
        shutil.rmtree(self._work)


def _pack(path: Path, directory: Path, below: Sequence[Path]) -> Layer:
    """Pack a directory that an overlay has written as a layer; removals become OCI whiteouts."""
    for current, names, files in os.walk(directory):
        times = os.stat(current)
        for name in [*files, *names]:
            status = os.lstat(os.path.join(current, name))
            if status.st_rdev == 0 and (status.st_mode & 0o170000) == 0o020000:
                os.unlink(os.path.join(current, name))
                Path(current, f".wh.{name}").touch()
        if below and "trusted.overlay.opaque" in os.listxattr(current):
            Path(current, ".wh..wh..opq").touch()
        os.utime(current, ns=(times.st_atime_ns, times.st_mtime_ns))
    return _tar(path, directory)


def _tar(path: Path, directory: Path) -> Layer:
    command = ["tar", "--create", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--sort=name"]
    command += ["--numeric-owner", "--xattrs", "--xattrs-include=security.*", "--xattrs-include=user.*"]
    _run(*command, "--file", path, "-C", directory, ".")
    return layer(path)


def _run(*command: str | Path) -> str:
    environment = {
        "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        **{name: value for name, value in os.environ.items() if name.endswith("_proxy")},
    }
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout
