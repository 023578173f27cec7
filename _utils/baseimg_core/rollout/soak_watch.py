"""The watch over the containers of updated nodes while a rollout soaks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..display import counted
from ..model.rollout import soak
from ..model.rollout.fleet import first_names
from ..model.rollout.record import FAILED
from .discovery import Discovery
from .recorder import Recorder

CONTAINER_FAILED = "container-failed"


class SoakWatch:
    """
    The containers of nodes, compared with those at the start of the soak.

    Args:
        discovery: queries to the nodes; no job may be in progress.
        recorder: the recorder of the rollout.
        names: updated nodes.
    """

    def __init__(self, discovery: Discovery, recorder: Recorder, names: Sequence[str]) -> None:
        self._discovery, self._recorder = discovery, recorder
        self._before = discovery.containers(names)
        self._interval = soak.interval(recorder.rollout.parsed_policy.gate_interval, len(names))
        self._checked = time.monotonic()
        if unknown := [name for name in names if name not in self._before]:
            text = f"cannot watch the containers of {counted(len(unknown), 'node')}: {first_names(unknown)}"
            recorder.add_event(text, "soaking", nodes=len(unknown))

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
