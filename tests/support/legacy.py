"""
The shell procedure that baseimg replaces, run word by word, so that there are nodes to take over.

Its text is `old-procedure.txt`, as its users keep it: prose and two scripts. The prose is commented out, and the
overlay directory is the test's own. Everything else runs as it is, mistakes included. `docker` is the real command for
a private engine, or a script that answers `docker inspect` for directories that no engine has. `yum` and `docker pull`
do nothing.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

TEXT = Path(__file__).with_name("old-procedure.txt").read_text(encoding="utf-8")
_PROSE = re.compile(r"^(?=[0-9]+\.|[^\x00-\x7f])", re.MULTILINE)
_OVERLAY = re.compile(r"^OVERLAYDIR=.*$", re.MULTILINE)

_DOCKER = """#!/bin/sh
[ "$1" != pull ] || exit 0
{inspect}
"""
_ANSWER = 'cat "$(dirname "$0")/$(echo "$2" | tr /: __).json"'
# Kills the script in its n-th cp: after some of the sources, and after half of a file of the next one.
_CP = """#!/bin/bash
state=$(dirname "$0")/calls
echo >> "$state"
[ "$(wc -l < "$state")" = {call} ] || exec {cp} "$@"
arguments=("$@"); sources=("${{arguments[@]:1:$#-2}}"); target=${{arguments[-1]}}
for ((i = 0; i < {sources}; i++)); do {cp} -af "${{sources[i]}}" "$target"; done
next=${{sources[{sources}]}}
file=$(find "$next" -type f -size +0 | sort | head -n 1)
if [ -n "$file" ]; then
    half=$target/${{file#"$(dirname "$next")"/}}
    mkdir -p "$(dirname "$half")"
    head -c $(($(stat -c %s "$file") / 2)) "$file" > "$half"
fi
kill -9 $PPID
"""


def script(part: int, overlay: Path) -> str:
    """Part 1 of the text (on the build machine) or part 2 (on a node) as a script."""
    parts = re.split(r"^(?=[12]\. )", TEXT, flags=re.MULTILINE)
    return _OVERLAY.sub(f"OVERLAYDIR={overlay}", _PROSE.sub("# ", parts[part]))


class Procedure:
    """
    The procedure for images of one machine.

    `images` gives for a reference its layer directories, top first, where no engine has them; without it `url` is the
    address of an engine.
    """

    def __init__(self, images: Mapping[str, Sequence[str]] | None = None, url: str = "") -> None:
        self._images, self._url = images, url

    def build(self, source: str, target: str, builder: Path) -> Path:
        """Run part 1 with this overlay directory of a build machine; returns the archive."""
        builder.mkdir(parents=True, exist_ok=True)
        self._run(1, builder, source, target)
        tag = target.rpartition(":")[2]
        return builder / f"tmp/BASE-{tag}/BASE-{tag}-diff.tar.gz"

    def update(
        self, archive: Path, source: str, target: str, overlay: Path, interrupted: tuple[int, int] | None = None
    ) -> None:
        """
        Run part 2 on a node with this overlay directory, after the archive was uploaded.

        `interrupted` is the number of the `cp` that does not end, from 1 on, and how many of its sources it copies.
        """
        tag = target.rpartition(":")[2]
        (overlay / "tmp").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(archive, overlay / f"tmp/BASE-{tag}-diff.tar.gz")
        self._run(2, overlay, source, target, interrupted)

    def _run(
        self, part: int, overlay: Path, source: str, target: str, interrupted: tuple[int, int] | None = None
    ) -> None:
        arguments = [*source.rsplit(":", 1), *target.rsplit(":", 1)]
        with tempfile.TemporaryDirectory() as commands:
            self._commands(Path(commands), interrupted)
            environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "DOCKER_HOST": self._url}
            run = ["bash", "-c", script(part, overlay), "bash", *arguments]
            # no mistake of a command ends the script, so its exit code says nothing
            process = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
        assert (process.returncode == -9) == (interrupted is not None), process.stderr

    def _commands(self, directory: Path, interrupted: tuple[int, int] | None) -> None:
        for reference, layers in (self._images or {}).items():
            data = {"UpperDir": layers[0], **({"LowerDir": ":".join(layers[1:])} if layers[1:] else {})}
            text = json.dumps([{"GraphDriver": {"Data": data}}])
            (directory / f"{reference.replace('/', '_').replace(':', '_')}.json").write_text(text)
        inspect = _ANSWER if self._images is not None else f'exec {shutil.which("docker")} "$@"'
        commands = {"docker": _DOCKER.format(inspect=inspect), "yum": "#!/bin/sh\n"}
        if interrupted:
            call, sources = interrupted
            commands["cp"] = _CP.format(call=call, sources=sources, cp=shutil.which("cp"))
        for name, text in commands.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)


def pack(source: str, target: Sequence[str], archive: Path) -> Path:
    """Build an archive of layer directories; `target` has them top first, and `source` is the one not to pack."""
    images = {"source:old": [source], "target:new": target}
    with tempfile.TemporaryDirectory(dir=archive.parent) as builder:
        shutil.move(Procedure(images).build("source:old", "target:new", Path(builder)), archive)
    return archive


def update(overlay: Path, archive: Path, version: str, upper: str, tag: str) -> None:
    """Update the node; `upper` and `tag` are those of the source, and count only at the first update."""
    Procedure({f"source:{tag}": [upper]}).update(archive, f"source:{tag}", f"target:{version}", overlay)


def restore(overlay: Path, version: str, record: bool = True) -> None:
    """Copy a backup back by hand, as operators did; `record` sets the version in the properties, too."""
    properties = overlay / "tmp/baseimg.properties"
    text = properties.read_text()
    directory = re.findall("^base.dir=(.*)$", text, re.MULTILINE)[0].strip()
    command = f'cp -af "{overlay}/tmp/backup/{version}"/* "{directory}"/'
    subprocess.run(["bash", "-c", command], check=False, capture_output=True)
    if record:
        properties.write_text(re.sub("(?m)^base.ver=.*$", f"base.ver={version}", text))


def tar_split(tar: bytes) -> bytes:
    """What Docker would remember of a layer that came as ``tar``."""
    lines: list[dict[str, object]] = []
    position = 0
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            lines.append(_segment(tar[position : info.offset_data]))
            content = tar[info.offset_data : info.offset_data + info.size] if info.isfile() else b""
            position = info.offset_data + len(content)
            checksum = crc64(content).to_bytes(8, "big") if content else None
            name = info.name.encode("utf-8", "surrogateescape")
            line: dict[str, object] = {"type": 1, "payload": checksum and base64.b64encode(checksum).decode()}
            line["name_raw"] = base64.b64encode(name).decode()
            lines.append({**line, "size": len(content)} if content else line)
    lines.append(_segment(tar[position:]))
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def _segment(data: bytes) -> dict[str, object]:
    return {"type": 2, "payload": base64.b64encode(data).decode()}


def _table() -> list[int]:
    table = list(range(256))
    for index in range(256):
        for _ in range(8):
            table[index] = (table[index] >> 1) ^ (0xD800000000000000 if table[index] & 1 else 0)
    return table


_TABLE = _table()


def crc64(data: bytes) -> int:
    """As textbooks have it, byte by byte: tests compare the core's own with it."""
    remainder = (1 << 64) - 1
    for byte in data:
        remainder = _TABLE[(remainder ^ byte) & 0xFF] ^ (remainder >> 8)
    return remainder ^ ((1 << 64) - 1)
