"""The outcome of restarts, and its description for operators."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .policy import ContainerPolicy

#: Failed containers by name, each with ``reason`` and the last lines of the ``log``.
Failures = dict[str, dict[str, Any]]


@dataclass(slots=True)
class RestartOutcome:
    """The outcome of a restart, by container name."""

    #: The mode of the policy.
    mode: str
    #: Restarted containers, in order.
    restarted: list[str] = field(default_factory=list)
    #: Containers that an earlier run left stopped and this run started.
    started: list[str] = field(default_factory=list)
    #: Containers that were left alone, each with the reason.
    left: dict[str, str] = field(default_factory=dict)
    #: Containers that failed their gate, with ``reason`` and the last lines of the ``log``.
    failed: Failures = field(default_factory=dict)
    #: True if the base was swapped back.
    rolled_back: bool = False
    #: Containers that fail on the old content too.
    still_failing: Failures = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome in the form of operation results."""
        return asdict(self)


def explain(name: str, version: str, policy: ContainerPolicy, done: RestartOutcome, live_version: str) -> str:
    """
    Describe failed gates for operators.

    Args:
        name: The base.
        version: The version on which the gates failed.
        policy: The declared policy.
        done: The outcome of the restart.
        live_version: The version that is live now.
    """
    reasons = "; ".join(f"{container} {failure['reason']}" for container, failure in done.failed.items())
    text = f"{name} {version}: {reasons}. "
    if policy.continues_on_failure:
        text += f"The base shows {live_version}, the other containers were restarted"
    elif not done.rolled_back:
        text += f"The base shows {live_version}, and no other container was restarted after that"
        if policy.restarts and policy.on_failure == "rollback":
            text += ": no other content is present to go back to"
    else:
        again = [container for container in done.restarted if container not in done.still_failing]
        text += f"The base shows {live_version} again" + (f"; restarted on it: {', '.join(again)}" if again else "")
    for container, failure in done.still_failing.items():
        text += f". STILL FAILING on {live_version}: {container} {failure['reason']}"
    for container, failure in (done.failed | done.still_failing).items():
        if failure["log"]:
            text += f"\nThe last lines of {container}:\n  " + "\n  ".join(failure["log"][-5:])
    return text
