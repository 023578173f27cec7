"""Reads and writes the holds of one base (:mod:`model.store.hold`), a file next to the record."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import RecordInvalid
from ...linux import files
from ...linux.oserrors import translate_os_errors
from ...model.store import hold as model_hold
from ...model.store.hold import Hold
from .layout import now


def read(path: str) -> list[Hold]:
    """
    Return the stored holds, expired ones included. An absent file has no holds.

    Raises:
        RecordInvalid: The file is damaged.
    """
    try:
        return model_hold.parse(files.read_regular(path), path)
    except FileNotFoundError:
        return []
    except ValueError as exc:
        raise RecordInvalid(str(exc)) from exc


def active(path: str) -> list[Hold]:
    """
    Return the stored holds that have not expired.

    Raises:
        RecordInvalid: The file is damaged.
    """
    return model_hold.active(read(path), now())


def write(path: str, holds: Sequence[Hold]) -> None:
    """Replace the stored holds; delete the file if there are none."""
    with translate_os_errors(path):
        if holds:
            files.save(path, model_hold.dump(holds))
        else:
            files.unlink_if_exists(path)
