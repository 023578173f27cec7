"""What a container shows in place of its image's files: its writable layer, and what is mounted over them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine import mounts
from ...engine.base import Container, Engine
from ...engine.live_mounts import LiveMounts
from ...model.impact import config as configs


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """The files of a container that are not its image's."""

    #: The directory of its writable layer.
    directory: str
    #: Where something else is mounted, as absolute paths.
    mounts: frozenset[str]


def own_files(engine: Engine, container: Container, image_config: Mapping[str, Any]) -> OwnFiles | None:
    """
    Return what a container shows in place of its image's files; ``None`` if that is not known.

    The kernel says it of a running container: engines do not report all mounts, for example those of ``--tmpfs``.

    Args:
        engine: The engine.
        container: The container.
        image_config: The raw configuration of its image, for containers without one.
    """
    declared = {*configs.parse(container.config or image_config).volumes, *container.volumes}
    table = mounts.read_mounts(container.pid) if container.pid else []
    table = LiveMounts(engine.layers_root).others(table) if table else table
    directory = container.upper or _writable(table) or engine.own_directory(container)
    if not os.path.isdir(directory):
        return None
    return OwnFiles(directory, frozenset(declared | {os.fsdecode(each.point) for each in table if each.point != b"/"}))


def _writable(table: Iterable[mounts.Mount]) -> str:
    roots = [mount for mount in table if mount.point == b"/"]
    return os.fsdecode(roots[-1].options.get(b"upperdir", b"")) if roots else ""
