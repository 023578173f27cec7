"""Write the table of tested engines in docs/reference/compatibility.md from the report of `make engines`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/reference/compatibility.md"
FIRST_LINE, LAST_LINE = "<!-- engines: written by `make engines` -->\n", "<!-- engines: end -->\n"
NAMES = {
    "docker-overlay2": ("Docker", "overlay2"),
    "docker-userns": ("Docker", "overlay2, userns-remap"),
    "docker-containerd": ("Docker", "containerd, overlayfs"),
    "podman": ("Podman", "overlay"),
    "containerd": ("containerd", "overlayfs"),
}
RELEASES = {"here": "12", "trixie": "13"}


def key(cell: dict[str, object]) -> tuple[str, ...]:
    engine, store = NAMES[str(cell["kind"])]
    version = re.match(r"[0-9.]+", str(cell["version"]))
    release = RELEASES.get(str(cell["suite"]), str(cell["suite"]))
    return (engine, version[0] if version else "?", release, store, str(cell["file_system"]), str(cell["salt"]))


def order(cell: tuple[str, ...]) -> tuple[object, ...]:
    return (cell[0], cell[3], [int(number) for number in cell[1].split(".") if number], *cell[4:])


def table(cells: list[dict[str, object]]) -> str:
    counts = {cell_key: dict.fromkeys(("passed", "failed"), 0) for cell_key in map(key, cells)}
    for cell in cells:
        for outcome, count in counts[key(cell)].items():
            counts[key(cell)][outcome] = count + int(str(cell.get(outcome, 0)))
    heads = ("Engine", "Version", "Debian", "Store", "File system", "Salt", "Tests")
    rows = [(*cell_key, _held(**counts[cell_key])) for cell_key in sorted(counts, key=order)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, ("---",) * len(heads), *rows))


def _held(passed: int, failed: int) -> str:
    return f"**{failed} of {passed + failed} failed**" if failed else f"{passed} passed"


def main(report: str) -> None:
    cells = [json.loads(line) for line in Path(report).read_text(encoding="utf-8").splitlines()]
    before, rest = PAGE.read_text(encoding="utf-8").split(FIRST_LINE)
    PAGE.write_text(before + FIRST_LINE + table(cells) + LAST_LINE + rest.split(LAST_LINE)[1], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
