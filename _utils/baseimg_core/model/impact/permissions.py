"""Access of an image's user to files: path_resolution(7), "Permissions"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..stack import overlay
from ..stack.entry import Kind
from . import view as views
from .view import View, ViewNode

READ, EXECUTE = 4, 1
PASSWD, GROUP = b"etc/passwd", b"etc/group"


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and the groups of a process."""

    #: User ID.
    uid: int
    #: Group IDs.
    gids: frozenset[int]

    def may(self, node: ViewNode, bit: int) -> bool:
        """True if the permission bits of a file or directory grant READ or EXECUTE."""
        if self.uid == 0:
            return bit != EXECUTE or bool(node.mode & 0o111) or node.kind is Kind.DIRECTORY
        shift = 6 if node.uid == self.uid else 3 if node.gid in self.gids else 0
        return bool(node.mode >> shift & bit)


def identity(user: str, passwd: bytes, group: bytes) -> Identity | None:
    """
    Return the identity of an image's ``USER``, as engines resolve it.

    Args:
        user: ``USER`` or ``USER:GROUP``, each a name or a number; empty for root.
        passwd: The content of the image's ``/etc/passwd``.
        group: The content of the image's ``/etc/group``.

    Returns:
        User and groups; ``None`` if the image has no such account or group.
    """
    name, _, named_group = (user or "0").partition(":")
    accounts, groups = list(_records(passwd, 4)), list(_records(group, 3))
    account = next((fields for fields in accounts if name in (fields[0], fields[2])), None)
    if account is None and not name.isdigit():
        return None
    uid = int(account[2]) if account else int(name)
    gids = {int(account[3])} if account and account[3].isdigit() else {0}
    if named_group:
        own = next((fields[2] for fields in groups if fields[0] == named_group), named_group)
        if not own.isdigit():
            return None
        gids = {int(own)}
    if account:
        gids |= {int(fields[2]) for fields in groups if account[0] in ",".join(fields[3:]).split(",")}
    return Identity(uid, frozenset(gids))


def _records(content: bytes, count: int) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) >= count and fields[2].isascii() and fields[2].isdigit():
            yield fields


def is_reachable(view: View, identity: Identity, path: bytes, bit: int) -> bool:
    """
    True if a process may read or execute a file.

    Args:
        view: The file system.
        identity: The user and the groups of the process.
        path: The path.
        bit: READ or EXECUTE.
    """
    resolved = views.resolve(view, path)
    node = view.lookup(resolved) if resolved else None
    if not resolved or node is None or not identity.may(node, bit):
        return False
    above = [step for name in (resolved, path.strip(b"/")) for step in overlay.ancestors(name)]
    directories = filter(None, map(view.lookup, above))
    return all(identity.may(step, EXECUTE) for step in directories if step.kind is Kind.DIRECTORY)
