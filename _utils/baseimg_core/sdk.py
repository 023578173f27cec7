"""
Docker's own SDK, imported when it is needed: its import takes as long as all else of an operation with nothing to do,
and such an operation only reads.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

if importlib.util.find_spec("docker") is None:  # told at once, not in the middle of an operation
    raise ModuleNotFoundError("No module named 'docker'", name="docker")


def docker() -> Any:
    """The package ``docker``."""
    return importlib.import_module("docker")
