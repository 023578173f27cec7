"""The coverage of an answer: the engines on this node that were examined for a base, and those that were not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..context import Context
from ..engine.base import Engine
from ..errors import BaseAbsent, BaseimgError


@contextmanager
def explained(context: Context, find: Callable[[Engine], object]) -> Iterator[None]:
    """
    Add the coverage to an error that says that a base is absent.

    Args:
        context: The context of the operation.
        find: Finds the base in an engine; raises :class:`BaseAbsent`.
    """
    try:
        yield
    except BaseAbsent as exc:
        exc.coverage = _examine(context, find)
        raise


def _examine(context: Context, find: Callable[[Engine], object]) -> dict[str, list[str]]:
    """Look for a base in every engine on this node. Return the names of the engines by outcome."""
    coverage: dict[str, list[str]] = {"examined": [], "elsewhere": [], "unexamined": []}
    for place in context.places():
        try:
            engine = place.connect()
            coverage["unexamined"] += engine.unexamined()
            find(engine)
        except BaseAbsent:
            coverage["examined"].append(place.name)
        except BaseimgError as exc:
            coverage["unexamined"].append(f"{place.name}: {exc.message}")
        else:
            coverage["elsewhere"].append(place.name)
    return coverage
