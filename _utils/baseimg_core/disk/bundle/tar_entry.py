"""Convert tar headers of other tools to entries: image layers and archives of the old scripts."""

from __future__ import annotations

import tarfile

from ...errors import LayerUnsupported
from ...model.stack import overlay
from ...model.stack.entry import NANO, Entry, Kind
from .layer import KINDS, XATTR

_STRANGE = "common tools do not write such archives; check the origin of the archive"
_KINDS = KINDS | {tarfile.CONTTYPE: Kind.FILE}


def to_bytes(text: str) -> bytes:
    """Encode a name from a tar that was opened with ``surrogateescape``."""
    return text.encode("utf-8", "surrogateescape")


def relative_path(name: str) -> bytes:
    """
    Normalise a name to a relative path without ``.``; the root is the empty path.

    Raises:
        LayerUnsupported: The name contains ``..`` or a NUL byte.
    """
    parts = [part for part in to_bytes(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in to_bytes(name):
        raise LayerUnsupported(f"the name {overlay.path_text(to_bytes(name)[:200])} leads out of the archive", _STRANGE)
    return b"/".join(parts)


def entry_of(info: tarfile.TarInfo, kind: Kind | None = None) -> Entry:
    """
    Convert a header to an entry. For a hard link, ``kind`` is the kind of its target.

    Raises:
        LayerUnsupported: The type does not exist in layers, or the time is malformed.
    """
    entry_kind = kind or _KINDS.get(info.type)
    if entry_kind is None or info.issparse():
        raise LayerUnsupported(
            f"{overlay.path_text(to_bytes(info.name)[:200])} has the unsupported type {info.type!r}",
            "a layer holds files, directories, links, FIFOs and devices",
        )
    return Entry(
        kind=entry_kind,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime_ns=_mtime_ns(info),
        size=info.size if entry_kind is Kind.FILE and kind is None else 0,
        target=to_bytes(info.linkname) if entry_kind is Kind.SYMLINK else b"",
        device=(info.devmajor, info.devminor) if entry_kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=_xattrs(info),
    )


def _mtime_ns(info: tarfile.TarInfo) -> int:
    """Return the exact time; ``tarfile`` rounds to a float. Engines clamp times to 1970."""
    whole, _, fraction = info.pax_headers.get("mtime", str(int(info.mtime))).partition(".")
    try:
        time = int(whole) * NANO + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        raise LayerUnsupported(
            f"{overlay.path_text(to_bytes(info.name)[:200])} has a malformed time", _STRANGE
        ) from None
    return max(time, 0)


def _xattrs(info: tarfile.TarInfo) -> dict[str, bytes]:
    names = {key: key.removeprefix(XATTR) for key in info.pax_headers if key.startswith(XATTR)}
    return {name: to_bytes(info.pax_headers[key]) for key, name in sorted(names.items()) if overlay.is_carried(name)}
