"""The ELF reader agrees with pyelftools and survives damaged files."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection

from baseimg_core.disk.impact.elf import ElfInvalid, Symbols, read_elf, read_symbols
from baseimg_core.disk.impact.view import parse_cache
from baseimg_core.model.impact.elf import Elf

SYSTEM = sorted(
    path
    for pattern in ("/usr/bin/*", "/usr/sbin/*", "/usr/lib/x86_64-linux-gnu/*.so*", "/usr/lib/aarch64-linux-gnu/*.so*")
    for path in Path("/").glob(pattern[1:])
    if path.is_file() and path.open("rb").read(4) == b"\x7fELF"
)[::25]


def oracle(path: Path) -> Elf:
    """Return the facts that pyelftools reads from a file."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        interpreter, tags = b"", []
        for segment in elf.iter_segments():
            if segment.header.p_type == "PT_INTERP":
                interpreter = segment.get_interp_name().encode()
            if isinstance(segment, DynamicSegment):
                tags = list(segment.iter_tags())
        needs: dict[bytes, set[bytes]] = {}
        definitions = set()
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                for need, names in section.iter_versions():
                    versions = needs.setdefault(need.name.encode(), set())
                    versions.update(name.name.encode() for name in names if not name.entry.vna_flags & 2)
            if isinstance(section, GNUVerDefSection):
                definitions.update(next(iter(names)).name.encode() for _, names in section.iter_versions())

        def values(kind: str, field: str) -> list[bytes]:
            return [getattr(tag, field).encode() for tag in tags if tag.entry.d_tag == kind]

        def directories(kind: str, field: str) -> tuple[bytes, ...]:
            return tuple(part for value in values(kind, field) for part in value.split(b":") if part)

        return Elf(
            bits=elf.elfclass,
            machine=elf["e_machine"] and _number(elf),
            type={"ET_EXEC": 2, "ET_DYN": 3}[elf["e_type"]],
            interpreter=interpreter,
            soname=(values("DT_SONAME", "soname") or [b""])[0],
            needed=tuple(values("DT_NEEDED", "needed")),
            rpath=directories("DT_RPATH", "rpath"),
            runpath=directories("DT_RUNPATH", "runpath"),
            version_needs={name: frozenset(names) for name, names in needs.items()},
            version_definitions=frozenset(definitions),
        )


def _number(elf: Any) -> int:
    elf.stream.seek(18)
    return int.from_bytes(elf.stream.read(2), "little" if elf.little_endian else "big")


def test_files_of_this_system_are_read_as_pyelftools_reads_them() -> None:
    assert len(SYSTEM) > 10
    for path in SYSTEM:
        with path.open("rb") as file:
            assert read_elf(file) == oracle(path), path


def test_symbols_are_read_as_pyelftools_reads_them() -> None:
    for path in SYSTEM:
        with path.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".dynsym")
            named = [symbol for symbol in table.iter_symbols() if symbol.name] if table else []
            visible = [symbol for symbol in named if symbol["st_info"]["bind"] != "STB_LOCAL"]
            defined = {
                symbol.name.encode()
                for symbol in visible
                if symbol["st_shndx"] != "SHN_UNDEF"
                and symbol["st_other"]["visibility"] not in ("STV_HIDDEN", "STV_INTERNAL")
            }
            undefined = {
                symbol.name.encode()
                for symbol in visible
                if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
            }
            assert read_symbols(file) == Symbols(frozenset(defined), frozenset(undefined)), path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a library with symbol versions, a run path and dependencies."""
    work = tmp_path_factory.mktemp("elf")
    (work / "a.c").write_text('#include <stdio.h>\nint f(void) { return puts("x"); }\n')
    (work / "a.map").write_text("CORP_1.0 { global: f; local: *; };\nCORP_2.0 { } CORP_1.0;\n")
    path = work / "liba.so.1.2"
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-o", path, work / "a.c", "-Wl,-soname,liba.so.1", "-Wl,--no-as-needed"),
            *("-Wl,--version-script", work / "a.map", "-Wl,-rpath,$ORIGIN/../lib:/opt/corp/lib", "-lm"),
        ],
        check=True,
    )
    return path


def test_a_library_of_ours(library: Path) -> None:
    with library.open("rb") as file:
        elf = read_elf(file)
    assert (elf.soname, elf.needed) == (b"liba.so.1", (b"libm.so.6", b"libc.so.6"))
    assert elf.rpath + elf.runpath == (b"$ORIGIN/../lib", b"/opt/corp/lib")
    assert elf.version_definitions == {b"liba.so.1", b"CORP_1.0", b"CORP_2.0"}
    assert elf.version_needs.keys() == {b"libc.so.6"}
    assert elf == oracle(library)


def test_a_static_program_needs_nothing() -> None:
    with open("/bin/busybox", "rb") as file:
        elf = read_elf(file)
    assert (elf.interpreter, elf.needed) == (b"", ())


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x09\x01" + bytes(100)])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    for read in (read_elf, read_symbols):
        with pytest.raises(ElfInvalid):
            read(io.BytesIO(data))


def test_damaged_files_raise_nothing_else(library: Path) -> None:
    """Changed bytes, mostly in headers and tables, and truncated files raise only the typed error."""
    good, chance = library.read_bytes(), random.Random(7)
    refused = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(chance.choice((64, 700, 4096, len(data))))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        with contextlib.suppress(ElfInvalid):
            read_symbols(io.BytesIO(data))
        try:
            read_elf(io.BytesIO(data))
        except ElfInvalid:
            refused += 1
    assert 100 < refused < 3000


def test_the_loaders_cache_is_read_as_ldconfig_prints_it() -> None:
    printed = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True).stdout
    expected: dict[bytes, list[bytes]] = {}
    for line in printed.splitlines():
        name, arrow, path = line.strip().partition(b" => ")
        if arrow:
            expected.setdefault(name.split(b" ")[0], []).append(path)
    assert len(expected) > 20
    assert parse_cache(Path("/etc/ld.so.cache").read_bytes()) == expected


@pytest.mark.parametrize("length", [0, 19, 30, 47, 60, 500])
def test_a_damaged_cache_has_no_entries(length: int) -> None:
    assert parse_cache(Path("/etc/ld.so.cache").read_bytes()[:length]) == {}
