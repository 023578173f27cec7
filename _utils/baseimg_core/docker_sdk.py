"""
Docker's SDK for Python, imported on first use.

Read, swap and converge operations need only the engine's socket. The SDK stops, starts and probes containers, connects
over TCP or TLS, and reads registry credentials. Its import takes as long as the rest of a no-op run.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from .errors import DependencyMissing


def package() -> Any:
    """
    Return the package ``docker``.

    Raises:
        DependencyMissing: The package is not installed, or it cannot be imported.
    """
    try:
        return importlib.import_module("docker")
    except ImportError as exc:
        missing = isinstance(exc, ModuleNotFoundError)
        raise DependencyMissing(
            f"the Python package {exc.name} is not installed beside Salt"
            if missing
            else f"the Python package docker cannot be imported: {exc}",
            "run: salt-pip install 'docker>=7.1,<8' (or pip, in the Python that runs Salt)",
        ) from exc


def failures(name: str = "DockerException") -> tuple[type[Exception], ...]:
    """Return the exceptions that SDK calls raise, or those of one class; empty if the SDK was not imported."""
    module = sys.modules.get("docker.errors")
    return (getattr(module, name),) if module else ()
