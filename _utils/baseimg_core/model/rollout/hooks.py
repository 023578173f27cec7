"""Hooks of a policy: Salt functions on other minions, before and after a node changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..policy import validation
from .targets import Target, arguments_of, fields, parse_target, seconds, target_part

_KEYS = frozenset({"function", "tgt", "tgt_type", "arg", "timeout"})
_NODE = "{node}"


@dataclass(frozen=True, slots=True)
class Hook:
    """A Salt function that runs on other minions before or after a node changes."""

    #: The execution function.
    function: str
    #: The minions that run it, for example load balancers.
    target: Target
    #: Positional arguments; ``{node}`` in a text is the ID of the node that changes.
    arguments: tuple[Any, ...]
    #: Seconds to wait for every minion's return.
    timeout: int

    def arguments_for(self, node: str) -> tuple[Any, ...]:
        """Return the arguments for a node."""
        return tuple(
            argument.replace(_NODE, node) if isinstance(argument, str) else argument for argument in self.arguments
        )


def parse_hook(raw: object, key: str) -> Hook:
    """
    Parse a hook.

    Args:
        raw: the declared value.
        key: its key, for messages.

    Returns:
        The hook.

    Raises:
        ArgumentInvalid: the value is invalid.
    """
    declared = fields(raw, _KEYS, key)
    function = validation.text(declared.get("function"), f"{key}:function")
    timeout = seconds(declared.get("timeout", 60), f"{key}:timeout", 1)
    return Hook(function, parse_target(target_part(declared), key), arguments_of(declared, key), timeout)
