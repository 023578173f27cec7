"""Control characters in texts of nodes, containers and bundles never reach a terminal."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from baseimg_core.display import printable
from baseimg_core.engine import mounts
from baseimg_core.errors import BaseimgError
from baseimg_core.linux.oserrors import translate_os_errors
from baseimg_core.model.containers.policy import ContainerPolicy
from baseimg_core.model.stack import overlay
from baseimg_core.ops.containers import gate

ESCAPES = "\x1b]0;owned\x07 \x9b31m \u202e \r"


def is_safe(value: object) -> bool:
    return all(character.isprintable() or character == "\n" for character in str(value))


def test_errors() -> None:
    error = BaseimgError(f"first line\n{ESCAPES}", f"hint {ESCAPES}")
    assert is_safe(error)
    assert all(map(is_safe, error.as_dict().values()))
    assert error.message.startswith("first line\n\ufffd]0;owned\ufffd")


def test_errors_are_not_cut() -> None:
    assert len(BaseimgError("\x1b" + "x" * 5000).message) == 5001


def test_errors_of_the_system_about_a_path() -> None:
    path = f"/srv/{ESCAPES}"
    with pytest.raises(BaseimgError) as caught, translate_os_errors(path):
        raise FileNotFoundError(2, "No such file or directory", path)
    assert is_safe(caught.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"etc/plain", "etc/plain"),
        ("etc/ünï".encode(), "etc/ünï"),
        (b"etc/\x1b[31m", "etc/\\x1b[31m"),
        (b"etc/new\nline", "etc/new\\nline"),
        ("etc/\u202etxt".encode(), "etc/\\u202etxt"),
        (b"etc/\xff", "etc/\\xff"),
    ],
)
def test_paths(path: bytes, expected: str) -> None:
    assert overlay.path_text(path) == expected


def _engine(**of: Any) -> Any:
    return SimpleNamespace(**of)


def test_the_last_lines_of_a_log() -> None:
    lines = gate.last_lines(_engine(logs=lambda _id, _lines: ["fine", ESCAPES]), SimpleNamespace(id="1"))  # type: ignore[arg-type]
    assert lines[0] == "fine"
    assert all(map(is_safe, lines))


def test_what_a_health_check_says() -> None:
    now = SimpleNamespace(
        id="1", name="shop", health="unhealthy", health_output=ESCAPES, state="running", restarts=0, labels={}
    )
    gated = gate.ContainerGate(_engine(container=lambda _id: now), now, ContainerPolicy())  # type: ignore[arg-type]
    assert gated.passed() is False
    assert is_safe(gated)


def test_the_name_of_a_process() -> None:
    name = Path(f"/proc/{os.getpid()}/comm")
    before = name.read_text()
    try:
        name.write_text("x\x1b]0;own\x07")
        assert is_safe(mounts._command(os.getpid()))
    finally:
        name.write_text(before)


def test_every_character_below_space_and_the_marks_of_direction() -> None:
    marks = [*range(32), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    assert all(printable(chr(mark)) == "\ufffd" for mark in marks)
