"""World-readable files at a path that the caller names: reports, VEX documents, SBOMs, metrics."""

from __future__ import annotations

from typing import Any

from ..linux import output
from ..model.policy import validation


def check_path(path: object, suffix: str = "") -> None:
    """
    Check the argument ``path`` before the content is made; ``None`` writes no file.

    Args:
        path: The argument.
        suffix: The end that the path must have.

    Raises:
        ArgumentInvalid: The path is not absolute, or has another end.
        DestinationUnwritable: The path is something other than a regular file, or its directory does not exist.
    """
    if path is not None:
        output.check_replaceable(validation.absolute_path(path, "path", suffix))


def write(path: str, text: str) -> dict[str, Any]:
    """
    Write a file atomically.

    Returns:
        ``path``, and its size in ``bytes``.

    Raises:
        DestinationUnwritable: The file cannot be written, or its path is not a regular file.
    """
    data = text.encode(errors="replace")
    output.save(path, data)
    return {"path": path, "bytes": len(data)}
