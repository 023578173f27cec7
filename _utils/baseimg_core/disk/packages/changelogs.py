"""Read the changelogs of changed packages for security advisories. Images without documentation have none."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from ...model.packages import advisories
from ...model.packages.advisories import NO_CHANGELOG, NamedAdvisories
from ...model.packages.difference import Packages
from ...model.stack import overlay
from ..stack.directories import Stack
from ..stack.tree import read_below
from . import databases
from .databases import DatabaseUnreadable

_DOCUMENTATION = b"usr/share/doc/"
_NAMES = (b"changelog.Debian.gz", b"changelog.gz")  # the second one of native packages
_MAX = 1 << 20  # bytes of a changelog; the newest entries are first


def read(source: Stack, target: Stack, packages: Packages) -> Mapping[str, NamedAdvisories]:
    """
    Return what the changelogs in an image name for each package that changed since another image.

    Args:
        source: The old image.
        target: The new image, whose changelogs are read.
        packages: The difference of both images.
    """
    if packages.manager == "rpm":
        return _of_rpm(source, target, packages)
    if packages.manager == "apk":  # apk's changelogs are not in images
        return dict.fromkeys(packages.changed, NamedAdvisories(unread=NO_CHANGELOG))
    old = {name: version for name, (_source, version) in databases.sources(source, packages.manager).items()}
    return {
        name: _of_debian(target, name, old.get(name.partition(":")[0], versions[0]))
        for name, versions in packages.changed.items()
    }


def _of_debian(target: Stack, name: str, installed: str) -> NamedAdvisories:
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
                return NamedAdvisories(unread="its changelog cannot be read")
            return advisories.of_debian(text.decode("utf-8", "replace"), installed)
    return NamedAdvisories(unread=NO_CHANGELOG)


def _of_rpm(source: Stack, target: Stack, packages: Packages) -> Mapping[str, NamedAdvisories]:
    try:
        old, new = (databases.rpm_changelogs(stack, packages.changed) for stack in (source, target))
    except DatabaseUnreadable as exc:
        return dict.fromkeys(packages.changed, NamedAdvisories(unread=str(exc)))
    return {name: advisories.of_rpm(new.get(name, ()), old.get(name, ())) for name in packages.changed}
