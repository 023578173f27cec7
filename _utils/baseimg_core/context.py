"""The context of one operation on a node: engine, limits, trust, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .engine.base import Engine, Place
from .linux.pace import Pace
from .model.policy.image_policy import Protection
from .model.policy.pillar import Source, Trust
from .progress import Progress

GRACE = 900  # seconds
PREPARE_RATE = 20  # MB a second


def _admit_all() -> None:
    """Admit every job: the default without job terms."""


def _no_digest(_place: str) -> None:
    """Return ``None``: without a Salt master no digest is known."""


@dataclass(frozen=True, slots=True)
class Context:
    """The context of one operation on a node."""

    #: The engine whose store the operation changes.
    engine: Engine
    #: Fetches a bundle from its source and returns its local path.
    fetch: Callable[[Source], str]
    #: The requester, for the record and the history.
    by: str
    #: Seconds to wait for the lock of a base.
    lock_timeout: float
    #: Percentage of the file system that must stay free.
    reserve: int = 0
    #: Called with the progress of the operation; ``None`` for no reports.
    progress: Progress | None = None
    #: The trusted keys, and whether signatures are required.
    trust: Trust = field(default_factory=Trust)
    #: True if bundles may contain device nodes that containers do not have by default.
    devices: bool = False
    #: The protected images.
    protection: Protection = field(default_factory=Protection)
    #: How a new generation shares data with the previous one (:func:`disk.store.links.resolve`).
    link: str = "auto"
    #: Declared values of ``below``, by a base's reference or chain ID (:mod:`model.store.nests`).
    below: Mapping[str, str] = field(default_factory=dict)
    #: Called under the lock of the base; raises if the job must not start (:mod:`ops.job_terms`).
    admit: Callable[[], None] = _admit_all
    #: Seconds for which prune keeps a swapped-out generation, because a mount(2) may still use its path.
    grace: float = GRACE
    #: The engines on this node, the engine of the operation first; the others are probed on iteration.
    places: Callable[[], Iterable[Place]] = tuple
    #: By declared reference: the chain ID, if it is declared, or else the reference again; and the declared version.
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Returns the digest of the file at a ``salt://`` URL, which the master computes; ``None`` if it cannot.
    master_digest: Callable[[str], str | None] = _no_digest
    #: Bounds the rate at which a generation is written; ``None`` for no bound.
    pace: Pace | None = None
    #: The directory of the manifests that were read before (:mod:`disk.bundle.manifest_cache`); empty to remember none.
    manifests: str = ""
    #: The directory that stores earlier contents of a name (:mod:`disk.store.names`); empty to store none.
    names: str = ""
    #: The name of the operation, which holders and waiters of a base's lock show; empty if it has none.
    operation: str = ""
