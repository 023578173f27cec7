"""Read the changelogs of changed packages for security advisories. Images without documentation have none."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from ...model.packages import advisories
from ...model.packages.difference import Packages, with_fixes
from ...model.stack import overlay
from ..stack.directories import Stack
from ..stack.tree import read_below
from . import databases
from .databases import Unreadable, rpm_changelogs

_DOCUMENTATION = b"usr/share/doc/"
_NAMES = (b"changelog.Debian.gz", b"changelog.gz")  # the second one of native packages
_MAX = 1 << 20  # bytes of a changelog; the newest entries are first


def difference(source: Stack, target: Stack) -> Packages | None:
    """Return the package difference between two stacks with the advisories; ``None`` if neither has a database."""
    packages = databases.difference(source, target)
    return with_fixes(packages, _fixes(source, target, packages)) if packages else None


def _fixes(source: Stack, target: Stack, packages: Packages) -> Mapping[str, tuple[str, ...]]:
    named: Mapping[str, tuple[str, ...]] = {}  # apk's changelogs are not in images
    if packages.manager == "dpkg":
        named = {name: _of_debian(target, name, versions[0]) for name, versions in packages.changed.items()}
    elif packages.manager == "rpm":
        named = _of_rpm(source, target, packages)
    return {name: listed for name, listed in named.items() if listed}


def _of_debian(target: Stack, name: str, installed: str) -> tuple[str, ...]:
    directory = _DOCUMENTATION + name.partition(":")[0].encode()
    node = target.find(directory)
    if node and not node.is_dir:  # one package's directory may be a link to that of another one
        entry, _inode, _links = target.read(node.top)
        directory = overlay.join(_DOCUMENTATION.rstrip(b"/"), entry.target)
    for path in (overlay.join(directory, file) for file in _NAMES):
        node = target.find(path)
        if node and not node.is_dir:
            try:
                data = read_below(node.top[: -len(path) - 1], path, _MAX)
                text = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, _MAX)
            except (OSError, zlib.error):
                continue
            return advisories.of_debian(text.decode("utf-8", "replace"), installed)
    return ()


def _of_rpm(source: Stack, target: Stack, packages: Packages) -> Mapping[str, tuple[str, ...]]:
    try:
        old, new = (rpm_changelogs(stack, packages.changed) for stack in (source, target))
    except Unreadable:
        return {}
    return {name: advisories.of_rpm(entries, old.get(name, ())) for name, entries in new.items()}
