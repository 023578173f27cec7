"""The watch over the containers of updated nodes while a rollout soaks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..display import counted
from ..model.rollout import soak
from ..model.rollout.answers import ContainerState
from ..model.rollout.fleet import first_names
from ..model.rollout.record import FAILED
from .discovery import Discovery
from .recorder import Recorder

CONTAINER_FAILED = "container-failed"


class SoakWatch:
    """The containers of nodes, compared with those at the start of the soak."""

    def __init__(
        self, discovery: Discovery, recorder: Recorder, before: dict[str, dict[str, ContainerState]], interval: float
    ) -> None:
        """
        Args:
            discovery: Queries to the nodes.
            recorder: The recorder of the rollout.
            before: The containers at the start of the soak, by node.
            interval: Seconds between two checks.
        """
        self._discovery, self._recorder, self._before, self._interval = discovery, recorder, before, interval
        self._checked = time.monotonic()

    @classmethod
    def start(cls, discovery: Discovery, recorder: Recorder, names: Sequence[str]) -> SoakWatch:
        """
        Query the containers of nodes, and record the nodes that do not answer: they cannot be watched.

        Args:
            discovery: Queries to the nodes; no job may be in progress.
            recorder: The recorder of the rollout.
            names: Updated nodes.
        """
        before = discovery.containers(names)
        if unknown := [name for name in names if name not in before]:
            text = f"cannot watch the containers of {counted(len(unknown), 'node')}: {first_names(unknown)}"
            recorder.add_event(text, "soaking", nodes=len(unknown))
        interval = soak.interval(recorder.rollout.parsed_policy.gate_interval, len(names))
        return cls(discovery, recorder, before, interval)

    def check(self, is_last: bool = False) -> None:
        """
        Fail the nodes whose containers are in trouble. Returns at once if the last check was not long ago.

        Args:
            is_last: True to check in any case.
        """
        if not is_last and time.monotonic() - self._checked < self._interval:
            return
        for name, now in self._discovery.containers(sorted(self._before)).items():
            if reasons := soak.troubles(self._before[name], now):
                self._recorder.fail(name, FAILED, CONTAINER_FAILED, f"during the soak: {'; '.join(reasons)}")
                self._recorder.note_node(name)
                del self._before[name]
        self._recorder.save()
        self._checked = time.monotonic()
