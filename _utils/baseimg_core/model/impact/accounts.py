"""Accounts and groups whose number a new base changes: passwd(5), group(5)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenumberedAccount:
    """An account or a group whose number changed."""

    #: ``account`` or ``group``.
    kind: str
    #: The name of the account or group.
    name: str
    #: The number in the old base.
    old: int
    #: The number in the new base; ``None`` if the new base does not have this name.
    new: int | None

    @property
    def text(self) -> str:
        """The change, for people."""
        return f"{self.kind} {self.name}: {self.old} -> {'removed' if self.new is None else self.new}"


def parse(data: bytes) -> dict[str, int]:
    """Return the numbers by name in a passwd or group file. Malformed lines are skipped, as in libc."""
    numbers: dict[str, int] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[2].isascii() and fields[2].isdigit():
            numbers.setdefault(fields[0], int(fields[2]))
    return numbers


def renumbered(kind: str, old: bytes, new: bytes) -> list[RenumberedAccount]:
    """
    Compare two passwd or group files.

    Args:
        kind: ``account`` or ``group``.
        old: The content of the file in the old base.
        new: The content of the file in the new base.

    Returns:
        The names whose number changed or that were removed.
    """
    before, after = parse(old), parse(new)
    return [
        RenumberedAccount(kind, name, number, after.get(name))
        for name, number in sorted(before.items())
        if after.get(name) != number
    ]
