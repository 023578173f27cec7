"""The coverage of an answer: the engines on this node that were examined for a base, and those that were not."""

from __future__ import annotations

from collections.abc import Callable

from ..context import Context
from ..disk.store.names import NameCache
from ..engine.base import Engine
from ..errors import BaseAbsent, BaseimgError, BundleUnavailable
from . import bases, declared_bases
from .bases import Base
from .plan import Catalogue


def find_bases_or_coverage(
    context: Context, name: str, version: str, catalogue: Catalogue, chain_id: str | None
) -> list[Base]:
    """
    Return every content that a declaration stands for.

    Args:
        context: The context of the operation.
        name: The declared reference.
        version: The declared version.
        catalogue: The declared bundles.
        chain_id: The declared chain ID; ``None`` without one.

    Raises:
        BaseAbsent: The base is not in the engine of the operation; ``coverage`` names the engines that were examined.
            Or the bundle that identifies the base is not available; then no engine was examined.
    """

    before = NameCache(context.names).read(name)

    def search(engine: Engine) -> list[Base]:
        return declared_bases.find_bases(engine, name, version, catalogue, chain_id, before)

    try:
        return search(context.engine)
    except BaseAbsent as exc:
        exc.coverage = _examine(context, search)
        raise
    except BundleUnavailable as exc:
        message = f"no image on this node is called {name}, and its bundle cannot be read: {exc.message}"
        absent = BaseAbsent(message, "", _suggestion(context.engine, name, chain_id))
        absent.coverage = _examine(context, search)
        absent.coverage["unexamined"] = absent.coverage["unexamined"] or [exc.message]
        raise absent from exc
    except BaseimgError as exc:  # a bundle was refused that was read because the name is not on this node
        if suggestion := _suggestion(context.engine, name, chain_id):
            exc.hint = f"did you mean {suggestion}? {exc.hint}"
        raise


def _suggestion(engine: Engine, name: str, chain_id: str | None) -> str:
    """Return a reference on this node that a name which is not here resembles; empty without one."""
    try:
        bases.locate(engine, name, chain_id)
    except BaseAbsent as exc:
        return exc.suggestion
    except BaseimgError:
        pass  # the operation reports it
    return ""


def _examine(context: Context, search: Callable[[Engine], object]) -> dict[str, list[str]]:
    """Look for a base in every engine on this node. Return the names of the engines by outcome."""
    coverage: dict[str, list[str]] = {"examined": [], "elsewhere": [], "unexamined": []}
    for place in context.places():
        try:
            engine = place.connect()
            coverage["unexamined"] += engine.unread_stores()
            search(engine)
        except BaseAbsent:
            coverage["examined"].append(place.name)
        except BaseimgError as exc:
            coverage["unexamined"].append(f"{place.name}: {exc.message}")
        else:
            coverage["elsewhere"].append(place.name)
    return coverage
