#!/bin/bash
# Make each system call of baseimg on aarch64, under qemu-user: through the C library and through its number, with the same answer.
# Needs apt and debootstrap; keeps the tree (download: 60 MB).
set -euo pipefail
cd "$(dirname "$0")/.."

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/baseimg-tests/aarch64
SUITE=bookworm

if [ ! -d "$CACHE" ]; then
    echo "aarch64: Debian $SUITE for arm64 and qemu-user-static, into $CACHE (download: 60 MB)"
    rm -rf "$CACHE.new"
    mkdir -p "$CACHE.new"
    # the first stage runs no program of the tree
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 "$SUITE" "$CACHE.new/tree" \
        "$(.venv/bin/python -m tests.support.apt "$SUITE")" >"$CACHE.log" 2>&1
    for package in "$CACHE.new"/tree/var/cache/apt/archives/*.deb; do
        # `dpkg -x` would replace the links /lib and /bin by directories
        dpkg --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$CACHE.new/tree"
    done
    (cd "$CACHE.new" && apt-get download -qq qemu-user-static 2>/dev/null && dpkg -x qemu-user-static_*.deb qemu)
    mv "$CACHE.new" "$CACHE"
fi

"$CACHE/qemu/usr/bin/qemu-aarch64-static" -L "$CACHE/tree" "$CACHE/tree/usr/bin/python3" - "$PWD/_utils" <<'PY'
import os, platform, sys, tempfile

sys.path.insert(0, sys.argv[1])
from baseimg_core.linux import syscalls


class OnlySyscall:
    syscall = syscalls._libc.syscall


def answers(work):
    first, second, file = (os.path.join(work, name) for name in ("first", "second", "file"))
    os.makedirs(first)
    os.makedirs(f"{second}/inside")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x" * 10_000)
    calls = {
        "renameat2": lambda: (syscalls.exchange(first, second), os.listdir(first), os.listdir(second)),
        "syncfs": lambda: (syscalls.sync_filesystem(work), syscalls.has_syncfs()),
        "sync_file_range": lambda: syscalls.write_back(descriptor, 0, 10_000, True),
        "fallocate": lambda: (syscalls.allocate(descriptor, 1 << 20), os.fstat(descriptor).st_blocks * 512 >= 1 << 20),
        "statx": lambda: syscalls.mount_id(work),
        "open_tree": lambda: os.close(syscalls.clone_mount(work)),
        "statfs": lambda: syscalls.file_system_type(work),
        "adjtimex": syscalls.clock_state,
        "openat2": lambda: os.close(syscalls.openat2(syscalls._AT_FDCWD, os.fsencode(work), os.O_RDONLY, 0)),
    }
    assert calls.keys() == syscalls._NUMBERS[platform.machine()].keys()
    return {name: answer(call) for name, call in calls.items()}


def answer(call):
    try:
        return call()
    except OSError as exc:
        return os.strerror(exc.errno)


with tempfile.TemporaryDirectory() as work:
    symbols = answers(f"{work}/symbols")
    syscalls._libc = OnlySyscall()
    numbers = answers(f"{work}/numbers")
for name in symbols:
    print(f"{platform.machine()} {name}: {numbers[name]}")
sys.exit(symbols != numbers)
PY
