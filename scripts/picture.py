"""Write docs/report.png: the report about the fleet of tests/support/fleets.py in Chromium (`make picture`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from baseimg_core.report.page import page
from tests.support import fleets
from tests.support.browser import Browser

PICTURE = Path(__file__).resolve().parents[1] / "docs/report.png"
NODES, IMAGES = 2000, 12


def main() -> None:
    source = page(fleets.observed_fleet(NODES), fleets.NOW, fleets.rollout(NODES), fleets.impacts(IMAGES))
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.html"
        report.write_text(source, encoding="utf-8")
        Browser(Path(directory) / "profile").picture(report, PICTURE, width=1100, height=1560)


if __name__ == "__main__":
    main()
