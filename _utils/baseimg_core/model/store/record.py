"""What a node remembers of one base: its generations, which one is live, and a swap that is under way."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import RecordInvalid, RecordNewer

FORMAT = 1


@dataclass(slots=True)
class Generation:
    """
    One complete content of the base's top layer directory.

    ``inode`` is that of the directory itself, which keeps it wherever it is renamed to. ``chain_id`` is that of the
    image whose content it shows. ``bundle`` is the digest of the bundle file it was made from, empty for the pristine
    one. ``bytes`` and ``paths`` say what it holds, ``created`` and ``activated`` are ISO 8601 in UTC, empty for
    never. ``pinned`` keeps it
    from being pruned. ``damaged`` says that it was found changed, so nothing may start from it or go back to it.
    ``signed_by`` is who vouched for the bundles that it was made from last, empty for nobody.
    """

    number: int
    version: str
    chain_id: str
    inode: int
    bundle: str = ""
    bytes: int = 0
    paths: int = 0
    created: str = ""
    activated: str = ""
    by: str = ""
    pinned: bool = False
    damaged: bool = False
    signed_by: str = ""
    #: By chain ID of a base below: the contents over which it is right; empty for the pristine ones alone.
    over: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Intent:
    """A swap between two generations that has been begun; ``action`` and ``by`` end up in the history."""

    id: str
    before: int
    after: int
    action: str
    at: str
    by: str


@dataclass(slots=True)
class Record:
    """
    The record of a base, as it is kept in ``state.json``. Generation 0 is the pristine one; ``highest`` is the highest
    number so far, since numbers are not used again. ``unproven`` says why the pristine content could not be restored
    when the base was adopted; then its generation has no directory.
    """

    reference: str
    chain_id: str
    diff_ids: tuple[str, ...]
    generations: dict[int, Generation]
    current: int = 0
    previous: int | None = None
    highest: int = 0
    unproven: str = ""
    intent: Intent | None = None
    format: int = field(default=FORMAT)

    @property
    def pristine(self) -> Generation:
        return self.generations[0]

    @property
    def pristine_state(self) -> str:
        """
        Whether the pristine content is ``kept``, or why not: ``unproven``, ``missing`` (somebody removed it), or
        ``damaged``.
        """
        if self.pristine.damaged:
            return "damaged"
        return "kept" if self.pristine.inode else "unproven" if self.unproven else "missing"

    def by_inode(self, inode: int) -> Generation | None:
        """The generation whose directory has this inode."""
        return next((one for one in self.generations.values() if one.inode == inode), None)

    def by_chain(self, chain_id: str) -> Generation | None:
        """A generation that can show this image's content, the newest of several."""
        return self._newest([one for one in self.usable if one.chain_id == chain_id])

    def by_version(self, version: str) -> Generation | None:
        """The generation that people call ``version`` (or ``pristine``), the newest of several."""
        if version == "pristine":
            return self._newest([one for one in self.usable if one.number == 0])
        return self._newest([one for one in self.usable if one.version == version])

    @property
    def usable(self) -> list[Generation]:
        """The generations that are there and were not found damaged, oldest first."""
        return [self.generations[number] for number in self.present if not self.generations[number].damaged]

    @staticmethod
    def _newest(found: list[Generation]) -> Generation | None:
        return max(found, key=lambda one: one.number, default=None)

    @property
    def present(self) -> list[int]:
        """The numbers of the generations that have been live and are still there, oldest first."""
        return [
            number
            for number, one in sorted(self.generations.items())
            if number == self.current or (one.activated and one.inode)
        ]

    @property
    def next_number(self) -> int:
        return max(self.highest, *self.generations) + 1

    def dump(self) -> bytes:
        data = asdict(self)
        data["generations"] = [_plain(one) for _number, one in sorted(self.generations.items())]
        return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def _plain(generation: Generation) -> dict[str, Any]:
    """A generation's fields; ``over`` only where it says something, so that older releases read the other records."""
    data = asdict(generation)
    if not generation.over:
        del data["over"]
    return data


def parse(data: bytes, where: str) -> Record:
    """Read a record; raises :class:`RecordInvalid` for a damaged one, :class:`RecordNewer` for another format."""
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] != FORMAT:
            raise RecordNewer(f"{where} has format version {raw['format']}, this baseimg reads {FORMAT}")
        generations = {one["number"]: Generation(**one) for one in raw.pop("generations")}
        intent = raw.pop("intent")
        raw["diff_ids"] = tuple(raw["diff_ids"])
        record = Record(generations=generations, intent=Intent(**intent) if intent else None, **raw)
        named = {0, record.current, record.previous or 0}
        if record.intent:
            named |= {record.intent.before, record.intent.after}
        sound = named <= generations.keys() and all(type(number) is int for number in generations)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(f"{where} is damaged: {exc.__class__.__name__}: {exc}") from exc
    if not sound:
        raise RecordInvalid(f"{where} is damaged: it names generations that it does not have")
    return record
