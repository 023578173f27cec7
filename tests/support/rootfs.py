"""
Engines of other Debian releases: trees that `scripts/engines.sh` made, entered with the machine's own kernel and /tmp.

Everything that is mounted for it lies in a mount namespace of its own and goes with its last process.
"""

from __future__ import annotations

import os
from pathlib import Path

# The tree becomes the root of the mount namespace, not only of a process: `exec` enters a container's through that.
# What is given below these must have the same path on both sides.
ENTER = """
root=$1; shift
mount --bind "$root" "$root"
for dir in dev proc sys run tmp; do mount --rbind "/$dir" "$root/$dir"; done
cd "$root"
pivot_root . mnt
umount --lazy /mnt
exec /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""


def suites() -> dict[str, Path]:
    """The trees that are there, by Debian's name of the release; none unless `make engines` asks for them."""
    cache = os.environ.get("BASEIMG_ENGINES")
    return {path.name: path for path in sorted(Path(cache).iterdir()) if path.is_dir()} if cache else {}


def enter(root: Path | None, *command: str) -> list[str]:
    """The command, to be run in a tree, or here where there is none."""
    if root is None:
        return list(command)
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", ENTER, "sh", str(root), *command]


def wrapper(root: Path, name: str, directory: Path) -> None:
    """A program `name` in a directory for PATH that runs the tree's own."""
    directory.mkdir(exist_ok=True)
    script = directory / name
    inner = enter(root, f"/usr/bin/{name}")
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in inner)
    script.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    script.chmod(0o755)
