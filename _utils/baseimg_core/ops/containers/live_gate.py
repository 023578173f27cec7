"""The health gate of containers into which single files are mounted: the probes of the policy."""

from __future__ import annotations

from collections.abc import Mapping

from ...engine.base import Engine
from ...model.containers.outcome import Failures
from ...model.containers.policy import ContainerPolicy
from ...model.store.record import Record
from ..bases import Base
from . import live
from .gate import ContainerGate, await_gates
from .live import ContainerResult


def is_needed(policy: ContainerPolicy, delivered: Mapping[str, ContainerResult]) -> bool:
    """True if a probe may apply to a container that shows mounted files."""
    return bool(policy.probes) and any(each.in_effect for each in delivered.values())


def probe_containers(
    engine: Engine, base: Base, record: Record, policy: ContainerPolicy, delivered: dict[str, ContainerResult]
) -> Failures:
    """
    Run the probes of the containers that show mounted files. If a probe fails, detach the files of its container.

    The caller holds the lock of the base.

    Every run probes all of them: an earlier run may have been killed before its probes.

    Args:
        engine: The engine.
        base: The base.
        record: Its record.
        policy: The policy, with the probes.
        delivered: The result of :func:`live.deliver`; updated if files are detached.

    Returns:
        The failures by container name.
    """
    if not is_needed(policy, delivered):
        return {}
    names = {name for name, each in delivered.items() if each.in_effect}
    probed = [each for each in engine.containers(stopped=False) if each.name in names and policy.probe(each)]
    gates = [ContainerGate(engine, container, policy) for container in probed]
    failed = await_gates(gates, waiting=lambda _text: None, patient=True)
    if failed:
        withdrawn = live.withdraw(engine, base, record, failed)
        for name, failure in failed.items():
            delivered[name] = withdrawn.get(name, ContainerResult())
            delivered[name].code = delivered[name].code or "gate-failed"
            delivered[name].reason = delivered[name].reason or f"it {failure['reason']}"
    return failed


def explain(record: Record, failed: Failures) -> str:
    """
    Describe failed probes for operators.

    Args:
        record: The record of the base.
        failed: The failures by container name.
    """
    reasons = "; ".join(f"{name} {failure['reason']}" for name, failure in failed.items())
    text = f"{record.reference} {record.live.version}: {reasons}. Their live files are detached"
    for name, failure in failed.items():
        if failure["log"]:
            text += f"\nThe last lines of {name}:\n  " + "\n  ".join(failure["log"][-5:])
    return text
