"""Engines that map their containers' users to others store layers with shifted owners; bundles have the image's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import LayerUnsupported
from .entry import Entry

_ALL = 1 << 32


@dataclass(frozen=True, slots=True)
class Owners:
    """
    How a store shifts owners: ID 0 of an image is ``uid`` (``gid``) on disk, and so on for ``count`` of them.

    File capabilities are not shifted: engines store them as they come, and the kernel ignores them in such containers.
    """

    uid: int = 0
    gid: int = 0
    count: int = _ALL

    @property
    def shifted(self) -> bool:
        return bool(self.uid or self.gid)

    def stored(self, entry: Entry) -> Entry:
        """An image's entry as it is on disk."""
        if not self.shifted:
            return entry
        self._check(entry.uid, entry.gid)
        return replace(entry, uid=entry.uid + self.uid, gid=entry.gid + self.gid)

    def original(self, entry: Entry) -> Entry:
        """An entry on disk as the image has it."""
        if not self.shifted:
            return entry
        uid, gid = entry.uid - self.uid, entry.gid - self.gid
        self._check(uid, gid)
        return replace(entry, uid=uid, gid=gid)

    def _check(self, *numbers: int) -> None:
        for number in numbers:
            if not 0 <= number < self.count:
                raise LayerUnsupported(
                    f"owner {number} is outside of the {self.count} IDs that this engine maps (userns-remap)",
                    "give the engine's user a larger range in /etc/subuid and /etc/subgid",
                )
