"""
The OCI runtime configuration of a throw-away container (OCI runtime-spec, config.md).

The container has the user, the environment and the working directory of an image, and the default capabilities of
container engines. It has neither network nor host mounts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..impact.dependencies import DEFAULT_PATH

# Docker's default capabilities with their bits (linux/capability.h)
_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
_PROCESSES = 512
_TMPFS = ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")
# the paths that engines hide from containers by default
_MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class User:
    """A user of an image by numbers."""

    #: The user ID.
    uid: int
    #: The group ID.
    gid: int
    #: IDs of the supplementary groups.
    groups: tuple[int, ...] = ()
    #: The home directory.
    home: str = "/"


class UserUnknown(Exception):
    """The image has no such user or group; the message is the reason."""


def user(name: str, passwd: str, group: str) -> User:
    """
    Resolve the user of an image as engines do (OCI image-spec, config.md, ``User``).

    Args:
        name: ``USER`` or ``USER:GROUP``, names or numbers; empty for root.
        passwd: The content of the image's ``/etc/passwd``.
        group: The content of the image's ``/etc/group``.

    Raises:
        UserUnknown: A name is missing in these files.
    """
    user_name, _, group_name = (name or "0").partition(":")
    accounts, groups = _records(passwd, 6), _records(group, 3)
    account = next((fields for fields in accounts if fields[0] == user_name), None) or next(
        (fields for fields in accounts if fields[2] == user_name), None
    )
    if account is None and not user_name.isdecimal():
        raise UserUnknown(f"the image has no user {user_name}")
    uid = int(account[2] if account else user_name)
    gid, more = int(account[3]) if account else 0, list[int]()
    if group_name:
        own = next((fields for fields in groups if group_name in (fields[0], fields[2])), None)
        if own is None and not group_name.isdecimal():
            raise UserUnknown(f"the image has no group {group_name}")
        gid = int(own[2] if own else group_name)
    elif account:
        more = [int(fields[2]) for fields in groups if account[0] in fields[3].split(",")]
    # the own group too: else a program that drops it gains what the group is denied (CVE-2022-36109)
    return User(uid, gid, tuple(dict.fromkeys((gid, *more))), account[5] if account else "/")


def _records(text: str, fields: int) -> list[list[str]]:
    """Return the lines of passwd(5) or group(5) that are complete and have numeric IDs."""
    records = [line.split(":") for line in text.splitlines()]
    numeric = slice(2, 4) if fields > 3 else slice(2, 3)
    return [
        record
        for record in records
        if len(record) > fields and all(number.isascii() and number.isdecimal() for number in record[numeric])
    ]


def environment(config: Mapping[str, Any], home: str) -> list[str]:
    """Return an image's variables, with ``PATH`` and ``HOME`` if it has none."""
    own = [str(text) for text in config.get("Env") or ()]
    names = {text.partition("=")[0] for text in own}
    more = {"PATH": DEFAULT_PATH.decode(), "HOME": home}
    return [*own, *(f"{name}={value}" for name, value in more.items() if name not in names)]


def oci_config(
    command: Sequence[str], config: Mapping[str, Any], runs_as: User, memory: int, name: str, bounding: int
) -> dict[str, Any]:
    """
    Compose the runtime configuration of a container.

    Args:
        command: The words of the command.
        config: The image's raw configuration.
        runs_as: The image's user.
        memory: Limit in bytes.
        name: The name of the container's control group.
        bounding: The capabilities of the node, as a bit mask.

    Returns:
        The content of ``config.json``.
    """
    allowed = [capability for capability, bit in _CAPABILITIES.items() if bounding >> bit & 1]
    granted = allowed if runs_as.uid == 0 else []
    return {
        "ociVersion": "1.0.2",
        "hostname": "trial",
        "process": {
            "terminal": False,
            "user": {"uid": runs_as.uid, "gid": runs_as.gid, "additionalGids": list(runs_as.groups)},
            "args": list(command),
            "env": environment(config, runs_as.home),
            "cwd": str(config.get("WorkingDir") or "/"),
            "noNewPrivileges": True,
            "capabilities": {"bounding": allowed, "effective": granted, "permitted": granted},
        },
        "root": {"path": "root"},
        "mounts": [
            _mount("/proc", "proc", ()),
            _mount("/dev", "tmpfs", ("nosuid", "mode=755", "size=65536k")),
            _mount("/dev/shm", "tmpfs", _TMPFS),
            _mount("/sys", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
        ],
        "linux": {
            "cgroupsPath": f"/{name}",
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": memory},
                "pids": {"limit": _PROCESSES},
            },
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _mount(destination: str, kind: str, options: Collection[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}
