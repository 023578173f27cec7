"""The surroundings of one operation on a node: its engine, its limits, whom it trusts, who watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .engine.base import Engine
from .model.policy.pillar import Source, Trust
from .model.policy.protection import Protection
from .progress import Progress

GRACE = 900  # seconds


def _admit_all() -> None:
    """No terms: every job may begin."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every operation on a node is given."""

    #: The engine whose store the operation works in.
    engine: Engine
    #: Turns the source of a bundle into a local path.
    fetch: Callable[[Source], str]
    #: Who asked for the operation, for the record and the history.
    by: str
    #: Seconds to wait for the lock of a base.
    lock_timeout: float
    #: Percentage of the file system that stays free.
    reserve: int = 0
    progress: Progress | None = None
    #: Whose signatures count.
    trust: Trust = field(default_factory=Trust)
    #: True if bundles may bring device nodes other than the usual ones.
    devices: bool = False
    #: Images that must not change.
    protection: Protection = field(default_factory=Protection)
    #: How a new generation shares data with the previous one (:func:`disk.store.links.choose`).
    link: str = "auto"
    #: Declared values of ``below`` by a base's reference or chain ID (:mod:`model.store.nests`).
    below: Mapping[str, str] = field(default_factory=dict)
    #: Raises if the job may not begin, checked under the lock of the base (:mod:`ops.job_terms`).
    admit: Callable[[], None] = _admit_all
    #: Seconds that a generation stays after it was swapped out: mount(2) may just have resolved its path.
    grace: float = GRACE
    #: By declared reference: the chain ID, if it is declared, or else the reference again; and the declared version.
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
