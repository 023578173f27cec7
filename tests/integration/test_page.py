"""The report in a real browser: two thousand nodes, from disk, light and dark, with a working script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from baseimg_core.report.page import page
from tests.support import fleets
from tests.support.browser import Browser, corner

pytestmark = pytest.mark.integration

COUNT = 2000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def source() -> str:
    return page(fleets.observed_fleet(COUNT), fleets.NOW, fleets.rollout(COUNT), fleets.impacts())


@pytest.fixture
def report(source: str, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(source)
    return path


def part(tree: str, section: str) -> str:
    (section_text,) = re.findall(rf'<section id="{section}".*?</section>', tree, re.DOTALL)
    return section_text.replace("\n", " ")


def rows(tree: str, section: str) -> list[str]:
    """Return the rows of a section's table; a row with a table inside is cut there."""
    return re.findall(r"<tr.*?</tr>", part(tree, section))


def test_it_renders_what_it_is_given(browser: Browser, report: Path) -> None:
    tree = browser.tree(report)
    assert len(rows(tree, "all")) == COUNT + 1
    assert len(re.findall(r'<i class="\w+" title="', tree)) == COUNT
    assert [re.sub(r"<.*?>", " ", row).split()[0] for row in rows(tree, "rollout")[1:]] == [
        "canary",
        "first",
        "half",
        "rest",
    ]
    assert any("503 (connection refused to db:5432)" in row for row in rows(tree, "failures"))
    assert re.search(r"blocked.*4 paths.*libssl\.so\.3", part(tree, "impact"))
    assert any("openssl" in row and "3.0.14-1~deb12u1" in row for row in rows(tree, "packages"))
    # the page's script shows the hidden box, so its content policy allows the script
    assert '<div class="find">' in tree


def test_finding_a_node(browser: Browser, source: str, report: Path) -> None:
    """The test's script types the name, so the test removes the page's content policy."""
    typing = (
        "const box = document.querySelector('#find'); box.value = 'WEB-0042';box.dispatchEvent(new Event('input'));"
    )
    open_source = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", source)
    report.write_text(open_source.replace("</body>", f"<script>{typing}</script></body>"))
    tree = browser.tree(report)
    assert "1 of 2000 nodes" in tree
    assert re.findall(r'<i class="[\w ]*hit" title="(.*?)"', tree) == ["web-0042.fra1"]
    assert next(row for row in rows(tree, "all")[1:] if not row.startswith("<tr hidden")).count("web-0042.fra1") == 1
    assert '<details class="all" open="">' in tree


def test_light_and_dark(browser: Browser, report: Path, tmp_path: Path) -> None:
    light = browser.picture(report, tmp_path / "light.png")
    dark = browser.picture(report, tmp_path / "dark.png", dark=True)
    assert corner(light) == (0xFC, 0xFC, 0xFB)
    assert corner(dark) == (0x12, 0x14, 0x17)
    assert min(light.stat().st_size, dark.stat().st_size) > 50_000
