"""Symbols that an application's programs and libraries use and the new base's libraries do not define."""

from __future__ import annotations

from ...model.impact.dependencies import Loader
from .view import LayeredView


class SymbolSearch:
    """The symbols of one image's files, over the old and over the new base. The symbols of libraries are cached."""

    def __init__(self, lost: set[bytes], old: tuple[LayeredView, Loader], new: tuple[LayeredView, Loader]) -> None:
        """
        Args:
            lost: The symbols that libraries of the base do not define any more.
            old: The image over the old base, and its loader.
            new: The image over the new base, and its loader.
        """
        self._lost, self._old, self._new = lost, old, new
        self._defined: dict[tuple[bool, bytes], frozenset[bytes]] = {}

    def missing(self, path: bytes) -> list[bytes]:
        """Return the symbols that a file's libraries define over the old base alone; empty for other files."""
        if not self._lost:
            return []
        used = self._new[0].symbols(path).undefined & self._lost
        if not used:
            return []
        return sorted((used & self._all(self._old, path)) - self._all(self._new, path))

    def _all(self, side: tuple[LayeredView, Loader], path: bytes) -> frozenset[bytes]:
        view, loader = side
        symbols: set[bytes] = set()
        for library in loader.files(path):
            key = (side is self._new, library)
            if key not in self._defined:
                self._defined[key] = view.symbols(library).defined
            symbols |= self._defined[key]
        return frozenset(symbols)
