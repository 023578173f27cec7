"""Write a table of docs/reference/compatibility.md from the report of `make engines` or of `make matrix`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/reference/compatibility.md"
NAMES = {
    "docker-overlay2": ("Docker", "overlay2"),
    "docker-userns": ("Docker", "overlay2, userns-remap"),
    "docker-containerd": ("Docker", "containerd, overlayfs"),
    "podman": ("Podman", "overlay"),
    "containerd": ("containerd", "overlayfs"),
}
RELEASES = {"here": "12", "bookworm": "12", "trixie": "13"}


def key(cell: dict[str, object]) -> tuple[str, ...]:
    engine, store = NAMES[str(cell["kind"])]
    version = re.match(r"[0-9.]+", str(cell["version"]))
    release = RELEASES.get(str(cell["suite"]), str(cell["suite"]))
    return (engine, version[0] if version else "?", release, store, str(cell["file_system"]), str(cell["salt"]))


def order(cell: tuple[str, ...]) -> tuple[object, ...]:
    return (cell[0], cell[3], [int(number) for number in cell[1].split(".") if number], *cell[4:])


def engines(cells: list[dict[str, object]]) -> str:
    counts = {cell_key: dict.fromkeys(("passed", "failed"), 0) for cell_key in map(key, cells)}
    for cell in cells:
        for outcome, count in counts[key(cell)].items():
            counts[key(cell)][outcome] = count + int(str(cell.get(outcome, 0)))
    heads = ("Engine", "Version", "Debian", "Store", "File system", "Salt", "Tests")
    rows = [(*cell_key, _held(**counts[cell_key])) for cell_key in sorted(counts, key=order)]
    return _markdown(heads, rows)


def pythons(cells: list[dict[str, object]]) -> str:
    heads = ("Python", "Debian", "Salt", "Dependencies", "Tests")
    rows = []
    for cell in cells:
        versions = ", ".join(f"{name} {version}" for name, version in dict(cell["dependencies"]).items())
        release = RELEASES.get(str(cell["suite"]), str(cell["suite"]))
        counts = {outcome: int(str(cell[outcome])) for outcome in ("passed", "failed")}
        rows.append((str(cell["python"]), release, str(cell["salt"]), versions, _held(**counts)))
    rows.sort(key=lambda row: ([int(number) for number in row[0].split(".")], row[1:]))
    return _markdown(heads, rows)


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, ("---",) * len(heads), *rows))


def _held(passed: int, failed: int) -> str:
    return f"**{failed} of {passed + failed} failed**" if failed else f"{passed} passed"


def main(name: str, report: str) -> None:
    first_line, last_line = f"<!-- {name}: written by `make {name}` -->\n", f"<!-- {name}: end -->\n"
    table = {"engines": engines, "matrix": pythons}[name]
    cells = [json.loads(line) for line in Path(report).read_text(encoding="utf-8").splitlines()]
    before, rest = PAGE.read_text(encoding="utf-8").split(first_line)
    PAGE.write_text(before + first_line + table(cells) + last_line + rest.split(last_line)[1], encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
