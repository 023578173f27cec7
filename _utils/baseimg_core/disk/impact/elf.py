"""
Read the dynamic section of ELF files (System V gABI, "Dynamic Section"; LSB, "Symbol Versioning").

The reader needs no library outside of Python and takes about 0.1 ms per file. Like the dynamic loader, it uses only
program headers, so it supports files without section headers. Files from images are untrusted: every offset and count
is checked, and no read exceeds ``_MAX_STRINGS``.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...model.impact.elf import Elf

MAGIC = b"\x7fELF"
_MAX_HEADERS = 512
_MAX_DYNAMIC = 1 << 16  # bytes of the dynamic section
_MAX_STRINGS = 64 << 20  # bytes of the string table; large C++ libraries have tens of MB
_MAX_NAME = 4096
_MAX_VERSIONS = 4096
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 14, 15, 29
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_VER_FLG_WEAK = 2
_DT_SYMTAB = 6
_SHT_DYNSYM = 11
_MAX_SECTIONS = 4096
_MAX_SYMBOLS = 1 << 19
_STB_LOCAL, _STB_WEAK = 0, 2
_HIDDEN = (1, 2)  # STV_INTERNAL, STV_HIDDEN


class ElfInvalid(Exception):
    """The file is damaged or not an ELF file; the message is the reason."""


def read_elf(file: BinaryIO) -> Elf:
    """
    Read the dynamic section of an ELF file.

    Args:
        file: A seekable binary file.

    Returns:
        The dynamic section; empty for a static program.

    Raises:
        ElfInvalid: The file is damaged or not an ELF file.
    """
    with _damage_translated():
        return _Reader(file).elf()


@contextlib.contextmanager
def _damage_translated() -> Iterator[None]:
    """Raise the errors of a parser as :class:`ElfInvalid`."""
    try:
        yield
    except (struct.error, OverflowError, ValueError, OSError) as exc:
        raise ElfInvalid(f"damaged ELF file: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Symbols:
    """The names in the dynamic symbol table of an ELF file."""

    #: Symbols that other files may use.
    defined: frozenset[bytes] = frozenset()
    #: Symbols that another file has to define, without weak ones.
    undefined: frozenset[bytes] = frozenset()


def read_symbols(file: BinaryIO) -> Symbols:
    """
    Read the dynamic symbol table of an ELF file.

    Args:
        file: A seekable binary file.

    Returns:
        The names; empty without section headers, which alone tell the size of the table.

    Raises:
        ElfInvalid: The file is damaged or not an ELF file.
    """
    with _damage_translated():
        return _Reader(file).symbols()


class _Reader:
    """A parser of one ELF file, with its byte order and segments."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        identification = self._at(0, 16)
        if identification[:4] != MAGIC:
            raise ElfInvalid("not an ELF file")
        self._is_64 = {1: False, 2: True}.get(identification[4])
        order = {1: "<", 2: ">"}.get(identification[5])
        if self._is_64 is None or order is None:
            raise ElfInvalid("unknown ELF class or byte order")
        self._order = order
        self._segments = list(self._headers())

    def elf(self) -> Elf:
        """Parse the dynamic section."""
        bits = 64 if self._is_64 else 32
        interpreter = b""
        dynamic: list[tuple[int, int]] = []
        for kind, offset, _address, size in self._segments:
            if kind == _PT_INTERP and size:
                interpreter = self._at(offset, min(size, _MAX_NAME)).split(b"\0")[0]
            elif kind == _PT_DYNAMIC:
                dynamic = list(self._dynamic(offset, size))
        if not dynamic:
            return Elf(bits, self._machine, self._type, interpreter)
        tags = dict(reversed(dynamic))
        self._strings = self._string_table(tags)
        return Elf(
            bits=bits,
            machine=self._machine,
            type=self._type,
            interpreter=interpreter,
            soname=self._string(tags[_DT_SONAME]) if _DT_SONAME in tags else b"",
            needed=tuple(self._string(value) for tag, value in dynamic if tag == _DT_NEEDED),
            rpath=self._directories(tags.get(_DT_RPATH)),
            runpath=self._directories(tags.get(_DT_RUNPATH)),
            version_needs=dict(self._version_needs(tags)),
            version_definitions=frozenset(self._version_definitions(tags)),
        )

    def symbols(self) -> Symbols:
        """Parse the dynamic symbol table."""
        places = ((offset, size) for kind, offset, _address, size in self._segments if kind == _PT_DYNAMIC and size)
        dynamic = next((list(self._dynamic(*place)) for place in places), [])
        tags = dict(reversed(dynamic))
        size = self._symbol_table_size()
        if not size or _DT_SYMTAB not in tags:
            return Symbols()
        self._strings = self._string_table(tags)
        form = self._order + ("IBBHQQ" if self._is_64 else "IIIBBH")
        table = self._at(self._offset(tags[_DT_SYMTAB]), size - size % struct.calcsize(form))
        defined, undefined = set(), set()
        for fields in struct.iter_unpack(form, table):
            name, (info, other, section) = fields[0], fields[1:4] if self._is_64 else fields[3:6]
            binding = info >> 4
            if not name or binding == _STB_LOCAL or other & 3 in _HIDDEN:
                continue
            if section:
                defined.add(self._string(name))
            elif binding != _STB_WEAK:
                undefined.add(self._string(name))
        return Symbols(frozenset(defined), frozenset(undefined))

    def _symbol_table_size(self) -> int:
        """Return the bytes of the dynamic symbol table; 0 if no section header tells."""
        if self._is_64:
            (table,) = self._unpack("Q", 40)
            entry, count = self._unpack("HH", 58)
        else:
            (table,) = self._unpack("I", 32)
            entry, count = self._unpack("HH", 46)
        form = self._order + ("IIQQQQIIQQ" if self._is_64 else "10I")
        if not table or count > _MAX_SECTIONS or entry < struct.calcsize(form):
            return 0
        sections = (self._unpack(form[1:], table + number * entry) for number in range(count))
        size = next((fields[5] for fields in sections if fields[1] == _SHT_DYNSYM), 0)
        if size > _MAX_SYMBOLS * struct.calcsize("IBBHQQ"):
            raise ElfInvalid(f"a symbol table of {size} bytes")
        return size

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise ElfInvalid("truncated ELF file")
        return data

    def _unpack(self, form: str, offset: int) -> tuple[int, ...]:
        size = struct.calcsize(self._order + form)
        return struct.unpack(self._order + form, self._at(offset, size))

    def _headers(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield type, offset, address and file size of each program header."""
        self._type, self._machine = self._unpack("HH", 16)
        if self._is_64:
            (table,) = self._unpack("Q", 32)
            entry, count = self._unpack("HH", 54)
        else:
            (table,) = self._unpack("I", 28)
            entry, count = self._unpack("HH", 42)
        form = "IIQQQQ" if self._is_64 else "IIIIII"
        if count > _MAX_HEADERS or (count and entry < struct.calcsize(self._order + form)):
            raise ElfInvalid(f"{count} program headers of {entry} bytes")
        for number in range(count):
            fields = self._unpack(form, table + number * entry)
            if self._is_64:
                kind, _flags, offset, address, _physical, size = fields
            else:
                kind, offset, address, _physical, size, _memory = fields
            yield kind, offset, address, size

    def _dynamic(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        form = self._order + ("qQ" if self._is_64 else "iI")
        step = struct.calcsize(form)
        size = size - size % step
        if size > _MAX_DYNAMIC:
            raise ElfInvalid(f"a dynamic section of {size} bytes")
        for tag, value in struct.iter_unpack(form, self._at(offset, size)):
            if tag == 0:
                return
            yield tag, value

    def _offset(self, address: int) -> int:
        """Return the file offset that the loader maps at an address."""
        for kind, offset, start, size in self._segments:
            if kind == _PT_LOAD and start <= address < start + size:
                return offset + address - start
        raise ElfInvalid(f"the address {address:#x} is in no segment")

    def _string_table(self, tags: dict[int, int]) -> bytes:
        if _DT_STRTAB not in tags or not 0 < tags.get(_DT_STRSZ, 0) <= _MAX_STRINGS:
            raise ElfInvalid("no usable string table")
        return self._at(self._offset(tags[_DT_STRTAB]), tags[_DT_STRSZ])

    def _string(self, offset: int) -> bytes:
        end = self._strings.find(b"\0", offset, offset + _MAX_NAME) if 0 <= offset < len(self._strings) else -1
        if end < 0:
            raise ElfInvalid(f"no string at {offset:#x}")
        return self._strings[offset:end]

    def _directories(self, offset: int | None) -> tuple[bytes, ...]:
        return tuple(filter(None, self._string(offset).split(b":"))) if offset is not None else ()

    def _version_needs(self, tags: dict[int, int]) -> Iterator[tuple[bytes, frozenset[bytes]]]:
        """Yield the required version names by library; records of the same library are merged."""
        needs: dict[bytes, set[bytes]] = {}
        if _DT_VERNEED in tags:
            place = self._offset(tags[_DT_VERNEED])
            for _ in range(self._count(tags, _DT_VERNEEDNUM)):
                _version, count, file, first, following = self._unpack("HHIII", place)
                names = needs.setdefault(self._string(file), set())
                names.update(self._needed_names(place + first, count))
                place += following
        for file_name, names in needs.items():
            yield file_name, frozenset(names)

    def _needed_names(self, place: int, count: int) -> Iterator[bytes]:
        if count > _MAX_VERSIONS:
            raise ElfInvalid(f"{count} versions of one library")
        for _ in range(count):
            _hash, flags, _other, name, following = self._unpack("IHHII", place)
            if not flags & _VER_FLG_WEAK:
                yield self._string(name)
            place += following

    def _version_definitions(self, tags: dict[int, int]) -> Iterator[bytes]:
        if _DT_VERDEF not in tags:
            return
        place = self._offset(tags[_DT_VERDEF])
        for _ in range(self._count(tags, _DT_VERDEFNUM)):
            _version, _flags, _index, count, _hash, first, following = self._unpack("HHHHIII", place)
            if count:
                (name,) = self._unpack("I", place + first)  # the remaining names are its predecessors
                yield self._string(name)
            place += following

    @staticmethod
    def _count(tags: dict[int, int], tag: int) -> int:
        count = tags.get(tag, 0)
        if count > _MAX_VERSIONS:
            raise ElfInvalid(f"{count} version records")
        return count
