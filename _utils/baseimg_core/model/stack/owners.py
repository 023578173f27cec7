"""
Shifted owners of layers on disk.

An engine with user namespaces (userns-remap) stores layers with mapped user and group IDs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import LayerUnsupported
from .entry import Entry

_ALL = 1 << 32


@dataclass(frozen=True, slots=True)
class Owners:
    """
    The mapping between an image's owners and the owners on disk.

    Bundles always have the image's owners. File capabilities are not mapped: engines store them unchanged, and the
    kernel ignores them in these containers.
    """

    #: User ID on disk for the image's user 0.
    uid: int = 0
    #: Group ID on disk for the image's group 0.
    gid: int = 0
    #: Number of mapped IDs.
    count: int = _ALL

    @property
    def shifted(self) -> bool:
        """True if owners on disk differ from those of the image."""
        return bool(self.uid or self.gid)

    def to_disk(self, entry: Entry) -> Entry:
        """
        Return an image's entry with the owners on disk.

        Raises:
            LayerUnsupported: An owner is outside the mapped range.
        """
        if not self.shifted:
            return entry
        self._check(entry.uid, entry.gid)
        return replace(entry, uid=entry.uid + self.uid, gid=entry.gid + self.gid)

    def original(self, entry: Entry) -> Entry:
        """
        Return an entry on disk with the image's owners.

        Raises:
            LayerUnsupported: An owner is outside the mapped range.
        """
        if not self.shifted:
            return entry
        uid, gid = entry.uid - self.uid, entry.gid - self.gid
        self._check(uid, gid)
        return replace(entry, uid=uid, gid=gid)

    def _check(self, *numbers: int) -> None:
        for number in numbers:
            if not 0 <= number < self.count:
                raise LayerUnsupported(
                    f"owner {number} is outside the range of {self.count} IDs that this engine maps (userns-remap)",
                    "give the engine's user a larger range in /etc/subuid and /etc/subgid",
                )
