"""
Docker's SDK for Python, imported on first use.

Reading, swapping and converging need only the engine's socket. The SDK is needed to stop, start and probe containers,
for engines over TCP or TLS, and for the credentials of registries. Its import takes as long as the rest of an operation
that changes nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from .errors import DependencyMissing


def docker() -> Any:
    """
    Return the package ``docker``.

    Raises:
        DependencyMissing: The package is not installed.
    """
    try:
        return importlib.import_module("docker")
    except ModuleNotFoundError as exc:
        raise DependencyMissing(
            f"the Python package {exc.name} is not installed beside Salt",
            "run: salt-pip install 'docker>=7.1,<8' (or pip, in the Python that runs Salt)",
        ) from exc


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that calls of the SDK raise; none if the SDK was not imported."""
    module = sys.modules.get("docker.errors")
    return (module.DockerException,) if module else ()
