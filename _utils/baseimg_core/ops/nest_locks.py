"""Locks of a nest: all its layers, in one order on every node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from ..context import Context
from ..disk.store.generations import Store
from .nest import Nest


@contextlib.contextmanager
def locked(context: Context, nest: Nest, read: Callable[[], Nest]) -> Iterator[Nest]:
    """
    Lock the layers of a nest, in the same order on every node, and read the nest again.

    If a base joined the nest before the locks were held, all locks are released and taken again with its own.

    Args:
        context: The context of the operation.
        nest: The nest as read without locks.
        read: Reads the nest under its locks.

    Returns:
        The nest as read under its locks.

    Raises:
        LayerBusy: Another operation kept one of the locks until the timeout.
    """
    layers = nest.layers
    while True:
        with _locked(context, layers):
            nest = read()
            needed = nest.layers
            if all(layers.get(layer, False) >= changes for layer, changes in needed.items()):
                yield nest
                return
        layers = needed


@contextlib.contextmanager
def _locked(context: Context, layers: Mapping[str, bool]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for layer, changes in sorted(layers.items()):
            store = Store(layer)
            if changes:
                stack.enter_context(store.lock(context.lock_timeout, context.by, context.operation))
            else:
                stack.enter_context(store.shared_lock(context.lock_timeout, context.operation))
        yield
