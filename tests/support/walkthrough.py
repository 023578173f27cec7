"""
Documents played as an operator reads them: their files are written, their commands run, their output compared.

A fenced block ``console`` holds commands (``$ command``) and what they print. ``…`` stands for any text in a line, and
alone on a line for any number of lines. A fenced block that begins with ``# /path`` is a file. A machine is a mount
namespace with ``/etc``, ``/opt`` and ``/srv`` of its own, so documents may use the paths of a real machine.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from tests.support.deadlines import SECONDS, Deadline, scaled

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SCRIPTS = str(Path(sys.executable).parent)
# In a namespace of its own; `$1` is a directory for what belongs to this machine.
_PREPARE = """
set -e
mkdir -p "$1/etc" "$1/work" "$1/opt" "$1/srv" "$1/home"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" overlay /etc
mount --bind "$1/opt" /opt
mount --bind "$1/srv" /srv
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Command:
    text: str
    output: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """A regular expression for the whole output."""
        lines = ["(?:.*\n)*?" if line.strip() == "…" else _escaped(line.rstrip()) + "\n" for line in self.output]
        return "".join(lines)


@dataclass(frozen=True)
class File:
    path: str
    content: str


def _escaped(line: str) -> str:
    return ".*?".join(re.escape(part) for part in line.split("…"))


def steps(page: str) -> Iterator[Command | File]:
    """Yield the commands and the files of a document, in order."""
    for indent, language, body in _BLOCK.findall(page):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        if language == "console":
            yield from _commands(lines)
        elif lines and re.match(r"# /\S+$", lines[0]):
            yield File(lines[0].removeprefix("# "), "\n".join(lines[1:]) + "\n")


def _commands(lines: list[str]) -> Iterator[Command]:
    text = "\n".join(lines)
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *output = part.rstrip("\n").split("\n")
        while command.endswith("\\"):
            command += "\n" + output.pop(0)
        yield Command(command, tuple(output))


class Machine:
    """A mount namespace in which documents are played; its daemons and mounts end with it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        path = f"{_SCRIPTS}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.environment = {**os.environ, **environment, "PATH": path, "HOME": f"{directory}/home", "LC_ALL": "C.UTF-8"}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Machine:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _PREPARE, "sh", str(self.directory)]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for daemon in self._daemons:
            _end(daemon.pid)
        os.killpg(self._holder.pid, signal.SIGKILL)
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def write(self, file: File) -> None:
        """Write a file below ``/etc``, ``/opt`` or ``/srv``."""
        top = file.path.split("/")[1]
        assert top in ("etc", "opt", "srv"), file.path
        # Through the namespace: /etc is an overlay there.
        command = 'mkdir -p "$(dirname "$1")" && cat >"$1"'
        subprocess.run(self._inside("sh", "-c", command, "sh", file.path), input=file.content, text=True, check=True)

    def play(self, command: Command) -> None:
        """Run a command; it must succeed and print what the document shows."""
        process = self.run(command.text)
        printed = "".join(f"{line.rstrip()}\n" for line in process.stdout.splitlines())
        assert process.returncode == 0, f"$ {command.text}\n{printed}{process.stderr}"
        expected = "\n".join(command.output)
        assert re.fullmatch(command.pattern, printed), f"$ {command.text}\nshown:\n{expected}\nprinted:\n{printed}"

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in the machine."""
        return subprocess.run(
            self._inside("sh", "-c", command),
            env=self.environment,
            cwd=f"{self.directory}/home",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scaled(SECONDS),
            check=False,
        )

    def start(self, *command: str) -> None:
        """Start a daemon that ends with the machine."""
        log = (self.directory / f"{command[0]}.log").open("wb")
        with log:
            self._daemons.append(
                subprocess.Popen(
                    self._inside(*command),
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def wait_for(self, command: str) -> None:
        """Repeat a line of shell until it succeeds; the logs of the daemons explain a failure."""
        deadline = Deadline()
        while (process := self.run(command)).returncode:
            logs = [log.read_text(errors="replace")[-2000:] for log in self.directory.glob("*.log")]
            assert not deadline.passed(), "\n".join((process.stdout, process.stderr, *logs))

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={self.directory}/home", *command]


def _end(pid: int) -> None:
    """End a process and everything that it started, in order, then by force."""
    try:
        processes = [process := psutil.Process(pid), *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    for process in psutil.wait_procs(processes, timeout=20)[1]:
        process.kill()
