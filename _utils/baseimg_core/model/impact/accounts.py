"""Accounts and groups of which a new base changes the number: passwd(5), group(5)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Renumbered:
    """An account or a group whose number changed."""

    kind: str
    name: str
    old: int
    #: ``None`` if the new base has no account of this name.
    new: int | None

    @property
    def text(self) -> str:
        """The change, for people."""
        return f"{self.kind} {self.name}: {self.old} -> {'removed' if self.new is None else self.new}"


def parse(data: bytes) -> dict[str, int]:
    """Numbers by name in a passwd or group file; malformed lines are left out, as the C library does."""
    numbers: dict[str, int] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[2].isascii() and fields[2].isdigit():
            numbers.setdefault(fields[0], int(fields[2]))
    return numbers


def renumbered(kind: str, old: bytes, new: bytes) -> list[Renumbered]:
    """
    Compare two passwd or group files.

    Args:
        kind: ``account`` or ``group``.
        old: the file's content before.
        new: the file's content afterwards.

    Returns:
        The names that have another number or none.
    """
    before, after = parse(old), parse(new)
    return [
        Renumbered(kind, name, number, after.get(name))
        for name, number in sorted(before.items())
        if after.get(name) != number
    ]
