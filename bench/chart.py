"""
Draw the picture of docs/design/performance.md from a run's results.

`python -m bench.chart RESULTS.json OUT.svg`: what a node with twenty applications on `debian-jdk` (ext4) waits for and
receives, with each way to bring a fixed base to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from bench.measure import Sample, Samples

WIDTH, NAMES, ROW, BAR, TOP = 860, 300, 30, 18, 64  # pixels
OURS, THEIRS, INK, FAINT = "#1a7f5a", "#9aa4ad", "#1f2328", "#57606a"
MB = 1_000_000


@dataclass(frozen=True)
class Bar:
    """One row of the chart; ``ours`` has the colour of baseimg."""

    name: str
    value: float
    ours: bool = False


def times(samples: Samples) -> list[Bar]:
    """Return the seconds until a node has the fixed base."""
    rows = [
        ("docker pull: 20 rebuilt applications", "docker pull", "apply"),
        ("docker load: the same from one archive", "docker load", "apply"),
        ("the old scripts", "old", "apply"),
        ("baseimg: apply", "baseimg", "apply"),
        ("baseimg: roll back", "baseimg", "rollback"),
    ]
    return [Bar(name, _median(samples, "seconds", peer, step), "baseimg" in peer) for name, peer, step in rows]


def sizes(samples: Samples) -> list[Bar]:
    """Return the megabytes that a node receives."""
    rows = [
        ("docker pull: 20 rebuilt applications", "docker pull", "apply"),
        ("the old scripts' archive", "old", "build"),
        ("baseimg: full bundle", "baseimg", "build"),
        ("baseimg: delta bundle", "baseimg-delta", "build"),
    ]
    return [Bar(name, _median(samples, "wire_bytes", peer, step) / MB, "baseimg" in peer) for name, peer, step in rows]


def _median(samples: Samples, figure: str, peer: str, step: str) -> float:
    value = samples.median(figure, workload="debian-jdk", filesystem="ext4", peer=peer, step=step)
    if value is None:
        raise SystemExit(f"bench: the results have no {step} of {peer} with debian-jdk on ext4")
    return value


def svg(panels: Sequence[tuple[str, str, Sequence[Bar]]]) -> str:
    """Return the chart; each panel is a title, a unit and bars on one scale."""
    lines: list[str] = []
    top = 8
    for title, unit, bars in panels:
        lines.append(
            f'<text x="16" y="{top + 24}" font-size="16" font-weight="600" fill="{INK}">{escape(title)}</text>'
        )
        most = max(bar.value for bar in bars)
        for position, bar in enumerate(bars):
            y = top + TOP - 22 + position * ROW
            width = max(1.5, (WIDTH - NAMES - 120) * bar.value / most)
            middle = y + BAR / 2 + 5
            lines += [
                f'<text x="{NAMES - 10}" y="{middle}" text-anchor="end" fill="{INK}">{escape(bar.name)}</text>',
                f'<rect x="{NAMES}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{OURS if bar.ours else THEIRS}"/>',
                f'<text x="{NAMES + width + 8:.1f}" y="{middle}" fill="{FAINT}">{bar.value:.3g} {unit}</text>',
            ]
        top += TOP - 22 + len(bars) * ROW + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    head += ' font-family="sans-serif" font-size="14">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>', *lines, "</svg>", ""])


def main(results: Path, out: Path) -> None:
    samples = Samples(Sample(**sample) for sample in json.loads(results.read_text())["samples"])
    seconds = ("Until a node with 20 applications has the fixed base", "s", times(samples))
    out.write_text(svg([seconds, ("What the node receives", "MB", sizes(samples))]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
