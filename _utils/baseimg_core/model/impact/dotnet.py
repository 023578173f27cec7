"""
Frameworks that a .NET application needs by its ``NAME.runtimeconfig.json``.

Microsoft's documentation: "Select the .NET version to use" (roll forward) and "Runtime configuration options".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The end of the name of a runtime configuration.
SUFFIX = b".runtimeconfig.json"
#: The directories of .NET's installations in packages and official images.
ROOTS = (b"usr/share/dotnet", b"usr/lib/dotnet", b"usr/lib64/dotnet")
#: The directory of a version of a framework.
FRAMEWORK = re.compile(rb"(?:.*/)?dotnet/shared/[\w.]+/\d[^/]*")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(-?)")
_ANY = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework that an application needs."""

    #: Such as ``Microsoft.NETCore.App``.
    name: str
    #: The lowest version.
    version: str
    #: Which newer versions will do: ``Minor`` (the default), ``Major``, ``LatestPatch`` and others.
    roll_forward: str

    def is_met(self, versions: Iterable[str]) -> bool:
        """True if one of the installed versions will do."""
        return any(self._accepts(version) for version in versions)

    def _accepts(self, version: str) -> bool:
        needed, offered = _parts(self.version), _parts(version)
        equal_parts = {"disable": 3, "latestpatch": 2, "minor": 1, "latestminor": 1}.get(self.roll_forward.lower(), 0)
        return offered >= needed and offered[:equal_parts] == needed[:equal_parts]


def _parts(version: str) -> tuple[int, int, int]:
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else _ANY


def frameworks(config: bytes, environment: Mapping[str, str]) -> list[Framework]:
    """
    Return the frameworks that an application does not bring itself.

    Args:
        config: The content of its runtime configuration.
        environment: The variables of the image.

    Returns:
        The frameworks; none for a self-contained application.

    Raises:
        ValueError: The content is not such a configuration.
    """
    try:
        options: Mapping[str, Any] = json.loads(config)["runtimeOptions"]
        named: Collection[Mapping[str, Any]] = options.get("frameworks") or [options["framework"]]
        default = options.get("rollForward", "Minor")
        forced = environment.get("DOTNET_ROLL_FORWARD", "")
        return [
            Framework(str(each["name"]), str(each["version"]), str(forced or each.get("rollForward", default)))
            for each in named
        ]
    except KeyError:
        return []
    except (TypeError, AttributeError) as exc:
        raise ValueError("the runtime configuration has an unknown form") from exc
