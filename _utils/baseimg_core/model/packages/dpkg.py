"""
dpkg's list of installed packages.

deb-control(5) describes the stanzas, dpkg(1) the states. ``status`` has packages in every state; the files of
``status.d`` in images built without dpkg (distroless) have no ``Status`` field and list only installed packages.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_FIELDS = (
    *("Package", "Status", "Version", "Source", "Depends", "Pre-Depends", "Breaks", "Conflicts", "Provides"),
    "Architecture",
)
_SOURCE = re.compile(r"\S+ \(([^)\s]+)\)")
_BINARY_REBUILD = re.compile(r"\+b\d+$")
_LINE = re.compile(rf"^({'|'.join(_FIELDS)}):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class InstalledPackage:
    """One installed package."""

    #: The name, without architecture.
    name: str
    #: The installed version.
    version: str
    #: The fields of its stanza by name, unparsed.
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)


def installed(status: bytes) -> Iterator[InstalledPackage]:
    """Yield the installed packages of a status file, each architecture of a package as one."""
    for stanza in status.decode("utf-8", "replace").split("\n\n"):
        fields = {match[1]: match[2].strip() for match in _LINE.finditer(stanza)}
        is_installed = fields.get("Status", "installed").split()[-1:] == ["installed"]  # not "half-installed"
        if is_installed and fields.get("Package") and fields.get("Version"):
            yield InstalledPackage(fields["Package"], fields["Version"], fields)


def source_version(package: InstalledPackage) -> str:
    """Return the version of a package's source, which its changelog has: ``Source: lvm2 (2.03.16-2)``."""
    match = _SOURCE.fullmatch(package.fields.get("Source", ""))
    return match[1] if match else _BINARY_REBUILD.sub("", package.version)


def source_name(package: InstalledPackage) -> str:
    """Return the name of a package's source, by which Debian's advisories name it."""
    return package.fields.get("Source", "").partition(" ")[0] or package.name


def by_name(status: bytes) -> dict[str, InstalledPackage]:
    """Return the installed packages by name; of several architectures, the last one."""
    return {package.name: package for package in installed(status)}


def versions(packages: Iterable[InstalledPackage], several: Collection[str] = ()) -> dict[str, str]:
    """
    Return versions by name. Names of packages with several architectures have a suffix: ``libc6:i386``.

    Args:
        packages: The installed packages.
        several: Names that have a suffix in any case.
    """
    architectures: dict[str, dict[str, str]] = {}
    for package in packages:
        architectures.setdefault(package.name, {})[package.fields.get("Architecture", "")] = package.version
    return {
        name if len(by_architecture) == 1 and name not in several else f"{name}:{architecture}": version
        for name, by_architecture in architectures.items()
        for architecture, version in by_architecture.items()
    }
