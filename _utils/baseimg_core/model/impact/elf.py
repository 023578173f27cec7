"""What a program or a library in the ELF format declares to the dynamic loader (System V gABI; glibc's elf.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Elf:
    """The dynamic section of one ELF file."""

    #: 32 or 64.
    bits: int
    #: ``e_machine``; the loader skips libraries of another machine.
    machine: int
    #: ``e_type``: 2 is an executable, 3 a shared object or a position-independent executable.
    type: int
    #: The dynamic loader, empty for libraries and static programs.
    interpreter: bytes = b""
    soname: bytes = b""
    needed: tuple[bytes, ...] = ()
    #: Directories of DT_RPATH and DT_RUNPATH, still with ``$ORIGIN``.
    rpath: tuple[bytes, ...] = ()
    runpath: tuple[bytes, ...] = ()
    #: Version names by the library that has to define them; weak references are left out.
    version_needs: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)
    #: Version names that this file defines.
    version_definitions: frozenset[bytes] = frozenset()
