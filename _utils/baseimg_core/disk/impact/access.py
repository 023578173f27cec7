"""The access of an image's user to the files of its base: what a new base takes away."""

from __future__ import annotations

from ...model.impact import permissions, view
from ...model.impact.config import ProcessConfig
from ...model.impact.permissions import EXECUTE, GROUP, PASSWD, READ
from ...model.impact.view import FileUnreadable
from ...model.stack.entry import Kind
from .change import BaseChange
from .view import LayeredView

_SETID = 0o6000


class Access:
    """The access of one image's user, over the old and over the new base."""

    def __init__(self, change: BaseChange, old: LayeredView, new: LayeredView, config: ProcessConfig) -> None:
        """
        Args:
            change: The change of the base.
            old: The image over the old base.
            new: The image over the new base.
            config: The configuration of the image.
        """
        self._change, self._old, self._new = change, old, new
        self._before = self._after = None
        if change.restricted or change.renumbered:
            self._before, self._after = (_identity(side, config.user) for side in (old, new))

    def is_denied(self, path: bytes, bit: int = READ) -> bool:
        """True if the user may read (or execute) a path over the old base, and may not over the new base."""
        if self._before is None or self._after is None or view.resolve(self._new, path) in (None, b""):
            return False
        return permissions.is_reachable(self._old, self._before, path, bit) and not permissions.is_reachable(
            self._new, self._after, path, bit
        )

    def is_execution_denied(self, path: bytes) -> bool:
        """True if the user may execute a path over the old base, and may not over the new base."""
        return self.is_denied(path, EXECUTE)

    def lost_privilege(self, path: bytes) -> str:
        """Return the privilege that a program of the base lost: ``setuid``, ``capabilities``; empty for none."""
        after = self._change.new_view.find(path)
        if self._after is None or self._after.uid == 0 or after is None or after.kind is not Kind.FILE:
            return ""
        before, own = self._change.old_view.find(path), self._new.lookup(path)
        if before is None or own is None or own.own:
            return ""
        if before.mode & _SETID & ~after.mode:
            return "setuid or setgid"
        is_lost = path in self._change.expected.by_path and self._change.loses_capability(path)
        return "capabilities" if is_lost else ""


def _identity(side: LayeredView, user: str) -> permissions.Identity | None:
    try:
        return permissions.identity(user, side.content(PASSWD), side.content(GROUP))
    except FileUnreadable:
        return None
