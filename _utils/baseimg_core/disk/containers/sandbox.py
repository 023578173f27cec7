"""
A throw-away container: a command over layers, run with the node's OCI runtime.

A supervisor, ``/bin/sh`` in a mount and PID namespace, mounts the layers below an upper directory on tmpfs and starts
the runtime. The kernel removes mounts, files and processes with the namespaces. The supervisor kills the container as
soon as its stdin is closed, so a killed caller leaves no process behind.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import selectors
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import TrialUnavailable
from ...model.containers import seccomp
from ...model.containers.sandbox import oci_config, user
from ...model.containers.trial import TrialOutcome

_RUNTIMES = ("runc", "crun")
_OUTPUT = 1 << 16  # bytes that are kept
_GRACE = 30  # seconds for the supervisor to kill a container
_SETUP_FAILED = 125
# Arguments: mount point, runtime, container ID, tmpfs options, mode and owner of the root, config.json, and the layers,
# top first. Layers get short names, because mount(2) takes a page of options.
_SUPERVISOR = r"""
set -eu
umask 022
place=$1 runtime=$2 id=$3 options=$4 mode=$5 owner=$6 config=$7
shift 7
trap '[ "${trial:-}" ] || exit 125' EXIT
mount -t tmpfs -o "$options" baseimg-trial "$place"
cd "$place"
mkdir upper work root state
chown "$owner" upper
chmod "$mode" upper
number=0 lower=
for layer; do
  ln -s "$layer" "$number"
  lower=$lower${lower:+:}$number
  number=$((number + 1))
done
mount -t overlay -o "lowerdir=$lower,upperdir=upper,workdir=work,redirect_dir=off,metacopy=off" baseimg-trial root
printf %s "$config" > config.json
run() { "$runtime" --root "$place/state" --log "$place/log" --log-format json "$@"; }
stop() {
  kill -KILL $trial || :
  run kill "$id" KILL || :
  run delete --force "$id" || :
  exit 124
}
exec 3<&0 4>&2 < /dev/null
run run --bundle "$place" "$id" 2>&1 &
trial=$!
trap 'stop > /dev/null 2>&1' TERM
{ read -r _ <&3 || :; kill -TERM $$; } > /dev/null 2>&1 &
code=0
wait $trial || code=$?
trap '' TERM
run delete --force "$id" > /dev/null 2>&1 || :
cat log >&4 2> /dev/null || :
exit $code
"""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A place for throw-away containers of one image."""

    #: The layers, top first.
    layers: Sequence[str]
    #: The image's raw configuration.
    config: Mapping[str, Any]
    #: The content of the image's ``/etc/passwd`` and ``/etc/group``.
    accounts: tuple[str, str]
    #: An empty directory; a tmpfs is mounted there in the supervisor's own mount namespace.
    place: str
    #: A unique name for container and control group.
    name: str
    #: Called about once a second while a command runs; may raise to end it.
    check: Callable[[], None] = lambda: None

    def run(self, command: Sequence[str], timeout: float, memory: int) -> TrialOutcome:
        """
        Run a command.

        Args:
            command: The words of the command.
            timeout: Seconds after which it is killed.
            memory: Limit for processes and written files, in bytes.

        Returns:
            Its outcome.

        Raises:
            TrialUnavailable: This node has no runtime, or cannot mount the layers.
            UserUnknown: The image has no account for its user.
        """
        runtime = next(filter(None, map(shutil.which, _RUNTIMES)), None)
        unshare = shutil.which("unshare")
        if runtime is None or unshare is None:
            missing = " or ".join(_RUNTIMES) if runtime is None else "unshare"
            raise TrialUnavailable(f"no {missing} in PATH: {os.environ.get('PATH', '')}")
        runs_as = user(str(self.config.get("User") or ""), *self.accounts)
        config = oci_config(command, self.config, runs_as, memory, self.name, _bounding())
        if seccomp.is_supported(_version(runtime)):
            config["linux"]["seccomp"] = seccomp.profile()
        root = os.stat(self.layers[0])
        attributes = [f"size={memory},mode=0755", f"{stat.S_IMODE(root.st_mode):o}", f"{root.st_uid}:{root.st_gid}"]
        arguments = [self.place, runtime, self.name, *attributes, json.dumps(config), *self.layers]
        namespaces = [unshare, "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        try:
            return _supervise(
                [*namespaces, "/bin/sh", "-c", _SUPERVISOR, "baseimg-trial", *arguments], timeout, self.check
            )
        finally:
            _remove_cgroups(self.name)


def _version(runtime: str) -> str:
    printed = subprocess.run([runtime, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return printed.stdout.decode("utf-8", "replace")


def _supervise(command: Sequence[str], timeout: float, check: Callable[[], None]) -> TrialOutcome:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as supervisor:
        assert supervisor.stdin
        try:
            output, log, in_time = _read(supervisor, time.monotonic() + timeout, check)
            if not in_time:
                supervisor.stdin.close()  # the supervisor kills the container
                rest, more, ended = _read(supervisor, time.monotonic() + _GRACE, check)
                output, log = (output + rest)[-_OUTPUT:], log + more
                if not ended:
                    supervisor.kill()
        except BaseException:
            supervisor.kill()
            raise
        code = supervisor.wait()
    return _outcome(code if in_time else None, output.decode("utf-8", "replace"), log.decode("utf-8", "replace"))


def _read(supervisor: subprocess.Popen[bytes], deadline: float, check: Callable[[], None]) -> tuple[bytes, bytes, bool]:
    """Return the end of both outputs, and whether they ended before the deadline. No process holds them afterwards."""
    parts = {supervisor.stdout: b"", supervisor.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for stream in parts:
            if stream and not stream.closed:
                selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return parts[supervisor.stdout], parts[supervisor.stderr], False
            check()
            for key, _events in selector.select(min(remaining, 1)):
                data = os.read(key.fd, _OUTPUT)
                if not data:
                    selector.unregister(key.fileobj)
                parts[key.fileobj] = (parts[key.fileobj] + data)[-_OUTPUT:]  # type: ignore[index]
    return parts[supervisor.stdout], parts[supervisor.stderr], True


def _outcome(code: int | None, output: str, log: str) -> TrialOutcome:
    errors = _errors(log)
    if code == _SETUP_FAILED and log and not errors:
        raise TrialUnavailable(f"cannot mount a trial: {log.strip()}")
    if code and errors:
        return TrialOutcome(None, output, errors[-1].rpartition("container process: ")[2])
    return TrialOutcome(code, output)


def _errors(log: str) -> list[str]:
    """Return the error messages in a runtime's JSON log."""
    messages = []
    for line in log.splitlines():
        with contextlib.suppress(ValueError, AttributeError):
            entry = json.loads(line)
            if entry.get("level") in ("error", "fatal"):
                messages.append(str(entry.get("msg")))
    return messages


def _bounding() -> int:
    """Return the capabilities that this process may pass on: proc(5), ``CapBnd``."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))


def _remove_cgroups(name: str) -> None:
    """Remove control groups of a killed runtime. Those in use stay."""
    for directory in (f"/sys/fs/cgroup/{name}", *glob.glob(f"/sys/fs/cgroup/*/{name}")):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
