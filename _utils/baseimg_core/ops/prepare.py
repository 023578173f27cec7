"""
Make the generation of a version ahead of time, so that a later converge is one swap.

A preparation holds the base's lock for minutes. It gives way within seconds to an operation that waits for the lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..context import Context
from ..disk.store.generations import Store
from ..disk.store.lock import PREPARATION
from ..errors import LayerBusy
from ..linux.pace import Pace, low_priority
from ..model.store.hold import Hold
from ..model.store.record import Generation, Record
from ..progress import Progress
from . import aliases, arrivals, bases, coverage, declared_bases, nest_locks, swap
from . import hold as ops_hold
from .containers import runner
from .containers import trial as trials
from .converge import Convergence
from .plan import Catalogue, Plan
from .preview import Goal
from .stage import discarding, keep_prepared


def prepare(context: Context, goal: Goal, rate: float) -> dict[str, Any]:
    """
    Fetch, verify and judge a version, try it, and make its generation. The live content stays as it is.

    Args:
        context: The context of the operation.
        goal: The declared base.
        rate: The maximum number of bytes written per second.

    Returns:
        The result of ``baseimg.prepare``.

    Raises:
        LayerBusy: Another operation waited for the base. The content is deleted; the fetched bundles stay.
        BaseimgError: Whatever a converge to the version would raise before its swap.
    """
    with contextlib.ExitStack() as stack:
        runner.check_can_restart(context.engine, goal.policy)
        name, version = goal.name, goal.version
        waiters = _Waiters(name, version)
        pace = Pace(rate, check=waiters.check)
        stack.callback(pace.close)
        stack.enter_context(low_priority())
        context = replace(context, pace=pace, progress=waiters.checking(context.progress), operation=PREPARATION)
        catalogue = Catalogue(context, goal.bundles, stack)
        named_bases = coverage.find_bases_or_coverage(context, name, version, catalogue, goal.chain_id)
        declared_bases.check_all_reach(context, name, version, catalogue, named_bases)
        changes = [Convergence.to_declared(context, base, version, catalogue, goal.policy) for base in named_bases]
        results = [_prepare(change, waiters) for change in changes]
        first = next((result for result in results if result["needed"]), results[0])
        return {**first, "changed": any(result["changed"] for result in results)}


class _Waiters:
    """The operations that wait for the locks of a preparation."""

    def __init__(self, name: str, version: str) -> None:
        self._what = f"the preparation of {name} {version}"
        self._stores: list[Store] = []
        self._checked = 0.0

    @contextlib.contextmanager
    def on(self, layers: Iterable[str]) -> Iterator[None]:
        """Look at the locks of these layers during the block."""
        self._stores = [Store(layer) for layer in layers]
        try:
            yield
        finally:
            self._stores = []

    def check(self) -> None:
        """
        Stop the preparation if another operation waits. Looks at most once a second.

        Raises:
            LayerBusy: Another operation waits.
        """
        if self._stores and time.monotonic() - self._checked >= 1:
            self._checked = time.monotonic()
            if waiter := next(filter(None, (store.layer_lock.waiter for store in self._stores)), ""):
                raise LayerBusy(f"{self._what} gave way to a waiting {waiter}", "run it again afterwards")

    def checking(self, progress: Progress | None) -> Progress:
        """Return a progress callback that also checks."""

        def report(step: str, done: int, total: int) -> None:
            self.check()
            if progress:
                progress(step, done, total)

        return report


def _prepare(change: Convergence, waiters: _Waiters) -> dict[str, Any]:
    context, base = change.context, change.base
    swap.delete_unfinished(context, base.store)
    record = base.store.read() or bases.initial_record(context.engine, base)
    if change.version != record.live.version and (hold := ops_hold.blocking_hold(base, change.version)):
        return _result(change, record, record.live, hold=hold)
    aliases.check_aliases(context, base, change.version)
    plan = change.plan_from_sound(record)
    if plan.generation is record.live:
        return _result(change, record, record.live)
    locked = nest_locks.locked(context, change.check_ahead(record), change.read_locked)
    with locked as nest, waiters.on(nest.layers):
        record = nest.changing.record
        highest = record.highest
        generation = nest.adapt_to_lower(change.obtain(record))
        with discarding(base, record, generation):
            judged = arrivals.check_images(context, nest, generation, change.judged)
            passed = trials.run_trials(context, nest, generation)
            masked = nest.prepare_uppers(generation)
            keep_prepared(base, record, generation)
        arrivals.check_images(context, nest, generation, judged, passed)
        return _result(change, record, generation, plan, changed=masked or generation.number > highest)


def _result(
    change: Convergence,
    record: Record,
    generation: Generation,
    plan: Plan | None = None,
    changed: bool = False,
    hold: Hold | None = None,
) -> dict[str, Any]:
    route = plan.route if plan else []
    bundles = [change.catalogue.bundle(version) for version in route]
    result = {
        "changed": changed,
        "needed": generation is not record.live,
        "base": record.reference,
        "from": record.live.version,
        "to": change.version,
        "generation": generation.number,
        "prepared": generation.prepared if generation.is_prepared else "",
        "bytes": sum(bundle.size for bundle in bundles),
    }
    return {**result, "held": str(hold)} if hold else result
