"""The dynamic section of an ELF file (System V gABI; glibc's elf.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Elf:
    """What one ELF file declares to the dynamic loader."""

    #: 32 or 64.
    bits: int
    #: ``e_machine``; the loader skips libraries of another machine.
    machine: int
    #: ``e_type``: 2 is an executable, 3 a shared object or a position-independent executable.
    type: int
    #: The path of the dynamic loader; empty for libraries and static programs.
    interpreter: bytes = b""
    #: DT_SONAME.
    soname: bytes = b""
    #: Names of required libraries (DT_NEEDED).
    needed: tuple[bytes, ...] = ()
    #: Directories of DT_RPATH, tokens such as ``$ORIGIN`` unexpanded.
    rpath: tuple[bytes, ...] = ()
    #: Directories of DT_RUNPATH, tokens unexpanded.
    runpath: tuple[bytes, ...] = ()
    #: Required version names by library, without weak references.
    version_needs: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)
    #: Version names that this file defines.
    version_definitions: frozenset[bytes] = frozenset()
