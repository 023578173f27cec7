"""Lists of paths in a manifest, by name and directory: a third of the size of a flat list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import BundleInvalid
from ..stack import overlay

_MAX_PATH = 4096  # PATH_MAX of Linux


def as_dict(lists: Mapping[str, tuple[bytes, ...]]) -> dict[str, dict[str, list[str]]]:
    """Return the names of each list's paths by directory, as text with surrogate escapes."""
    data: dict[str, dict[str, list[str]]] = {}
    for key, paths in lists.items():
        directories = data.setdefault(key, {})
        for path in paths:
            directory, name = overlay.split(path)
            directories.setdefault(_text(directory), []).append(_text(name))
    return data


def parse(raw: Any, field: str) -> dict[str, tuple[bytes, ...]]:
    """
    Parse lists of paths.

    Args:
        raw: The JSON form.
        field: The name of the manifest field, for messages.

    Returns:
        Sorted paths by name.

    Raises:
        BundleInvalid: The JSON form is malformed, or has a path that is not relative and normal.
    """
    try:
        return {
            key: tuple(
                sorted(_path(directory, name) for directory, names in directories.items() for name in _list(names))
            )
            for key, directories in raw.items()
        }
    except (AttributeError, TypeError, ValueError, UnicodeEncodeError) as exc:
        raise BundleInvalid(f"manifest field {field} is not made of names by directory: {str(exc)[:80]}") from exc


def _list(names: object) -> list[str]:
    if not isinstance(names, list):
        raise TypeError("names are not a list")
    return names


def _path(directory: str, name: str) -> bytes:
    text = f"{directory}/{name}" if directory else name
    path = text.encode("utf-8", "surrogateescape")
    if len(path) > _MAX_PATH or not all(part not in ("", ".", "..") for part in text.split("/")) or "\0" in text:
        raise ValueError(f"the path {text[:40]!r}")
    return path


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
