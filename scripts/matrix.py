"""Write the README's table of engines from the report of `make engines`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- engines: written by `make engines` -->\n", "<!-- engines: end -->\n"
NAMES = {
    "docker-overlay2": ("Docker", "overlay2"),
    "docker-userns": ("Docker", "overlay2, userns-remap"),
    "docker-containerd": ("Docker", "containerd, overlayfs"),
    "podman": ("Podman", "overlay"),
    "containerd": ("containerd", "overlayfs"),
}
RELEASES = {"here": "12", "trixie": "13"}


def row(cell: dict[str, object]) -> tuple[str, ...]:
    engine, store = NAMES[str(cell["kind"])]
    version = re.match(r"[0-9.]+", str(cell["version"]))
    release = RELEASES.get(str(cell["suite"]), str(cell["suite"]))
    failed = cell.get("failed")
    held = f"**{failed} tests failed**" if failed else f"{cell.get('passed', 0)} tests"
    salt = str(cell["salt"])
    return (engine, version[0] if version else "?", f"Debian {release}", store, str(cell["file_system"]), salt, held)


def table(cells: list[dict[str, object]]) -> str:
    heads = ("Engine", "Version", "From", "Store", "File system", "Salt", "Held")
    rows = sorted({row(cell) for cell in cells}, key=lambda one: (one[0], one[3], [int(n) for n in one[1].split(".")]))
    return "".join(f"| {' | '.join(one)} |\n" for one in (heads, ("---",) * len(heads), *rows))


def main(report: str) -> None:
    cells = [json.loads(line) for line in Path(report).read_text(encoding="utf-8").splitlines()]
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    README.write_text(before + BEGIN + table(cells) + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
