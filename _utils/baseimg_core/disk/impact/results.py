"""
Results of ``baseimg judge`` in a directory, by a digest of everything that decides them.

::

    <directory>/judged/<hex>.json    the judgement of one image

At most 10,000 results are kept; those that were not used for longest are deleted. Files with other
names stay. An operator may delete any file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

from ...linux.files import make_directories, read_regular, save, unlink_if_exists
from ...linux.oserrors import translate_os_errors
from ...model.impact.verdict import Verdict

_MAX_FILES = 10_000
_RESULT = re.compile(r"[0-9a-f]{64}\.json")


class Results:
    """The results in one directory."""

    def __init__(self, directory: str) -> None:
        """The directory of the results must exist."""
        self._directory = directory

    @classmethod
    def open(cls, directory: str) -> Results:
        """
        Create the directory of the results below ``directory``.

        Raises:
            DestinationUnwritable: The directory cannot be created.
        """
        own = os.path.join(directory, "judged")
        with translate_os_errors(own):
            make_directories(own)
        return cls(own)

    def read(self, key: str) -> tuple[Verdict, dict[str, Any]] | None:
        """Return the verdict and the judgement of a key; ``None`` without one, or if it is damaged."""
        path = self._path(key)
        try:
            judgement = json.loads(read_regular(path))
            os.utime(path)  # mark as used, for prune
            return Verdict(judgement["verdict"]), judgement
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def write(self, key: str, judgement: dict[str, Any]) -> None:
        """Save a judgement. On a full disk nothing is saved."""
        with contextlib.suppress(OSError):
            save(self._path(key), json.dumps(judgement).encode())

    def prune(self) -> None:
        """Delete the results that were not used for longest."""
        files = []
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process prunes, too
                    if _RESULT.fullmatch(entry.name):
                        files.append((entry.stat().st_mtime, entry.path))
        for _time, path in sorted(files)[:-_MAX_FILES]:
            unlink_if_exists(path)

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, key + ".json")
