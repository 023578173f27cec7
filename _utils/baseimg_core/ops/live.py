"""Deliver single files of the live content to the running containers of a base."""

from __future__ import annotations

from typing import Any

from ..context import Context
from ..engine.live_mounts import check_layers_seen
from ..errors import GateFailed, LiveUnsupported
from ..linux.file_mounts import check_support
from ..model.containers.policy import ContainerPolicy
from . import bases, declared_bases
from .bases import Base
from .containers import live, live_gate


def deliver(context: Context, name: str, policy: ContainerPolicy, test: bool) -> dict[str, Any]:
    """
    Bring the named files of all running containers of a base to the live content.

    Args:
        context: The context of the operation.
        name: Reference or chain ID of the base.
        policy: The policy for its containers; ``live`` names the paths.
        test: True to change nothing.

    Returns:
        The result of ``baseimg.live``.

    Raises:
        LiveUnsupported: This node cannot mount files into containers.
        GateFailed: A probe of the policy failed in a container, whose files are detached.
    """
    if reason := check_support() or check_layers_seen(context.engine.layers_root):
        raise LiveUnsupported(reason)
    named_bases = bases.locate_all(context.engine, name)
    results = [_deliver(context, base, policy, test) for base in named_bases]
    return {
        "changed": any(result["changed"] for result in results),
        "base": results[0]["base"],
        "version": results[0]["version"],
        "containers": declared_bases.join_values([result["containers"] for result in results]),
    }


def _deliver(context: Context, base: Base, policy: ContainerPolicy, test: bool) -> dict[str, Any]:
    record, failed = base.store.read(), {}
    if record is None:
        return {"changed": False, "base": base.reference, "version": base.version, "containers": {}}
    if test:
        delivered = live.deliver(context.engine, base, record, policy, test=True)
    else:
        with base.store.lock(context.lock_timeout, context.by, context.operation):
            record = base.store.recover() or record
            delivered = live.deliver(context.engine, base, record, policy)
            failed = live_gate.probe_containers(context.engine, base, record, policy, delivered)
    result = {
        "changed": any(each.changed for each in delivered.values()),
        "base": record.reference,
        "version": record.live.version,
        "containers": {name: each.as_dict() for name, each in delivered.items()},
    }
    if failed:
        raise GateFailed(live_gate.explain(record, failed), result=result)
    return result
