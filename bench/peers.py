"""baseimg and its alternatives. Each peer changes a node from one version to the other, and back."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from bench import measure
from bench.measure import Sample
from bench.place import Place
from bench.workloads import SOURCE, TARGET
from tests.support import node

VERSION = TARGET.rpartition(":")[2]


class Peer:
    """
    One way to do the work at one place.

    ``steps`` are the peer's steps, in order; :meth:`reset` then restores the place. ``once`` are steps too slow to be
    measured more than once.
    """

    name = ""
    steps: tuple[str, ...] = ("build", "apply", "rollback")
    once: tuple[str, ...] = ()

    def __init__(self, place: Place) -> None:
        self.place = place
        self.home = place.point / f"peer-{self.name}"
        self.home.mkdir()
        self.prepare()

    @classmethod
    def fits(cls, place: Place) -> bool:
        """Return True if this peer is measured with this workload."""
        return True

    def prepare(self) -> None:
        """Prepare the place before the measured work."""

    def build(self) -> Sample:
        raise NotImplementedError

    def apply(self) -> Sample:
        raise NotImplementedError

    def rollback(self) -> Sample:
        raise NotImplementedError

    def reset(self) -> None:
        """Remove the result of an apply."""

    def synced(self, sample: Sample) -> Sample:
        """Add the time of a sync to the sample of work that does not make its result durable."""
        sync, _ = measure.command("sync", "--file-system", self.place.point)
        for name in ("seconds", "process_seconds"):
            setattr(sample, name, getattr(sample, name) + getattr(sync, name))
        return sample


class Baseimg(Peer):
    """baseimg with a full bundle."""

    name = "baseimg"
    arguments: ClassVar[dict[str, Any]] = {}

    @property
    def bundle(self) -> Path:
        return self.home / "bundle.tar"

    def build(self) -> Sample:
        self.bundle.unlink(missing_ok=True)
        arguments = {"source": SOURCE, "target": TARGET, "bundle": str(self.bundle), **self.arguments}
        sample, _ = measure.ours(self.place.engine.url, "baseimg.build", **arguments)
        sample.wire_bytes = self.bundle.stat().st_size
        return sample

    def apply(self) -> Sample:
        sample, result = measure.ours(self.place.engine.url, "baseimg.apply", bundle=str(self.bundle))
        assert result["returned"]["changed"], result
        return sample

    def rollback(self) -> Sample:
        sample, result = measure.change(self.place.engine.url, "baseimg.rollback", base=SOURCE)
        assert result["returned"]["changed"], result
        return sample

    def reset(self) -> None:
        measure.ours(self.place.engine.url, "baseimg.prune", base=SOURCE, keep=0)


class Prepared(Baseimg):
    """baseimg with a content that was prepared before: what a maintenance window holds."""

    name = "baseimg-prepared"
    steps = ("apply", "rollback")

    def prepare(self) -> None:
        super().build()

    def apply(self) -> Sample:
        arguments = {"name": SOURCE, "version": VERSION, "bundles": {VERSION: {"source": str(self.bundle)}}}
        measure.ours(self.place.engine.url, "baseimg.prepare", **arguments)
        self.place.sync_disk()
        sample, result = measure.change(self.place.engine.url, "baseimg.converge", **arguments)
        assert result["returned"]["changed"], result
        return sample


class Delta(Baseimg):
    """baseimg with a delta bundle; measured if `baseimg.build` supports it."""

    name = "baseimg-delta"
    arguments: ClassVar[dict[str, Any]] = {"delta": "only"}

    @classmethod
    def fits(cls, place: Place) -> bool:
        _sample, result = measure.ours(place.engine.url, "sys.argspec", module="baseimg.build")
        return "delta" in result["returned"]["baseimg.build"]["args"]


class Old(Peer):
    """The shell scripts that baseimg replaces."""

    name = "old"

    def prepare(self) -> None:
        self.engine = self.place.another("old-node")
        self.layer = Path(node.layer_dirs(self.engine, SOURCE)[0])
        self.overlay = self.engine.data_root / "overlay2"
        self.pristine = self.home / "pristine"
        subprocess.run(["cp", "-a", self.layer, self.pristine], check=True)

    @property
    def archive(self) -> Path:
        return self.home / f"BASE-{VERSION}-diff.tar.gz"

    def build(self) -> Sample:
        sample = measure.script("old/build.sh", SOURCE, TARGET, self.home, env=_docker(self.place.engine.url))
        sample.wire_bytes = self.archive.stat().st_size
        return self.synced(sample)

    def apply(self) -> Sample:
        return self.synced(
            measure.script("old/apply.sh", self.overlay, SOURCE, self.archive, env=_docker(self.engine.url))
        )

    def rollback(self) -> Sample:
        return self.synced(measure.script("old/restore.sh", self.overlay, SOURCE.rpartition(":")[2]))

    def reset(self) -> None:
        for name in ("tmp", "backup"):
            shutil.rmtree(self.overlay / name)
        for entry in self.layer.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        subprocess.run(["cp", "-a", f"{self.pristine}/.", self.layer], check=True)


class Floor(Peer):
    """The minimal work with the system's own tools: no check, no record, no rollback."""

    name = "floor"
    steps = ("build", "apply")

    def prepare(self) -> None:
        changes = self.place.changes()
        changed = [change["path"] for action in ("added", "modified") for change in changes[action]]
        # the content of a directory that only changed stays
        replaced = [change["path"] for change in changes["modified"] if change["type"] != "directory"]
        gone = {*replaced, *(change["path"] for change in changes["removed"])}
        self.merged = self.place.mounted(self.place.target)
        self.changed, self.rest = self.home / "changed", self.home / "rest"
        self.changed.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in changed))
        self.rest.write_bytes(b"".join(path + b"\0" for path in _rest(self.place.source[0], gone)))

    def build(self) -> Sample:
        above = [layer for layer in self.place.target if layer not in self.place.source]
        sample = measure.script("floor/build.sh", self.merged, self.changed, self.archive, *above)
        sample.wire_bytes = self.archive.stat().st_size
        return sample

    def apply(self) -> Sample:
        return measure.script("floor/apply.sh", self.place.source[0], self.rest, self.archive, self.home / "new")

    def reset(self) -> None:
        shutil.rmtree(self.home / "new")

    @property
    def archive(self) -> Path:
        return self.home / "changed.tar.zst"


class Copy(Peer):
    """`cp -a` of the base's top layer."""

    name = "cp -a"
    steps = ("apply",)

    def apply(self) -> Sample:
        sample, _ = measure.command("cp", "-a", self.place.source[0], self.home / "copy")
        return self.synced(sample)

    def reset(self) -> None:
        shutil.rmtree(self.home / "copy")


def _rest(layer: Path, gone: set[str]) -> list[bytes]:
    """Return the layer's paths, except directories, that are neither changed nor removed."""
    paths = []
    for current, names, files in os.walk(layer):
        below = os.path.relpath(current, layer)
        links = [name for name in names if os.path.islink(os.path.join(current, name))]
        for name in [*files, *links]:
            path = os.path.normpath(os.path.join(below, name))
            above = path.split("/")
            if not any("/".join(above[:depth]) in gone for depth in range(1, len(above) + 1)):
                paths.append(os.fsencode(path))
    return sorted(paths)


def _docker(url: str) -> dict[str, str]:
    return {"DOCKER_HOST": url}
