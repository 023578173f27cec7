"""The record of one base on a node: its generations, which one is live, and a swap in progress."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from ...errors import RecordInvalid, RecordNewer

FORMAT = 2
#: The formats that this version reads. Format 1 has no IDs and no digests, and its readers refuse unknown fields.
READABLE = (1, FORMAT)
#: Values of :attr:`Generation.proof`.
UNPROVEN, ENGINE, BUNDLE, FROM_START, ASSUMED = "", "engine", "bundle", "from-start", "assumed"


@dataclass(slots=True)
class Generation:
    """One complete content of the base's top layer directory."""

    #: 0 for the pristine content; numbers only grow.
    number: int
    #: The version, as operators name it.
    version: str
    #: Chain ID of the image that it shows.
    chain_id: str
    #: Last known inode of its directory; 0 if it has no directory.
    inode: int
    #: Digest of the bundle that it was built from or compared with; empty if there is none.
    bundle: str = ""
    #: Content bytes; 0 if unknown.
    bytes: int = 0
    #: Number of paths; 0 if unknown.
    paths: int = 0
    #: Time of its creation, ISO 8601 in UTC; empty if unknown.
    created: str = ""
    #: Time at which it last became live, ISO 8601 in UTC; empty if it never was.
    activated: str = ""
    #: Time at which it was made ahead of its first swap, ISO 8601 in UTC; empty if it was not.
    prepared: str = ""
    #: The requester of the operation that created it.
    by: str = ""
    #: True if prune must keep it.
    pinned: bool = False
    #: True if out-of-band changes were detected. It is then no starting generation and no rollback target.
    damaged: bool = False
    #: Time at which the changes were first recorded, ISO 8601 in UTC; empty if undamaged or unknown.
    damaged_since: str = ""
    #: Identities that signed all bundles it was built from; empty if a bundle is unsigned.
    signed_by: str = ""
    #: Its ID, also in the attribute ``trusted.baseimg.id`` of its directory; empty in a record of format 1.
    id: str = ""
    #: How its content was proven: ``engine``, ``bundle``, ``from-start`` or ``assumed``; empty if unproven.
    proof: str = ""
    #: View digest of the base with it over the pristine layers below; empty if unknown.
    view: str = ""
    #: Digest of its index; empty if it has no index or the index of an older release.
    index: str = ""
    #: Summary of out-of-band changes, for messages; empty if there are none.
    damage: str = ""
    #: Lower contents over which it is right, by chain ID of their base; empty for the pristine contents alone.
    over: dict[str, list[str]] = field(default_factory=dict)
    #: Fields of newer releases, kept unchanged.
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def can_be_source(self) -> bool:
        """True if a new generation may be built from it: undamaged, and pristine or proven."""
        return not self.damaged and bool(self.number == 0 or self.proof)

    @property
    def is_garbage(self) -> bool:
        """True if it never was live and is not kept for a later swap."""
        return not (self.activated or self.prepared)

    @property
    def is_prepared(self) -> bool:
        """True if it was made ahead and never was live."""
        return bool(self.prepared) and not self.activated

    def shows_the_same_as(self, other: Generation) -> bool:
        """True if both have one image, version and bundle: one is a mask of the other."""
        return (self.chain_id, self.version, self.bundle) == (other.chain_id, other.version, other.bundle)


@dataclass(slots=True)
class Intent:
    """A swap in progress between two generations."""

    #: Random ID, unique in the history.
    id: str
    #: Number of the generation that was live.
    before: int
    #: Number of the generation that becomes live.
    after: int
    #: The operation, for the history.
    action: str
    #: Time of its start, ISO 8601 in UTC.
    at: str
    #: The requester, for the history.
    by: str
    #: Fields of newer releases, kept unchanged.
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """The record of a base, stored in ``state.json``."""

    #: Name of the base's original image.
    reference: str
    #: Chain ID of the base.
    chain_id: str
    #: Diff IDs of its layers, bottom first.
    diff_ids: tuple[str, ...]
    #: The generations, by number; always has 0.
    generations: dict[int, Generation]
    #: Number of the live generation.
    current: int = 0
    #: Number of the generation that was live before, for a rollback; ``None`` if there is none.
    previous: int | None = None
    #: The highest number so far; numbers are not reused.
    highest: int = 0
    #: Other names by which the base was declared.
    names: list[str] = field(default_factory=list)
    #: The declared value of ``below`` at the last change of the nest (:mod:`nests`); empty for the default.
    below: str = ""
    #: Why an adoption could not restore the pristine content, which then has no directory; else empty.
    unproven: str = ""
    #: The swap in progress; ``None`` if there is none.
    intent: Intent | None = None
    #: Format of the file that was read; always saved as :data:`FORMAT`.
    format: int = FORMAT
    #: Fields of newer releases, kept unchanged.
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def pristine(self) -> Generation:
        """The generation of the base's original content."""
        return self.generations[0]

    @property
    def live(self) -> Generation:
        """The live generation."""
        return self.generations[self.current]

    @property
    def pristine_state(self) -> str:
        """State of the pristine content: ``kept``, ``damaged``, ``missing`` (out of band) or ``unproven``."""
        if self.pristine.damaged:
            return "damaged"
        return "kept" if self.pristine.inode else "unproven" if self.unproven else "missing"

    def by_chain(self, chain_id: str) -> Generation | None:
        """Return the newest usable generation that shows this image; ``None`` if there is none."""
        return self._newest([generation for generation in self.usable if generation.chain_id == chain_id])

    def by_version(self, version: str) -> Generation | None:
        """
        Return the newest usable generation with this version, or ``pristine``; ``None`` if there is none.

        The live generation wins over masks with the same content.
        """
        if version == "pristine":
            return self._newest([generation for generation in self.usable if generation.number == 0])
        newest = self._newest([generation for generation in self.usable if generation.version == version])
        live = self.live
        return live if newest and not live.damaged and live.shows_the_same_as(newest) else newest

    @property
    def usable(self) -> list[Generation]:
        """The undamaged generations that have a directory, oldest first."""
        return [self.generations[number] for number in self.present if not self.generations[number].damaged]

    @staticmethod
    def _newest(generations: list[Generation]) -> Generation | None:
        return max(generations, key=lambda generation: generation.number, default=None)

    @property
    def present(self) -> list[int]:
        """The numbers of the generations that were live or are prepared and have a directory, oldest first."""
        return [
            number
            for number, generation in sorted(self.generations.items())
            if number == self.current or (generation.inode and not generation.is_garbage)
        ]

    @property
    def next_number(self) -> int:
        """The number for a new generation."""
        return max(self.highest, *self.generations) + 1

    def date_damage(self, now: str) -> None:
        """Date damage that has no date yet, and clear the date of repaired generations; ``now`` is ISO 8601 in UTC."""
        for generation in self.generations.values():
            generation.damaged_since = (generation.damaged_since or now) if generation.damaged else ""

    def dump(self) -> bytes:
        """Return the record as JSON in the current format."""
        data = _plain(self)
        data["format"] = FORMAT
        data["generations"] = [_plain(generation) for _number, generation in sorted(self.generations.items())]
        data["intent"] = _plain(self.intent) if self.intent else None
        return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def _plain(part: Record | Generation | Intent) -> dict[str, Any]:
    data = asdict(part)
    return {**data.pop("extra"), **data}


def parse(data: bytes, where: str) -> Record:
    """
    Parse a record. Unknown fields are kept for the newer release that wrote them.

    Args:
        data: The content of the file.
        where: The path of the file, for messages.

    Raises:
        RecordInvalid: The record is damaged.
        RecordNewer: The record has a format that this version does not read.
    """
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] not in READABLE:
            raise RecordNewer(f"{where} has format version {raw['format']}, this baseimg reads up to {FORMAT}")
        generations = [_from_known_fields(Generation, generation) for generation in raw.pop("generations")]
        intent = raw.pop("intent")
        raw["diff_ids"] = tuple(raw["diff_ids"])
        raw["generations"] = {generation.number: generation for generation in generations}
        raw["intent"] = _from_known_fields(Intent, intent) if intent else None
        record = _from_known_fields(Record, raw)
        named = {0, record.current, record.previous or 0}
        if record.intent:
            named |= {record.intent.before, record.intent.after}
        sound = named <= record.generations.keys() and all(type(number) is int for number in record.generations)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(f"{where} is damaged: {exc.__class__.__name__}: {exc}") from exc
    if not sound:
        raise RecordInvalid(f"{where} is damaged: it names generations that it does not have")
    return record


_Part = TypeVar("_Part", Record, Generation, Intent)


def _from_known_fields(kind: type[_Part], raw: Mapping[str, Any]) -> _Part:
    """Create an object from the known fields; unknown fields go to ``extra``."""
    names = {field.name for field in fields(kind)} - {"extra"}
    known = {name: value for name, value in raw.items() if name in names}
    return kind(**known, extra={name: value for name, value in raw.items() if name not in names})
