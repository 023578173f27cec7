"""System calls give the same answers through the C library and through their numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from baseimg_core.linux import clock_sync, mounts, syscalls


class OnlySyscall:
    """A C library that has none of the symbols."""

    syscall = syscalls._libc.syscall


CALLS: dict[str, Callable[[Path], object]] = {
    "statx": lambda path: mounts.unique_mount_id(str(path)),
    "statfs": lambda path: (mounts.is_overlay(str(path)), syscalls.file_system_type(str(path))),
    "adjtimex": lambda _path: clock_sync.is_synchronised(),
    "open_tree": lambda path: (mounts.next_mount_id(str(path)) or 0) >= (mounts.unique_mount_id(str(path)) or 0),
    "openat2": lambda path: os.close(syscalls.openat2(syscalls._AT_FDCWD, bytes(path), os.O_RDONLY, 0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_and_symbols_agree(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = CALLS[name](tmp_path)
    monkeypatch.setattr(syscalls, "_libc", OnlySyscall())
    assert CALLS[name](tmp_path) == expected


def test_allocation_without_the_symbol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_libc", OnlySyscall())
    with (tmp_path / "file").open("wb") as file:
        syscalls.allocate(file.fileno(), 1 << 20)
        status = os.fstat(file.fileno())
    assert (status.st_size, status.st_blocks * 512 >= 1 << 20) == (0, True)


def test_a_failed_call_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_libc", OnlySyscall())
    for call in (syscalls.mount_id, syscalls.file_system_type, syscalls.clone_mount):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none"):
            call(f"{tmp_path}/none")


def test_both_architectures_have_the_same_calls() -> None:
    known = syscalls._NUMBERS
    assert known["x86_64"].keys() == known["aarch64"].keys()
