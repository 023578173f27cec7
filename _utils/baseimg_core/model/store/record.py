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

    #: 0 is the pristine content; numbers only grow.
    number: int
    #: The name that people give to this content.
    version: str
    #: Chain ID of the image whose content it shows.
    chain_id: str
    #: Inode of its directory when last seen; 0 if it has no directory.
    inode: int
    #: Digest of the bundle file that it was made from or compared with; empty if there is none.
    bundle: str = ""
    #: Content bytes, as far as known.
    bytes: int = 0
    #: Number of paths, as far as known.
    paths: int = 0
    #: Time at which it was made, ISO 8601 in UTC; empty if unknown.
    created: str = ""
    #: Time at which it last became live, ISO 8601 in UTC; empty for never (garbage).
    activated: str = ""
    #: The requester of the operation that made it.
    by: str = ""
    #: True if prune must keep it.
    pinned: bool = False
    #: True if it was found changed: nothing starts from it or goes back to it.
    damaged: bool = False
    #: Identities that vouch for every bundle it was made from; empty if one of them is unsigned.
    signed_by: str = ""
    #: Its own ID, also in the attribute ``trusted.baseimg.id`` of its directory; empty in a record of format 1.
    id: str = ""
    #: How its content was proven: ``engine``, ``bundle``, ``from-start`` or ``assumed``; empty if it was not.
    proof: str = ""
    #: Digest of what the base shows with it over the pristine contents of the layers below; empty if unknown.
    view: str = ""
    #: Digest of its index; empty if it has none or the index is of an older release.
    index: str = ""
    #: What was found changed, for people; empty if nothing was.
    damage: str = ""
    #: By chain ID of a base below, the view digests over which it is right; empty for the pristine contents alone.
    over: dict[str, list[str]] = field(default_factory=dict)
    #: Fields of newer releases, kept as they are.
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def can_start(self) -> bool:
        """True if a new generation may be made from it: pristine, or proven; and not damaged."""
        return not self.damaged and bool(self.number == 0 or self.proof)


@dataclass(slots=True)
class Intent:
    """A swap between two generations that has begun."""

    #: Random; the history has each ID once.
    id: str
    #: Number of the generation that was live.
    before: int
    #: Number of the generation that becomes live.
    after: int
    #: The operation, for the history.
    action: str
    #: Time of its beginning, ISO 8601 in UTC.
    at: str
    #: The requester, for the history.
    by: str
    #: Fields of newer releases, kept as they are.
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """The record of a base, as kept in ``state.json``."""

    #: Name of the base's original image.
    reference: str
    #: Chain ID of the base.
    chain_id: str
    #: Diff IDs of its layers, bottom first.
    diff_ids: tuple[str, ...]
    #: The generations by number; 0 is always there.
    generations: dict[int, Generation]
    #: Number of the live generation.
    current: int = 0
    #: Number of the generation before it, for a rollback; ``None`` if there is none.
    previous: int | None = None
    #: The highest number so far; numbers are not reused.
    highest: int = 0
    #: Why an adoption could not restore the pristine content, which then has no directory; else empty.
    unproven: str = ""
    #: A swap in progress.
    intent: Intent | None = None
    #: Format of the file that it was read from; always saved as :data:`FORMAT`.
    format: int = FORMAT
    #: Fields of newer releases, kept as they are.
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
        """State of the pristine content: ``kept``, ``damaged``, ``missing`` (removed by hand), or ``unproven``."""
        if self.pristine.damaged:
            return "damaged"
        return "kept" if self.pristine.inode else "unproven" if self.unproven else "missing"

    def by_chain(self, chain_id: str) -> Generation | None:
        """Return the newest usable generation that shows this image's content."""
        return self._newest([generation for generation in self.usable if generation.chain_id == chain_id])

    def by_version(self, version: str) -> Generation | None:
        """Return the newest usable generation that people call ``version`` (or ``pristine``)."""
        if version == "pristine":
            return self._newest([generation for generation in self.usable if generation.number == 0])
        return self._newest([generation for generation in self.usable if generation.version == version])

    @property
    def usable(self) -> list[Generation]:
        """The generations that have a directory and were not found damaged, oldest first."""
        return [self.generations[number] for number in self.present if not self.generations[number].damaged]

    @staticmethod
    def _newest(generations: list[Generation]) -> Generation | None:
        return max(generations, key=lambda generation: generation.number, default=None)

    @property
    def present(self) -> list[int]:
        """The numbers of the generations that have been live and have a directory, oldest first."""
        return [
            number
            for number, generation in sorted(self.generations.items())
            if number == self.current or (generation.activated and generation.inode)
        ]

    @property
    def next_number(self) -> int:
        """The number for a new generation."""
        return max(self.highest, *self.generations) + 1

    def dump(self) -> bytes:
        """The record as JSON, in the present format."""
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
    Read a record. Unknown fields are kept, for the release that wrote them.

    Args:
        data: the content of the file.
        where: the path of the file, for messages.

    Raises:
        RecordInvalid: it is damaged.
        RecordNewer: it has a format that this version does not read.
    """
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] not in READABLE:
            raise RecordNewer(f"{where} has format version {raw['format']}, this baseimg reads up to {FORMAT}")
        generations = [_tolerant(Generation, generation) for generation in raw.pop("generations")]
        intent = raw.pop("intent")
        raw["diff_ids"] = tuple(raw["diff_ids"])
        raw["generations"] = {generation.number: generation for generation in generations}
        raw["intent"] = _tolerant(Intent, intent) if intent else None
        record = _tolerant(Record, raw)
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


def _tolerant(kind: type[_Part], raw: Mapping[str, Any]) -> _Part:
    """Make an object of the fields that this version knows, and keep the others in ``extra``."""
    names = {one.name for one in fields(kind)} - {"extra"}
    known = {name: value for name, value in raw.items() if name in names}
    return kind(**known, extra={name: value for name, value in raw.items() if name not in names})
