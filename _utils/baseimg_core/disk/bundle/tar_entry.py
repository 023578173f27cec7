"""Entries from headers of tars that others wrote: an image's layers, the old scripts' archives."""

from __future__ import annotations

import tarfile

from ...errors import LayerUnsupported
from ...model.stack import overlay
from ...model.stack.entry import NANO, Entry, Kind
from .layer import KINDS, XATTR

_STRANGE = "no usual tool writes such an archive: find out where it comes from"
_KINDS = KINDS | {tarfile.CONTTYPE: Kind.FILE}


def raw(text: str) -> bytes:
    """A name's bytes, where the tar was opened with ``surrogateescape``."""
    return text.encode("utf-8", "surrogateescape")


def plain(name: str) -> bytes:
    """
    A name as a relative path without ``.``; the root is the empty path.

    Raises :class:`LayerUnsupported` for one that leads out of the root.
    """
    parts = [part for part in raw(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in raw(name):
        raise LayerUnsupported(f"the name {overlay.shown(raw(name)[:200])} leads out of the archive", _STRANGE)
    return b"/".join(parts)


def entry(info: tarfile.TarInfo, kind: Kind | None = None) -> Entry:
    """
    What a header says of its path; ``kind`` is that of the path which a hard link is linked to.

    Raises :class:`LayerUnsupported` for a type that no layer carries.
    """
    found = kind or _KINDS.get(info.type)
    if found is None or info.issparse():
        raise LayerUnsupported(
            f"{overlay.shown(raw(info.name)[:200])} is of the type {info.type!r}, which is not handled",
            "a layer holds files, directories, links, FIFOs and devices",
        )
    return Entry(
        kind=found,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime_ns=_mtime_ns(info),
        size=info.size if found is Kind.FILE and kind is None else 0,
        target=raw(info.linkname) if found is Kind.SYMLINK else b"",
        device=(info.devmajor, info.devminor) if found in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=_xattrs(info),
    )


def _mtime_ns(info: tarfile.TarInfo) -> int:
    """Exactly, which the number that ``tarfile`` makes of it is not; engines take times before 1970 as 1970."""
    whole, _, fraction = info.pax_headers.get("mtime", str(int(info.mtime))).partition(".")
    try:
        found = int(whole) * NANO + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        raise LayerUnsupported(f"{overlay.shown(raw(info.name)[:200])} has a time that is none", _STRANGE) from None
    return max(found, 0)


def _xattrs(info: tarfile.TarInfo) -> dict[str, bytes]:
    names = {key: key.removeprefix(XATTR) for key in info.pax_headers if key.startswith(XATTR)}
    return {name: raw(info.pax_headers[key]) for key, name in sorted(names.items()) if overlay.carried(name)}
