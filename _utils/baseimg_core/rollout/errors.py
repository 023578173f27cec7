"""The errors of rollouts, which occur on the master only."""

from __future__ import annotations

from ..errors import BaseimgError


class MasterUnreachable(BaseimgError):
    """The Salt master does not accept jobs."""

    code = "master-unreachable"
    hint = "start the master, then run 'salt-run baseimg.resume'"


class RolloutUnknown(BaseimgError):
    """No rollout has this ID, or the ID is ambiguous."""

    code = "rollout-unknown"
    hint = "'salt-run baseimg.status' lists the rollouts; give an ID"


class RolloutBusy(BaseimgError):
    """Another rollout of this base is still open."""

    code = "rollout-busy"
    hint = "'salt-run baseimg.watch' follows it; halt it, or wait until it ends"


class RolloutEmpty(BaseimgError):
    """A rollout or a rollback matches no node. Reporting success would be misleading."""

    code = "rollout-empty"
    hint = "check the base, the target and the waves with 'salt-run baseimg.plan'"


class MasterUnsuitable(BaseimgError):
    """Rollouts cannot run on this Salt master."""

    code = "master-unsuitable"
    hint = "see docs/operating/rollout.md, 'Requirements'"


class RolloutInterrupted(BaseimgError):
    """The process of a command ended early: Ctrl-C, or SIGTERM."""

    code = "rollout-interrupted"
    hint = (
        "nodes that are applying finish; 'salt-run baseimg.status' shows the rollout, and 'salt-run baseimg.resume' "
        "continues it"
    )
