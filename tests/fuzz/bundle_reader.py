"""
A coverage-guided fuzz target over the bundle reader, for atheris (``pip install atheris``); not part of the test run.

    PYTHONPATH=_utils:. python tests/fuzz/bundle_reader.py -max_total_time=60 CORPUS_DIRECTORY

Whatever the bytes are, reading ends in a :class:`BundleInvalid` or in a bundle that holds. They are read as they are,
and as the layer of a bundle whose digests are right, so that the fuzzer gets behind those; and as a delta.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from baseimg_core.disk.bundle import compression, delta
    from baseimg_core.disk.bundle.reader import Bundle
    from baseimg_core.disk.bundle.source_files import SourceFiles
    from baseimg_core.disk.stack.directories import Stack
    from baseimg_core.errors import BundleInvalid, DeltaMismatch

from tests.support.forge import Forge

SIDE = {"reference": "a:1", "version": "1", "chain_id": "sha256:" + "1" * 64, "diff_ids": ["sha256:" + "1" * 64]}
OTHER = {"reference": "a:2", "version": "2", "chain_id": "sha256:" + "2" * 64, "diff_ids": ["sha256:" + "2" * 64]}
WORK = Path(tempfile.mkdtemp(prefix="baseimg-fuzz-"))


def read(data: bytes) -> None:
    """Read the bytes as a whole bundle, and as the layer of one whose digests are right."""
    raw = WORK / "raw.tar"
    raw.write_bytes(data)
    forged = Forge(SIDE, OTHER).bundle(WORK / "forged.tar", [data], end=b"")
    for path in (raw, forged):
        with contextlib.suppress(BundleInvalid), Bundle.open(str(path)) as bundle:
            bundle.verify()
    reader = delta.DeltaReader(io.BytesIO(data), SourceFiles(Stack([str(WORK)])))
    with contextlib.suppress(BundleInvalid, DeltaMismatch, *compression.errors()), contextlib.closing(reader):
        while reader.read(1 << 20):
            pass


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
