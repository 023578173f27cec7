"""The report page is self-contained, and text from nodes never becomes markup."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from baseimg_core.display import duration
from baseimg_core.model.rollout import fleet
from baseimg_core.report import data, style, timeline
from baseimg_core.report.page import page
from baseimg_core.report.templates import render
from tests.support import fleets

HOSTILE = "<script>alert(1)</script>\"'><img src=//evil.example/x onerror=alert(2)>&amp;\x1b[31m\u202e\udcff"


class ParsedPage(HTMLParser):
    """The page as a browser parses it: balanced elements, attributes, and text by element."""

    VOID = frozenset({"input", "meta"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.ids: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[name] += 1
        self.attributes.append((name, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), name
        self.ids += [value for key, value in attributes if key == "id" and value]
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def whole(count: int = 40) -> str:
    return page(fleets.observed_fleet(count), fleets.NOW, fleets.rollout(count), fleets.impacts())


def hostile(value: Any) -> Any:
    """Return the same structure with hostile texts, except for the record's own keywords."""
    if isinstance(value, dict):
        return {key if key in _KEYS else HOSTILE + str(key): hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


_KEYS = (
    *(
        "held",
        "refused",
        "format",
        "nodes",
        "answered",
        "unreachable",
        "failed",
        "without",
        "unreadable",
        "bases",
        "versions",
        "behind",
    ),
    *("drifted", "outdated", "unknown", "id", "base", "version", "by", "created", "ended", "state", "reason", "waves"),
    *("wave", "code", "message", "name", "started", "node", "impact", "to", "images", "packages", "image", "verdict"),
    *("covered", "shadowed", "warnings", "containers", "path", "what", "changed", "added", "removed", "manager"),
)


class TestComplete:
    def test_it_asks_nothing_of_anybody(self) -> None:
        source = whole()
        assert not re.search(r"https?:|//[a-z]|url\(|@import|src=", source.replace("unix:///var/run", ""))
        parsed_page = ParsedPage(source)
        assert not {"img", "link", "iframe", "object", "video", "base", "form"} & parsed_page.count.keys()
        (policy,) = (
            attributes["content"] for name, attributes in parsed_page.attributes if attributes.get("http-equiv")
        )
        assert policy
        assert policy.startswith("default-src 'none'; ")
        assert parsed_page.count["script"] == 1

    def test_only_our_script_runs(self) -> None:
        source = whole()
        (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
        assert script == style.JS
        assert "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in source

    def test_links_lead_to_sections(self) -> None:
        parsed_page = ParsedPage(whole())
        targets = [attributes["href"] for name, attributes in parsed_page.attributes if name == "a"]
        assert len(targets) == 7
        assert {target[1:] for target in targets if target} <= set(parsed_page.ids)
        assert len(set(parsed_page.ids)) == len(parsed_page.ids)


class TestAccessible:
    def test_landmarks_and_headings(self) -> None:
        parsed_page = ParsedPage(whole())
        for name in ("header", "nav", "main", "footer", "h1"):
            assert parsed_page.count[name] == 1, name
        levels = [int(name[1]) for name, _ in parsed_page.attributes if re.fullmatch(r"h\d", name)]
        assert levels[0] == 1
        assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))

    def test_tables_have_captions_and_headers(self) -> None:
        parsed_page = ParsedPage(whole())
        assert parsed_page.count["caption"] == parsed_page.count["table"] == 5
        assert all(
            attributes.get("scope") in ("col", "row") for name, attributes in parsed_page.attributes if name == "th"
        )
        rows = parsed_page.count["tr"] - parsed_page.count["thead"]
        assert sum(attributes.get("scope") == "row" for _, attributes in parsed_page.attributes) == rows

    def test_pictures_are_told_in_words(self) -> None:
        parsed_page = ParsedPage(whole())
        for name, attributes in parsed_page.attributes:
            if attributes.get("role") == "img":
                assert attributes["aria-label"]
            if name == "i":
                assert attributes.get("aria-hidden") == "true" or attributes.get("title")
        for kind in data.WORDS.values():
            assert kind in parsed_page.text

    @pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
    def test_contrast(self, scheme: int) -> None:
        """WCAG 2.2, 1.4.3 and 1.4.11: contrast of at least 4.5 for text and 3 for graphics."""
        colours = dict(re.findall(r"--(\w+): (#\w+);", style.CSS.split("@media")[scheme]))
        for name in ("ink", "soft", "current", "behind", "drifted", "failed", "unreachable", "focus"):
            for ground in ("paper", "card"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class TestHostile:
    def test_nothing_becomes_markup(self) -> None:
        fleet, record, impacts = (
            hostile(attributes) for attributes in (fleets.observed_fleet(40), fleets.rollout(40), fleets.impacts())
        )
        source = page(fleet, fleets.NOW, record, impacts)
        calm, parsed_page = ParsedPage(whole()), ParsedPage(source)
        assert parsed_page.count["script"] == 1
        assert parsed_page.count["img"] == 0
        assert set(parsed_page.count) <= set(calm.count)
        allowed = {key for _, attributes in calm.attributes for key in attributes}
        assert {key for _, attributes in parsed_page.attributes for key in attributes} <= allowed
        assert "<script>alert(1)</script>" in parsed_page.text
        source.encode()
        assert "\x1b" not in source
        assert "\u202e" not in source

    def test_of_values(self) -> None:
        assert render("packages", note="<\"'&") == '<p class="soft">&lt;&#34;&#39;&amp;</p>\n'
        assert "a\tb\nc\ufffd<" in render("packages", note="a\tb\nc\0")
        assert "<b>" in render("packages", note=Markup("<b>"))

    def test_a_value_that_is_missing_is_a_mistake(self) -> None:
        with pytest.raises(UndefinedError):
            render("packages")


class TestParts:
    def test_without_a_rollout_and_without_impact(self) -> None:
        parsed_page = ParsedPage(page(fleets.observed_fleet(40), fleets.NOW))
        assert {"nodes", "failures", "all"} <= set(parsed_page.ids)
        assert not {"rollout", "impact", "packages"} & set(parsed_page.ids)
        assert parsed_page.count["svg"] == 0

    def test_of_an_empty_fleet(self) -> None:
        empty = fleets.fleet.collect([], {})
        assert "No node has a recorded base" in ParsedPage(page(empty, fleets.NOW)).text

    def test_several_bases(self) -> None:
        """A silent node is listed once, not once for each base."""
        parsed_page = fleets.observed_fleet(40)
        parsed_page["bases"]["other:1"] = parsed_page["bases"][fleets.BASE]
        squares_page = ParsedPage(page(parsed_page, fleets.NOW))
        squares = Counter(
            attributes["title"]
            for name, attributes in squares_page.attributes
            if name == "i" and attributes.get("title")
        )
        assert squares["web-0027.fra1"] == 1
        assert squares["web-0001.fra1"] == 2

    def test_skipped_nodes_and_why(self) -> None:
        record = fleets.rollout(40)
        for node, code in zip(fleets.names(3), ("at-version", "base-absent", "at-version"), strict=True):
            record["nodes"][node] |= {"wave": -1, "state": "skipped", "code": code}
        assert (
            "Nodes that were skipped: 2 at-version, 1 base-absent."
            in ParsedPage(page(fleets.observed_fleet(40), fleets.NOW, record)).text
        )

    def test_a_rollback_by_request_has_its_reason_and_times_in_seconds(self) -> None:
        record = {**fleets.rollout(40), "reason": "rolled back by request", "created": "2026-03-03T02:00:00.429+00:00"}
        record["nodes"]["web-0000.fra1"].update(state="rolled-back", code="", message="")
        rollback_page = ParsedPage(page(fleets.observed_fleet(40), fleets.NOW, record)).text.replace("\n", "")
        assert "rolled-back in the rolloutrolled back by request1web-0000.fra1" in rollback_page
        assert "at 2026-03-03 02:00:00." in rollback_page

    def test_an_image_that_breaks_has_its_reasons_and_remedies(self) -> None:
        reason = {"subject": "libssl3", "text": "split pair with its own libcrypto.so.3", "remedy": "rebuild it"}
        impacts = fleets.impacts()
        impacts[1]["impact"]["images"][0].update(verdict="breaks", reasons=[reason])
        impact_page = ParsedPage(page(fleets.observed_fleet(9), fleets.NOW, None, impacts))
        assert "✕ breaks" in impact_page.text
        assert "libssl3 split pair with its own libcrypto.so.3; rebuild it" in impact_page.text

    def test_a_container_that_is_worse_than_its_image(self) -> None:
        """Its own command or files decide, so the image alone may look well."""
        reason = {"subject": "sleep", "text": "is started and is missing", "remedy": "rebuild it"}
        impacts = fleets.impacts()
        (image,) = [item for item in impacts[0]["impact"]["images"] if item["image"].endswith("service-2:4.2")]
        broken = {"image": image["image"], "verdict": "breaks", "reasons": [reason]}
        impacts[0]["impact"]["containers"] = [
            {**broken, "name": "cron"},
            {**broken, "name": "web", "verdict": "effective"},
            {"image": image["image"], "name": "stopped"},
        ]
        text = ParsedPage(page(fleets.observed_fleet(9), fleets.NOW, None, [*impacts, *impacts])).text
        assert f"container cron ({image['image']})" in text
        assert "sleep is started and is missing; rebuild it" in text
        assert "container web" not in text
        assert "Reported by web-0000.fra1, web-0001.fra1." in text

    def test_a_rollout_that_has_not_begun(self) -> None:
        record = fleets.rollout(40)
        record["waves"] = [{**wave, "started": "", "ended": "", "state": "pending"} for wave in record["waves"]]
        assert ParsedPage(page(fleets.observed_fleet(40), fleets.NOW, record)).count["svg"] == 0

    def test_nodes_that_could_not_tell_the_impact(self) -> None:
        impacts = [*fleets.impacts(), {"node": "n9", "impact": "'baseimg.impact' is not available."}]
        assert (
            "n9 gave no answer: 'baseimg.impact' is not available."
            in ParsedPage(page(fleets.observed_fleet(9), fleets.NOW, None, impacts)).text
        )

    def test_two_thousand_nodes_are_all_there(self) -> None:
        source = whole(2000)
        parsed_page = ParsedPage(source)
        squares = [
            attributes["title"]
            for name, attributes in parsed_page.attributes
            if name == "i" and attributes.get("title")
        ]
        assert Counter(squares) == Counter(fleets.names(2000))
        assert len(source) < 1_000_000

    @pytest.mark.parametrize("frame", timeline._FRAMES, ids=lambda frame: frame.style)
    def test_each_time_axis_has_two_labels_and_room_for_them(self, frame: timeline._Frame) -> None:
        for span in (60, 90, 250, 310, 1500, 2900, 3599, 5000, 40_000, 80_000, 90_000, 200_000, 700_000, 3_000_000):
            for first in (1_790_000_000, 1_790_000_777):
                scale = timeline._Scale(frame, first, first + span)
                places = [scale.x(at) for at in scale.ticks]
                assert len({scale.label(at) for at in scale.ticks}) >= 2, span
                assert min(after - before for before, after in itertools.pairwise(places)) >= 55, span

    @pytest.mark.parametrize(
        ("number", "expected"),
        [(5, "5 s"), (600, "10 min"), (3599, "1 h 00 min"), (3700, "1 h 02 min"), (90000, "25 h 00 min")],
    )
    def test_durations(self, number: float, expected: str) -> None:
        assert duration(number) == expected


class TestTiles:
    def test_up_to_date_means_every_container_without_drift(self) -> None:
        quiet = {"current": [], "outdated": [], "unknown": []}
        statuses = {
            "n1": fleets.status(fleets.NEW),
            "n2": fleets.status(fleets.OLD),
            "n3": fleets.status(fleets.NEW, containers={**quiet, "outdated": ["shop"]}),
            "n4": fleets.status(fleets.NEW, containers={**quiet, "unknown": ["shop"]}),
            "n5": fleets.status(fleets.NEW, interrupted=True),
            "n6": fleets.status(fleets.NEW, holds=[{"version": "12.2", "reason": "shop does not start"}]),
        }
        collected = fleet.collect([*statuses, "n7"], {node: {"bases": [item]} for node, item in statuses.items()})
        assert data.up_to_date(collected) == {"n1", "n6"}
        html = page(collected, fleets.NOW)
        assert "<dt>up to date</dt><dd>2</dd>" in html
        assert "<dt>held</dt><dd>1</dd>" in html

    def test_holds_are_among_the_failures_with_their_reason(self) -> None:
        hold = {"version": "12.2", "reason": "shop does not start"}
        collected = fleet.collect(["n1"], {"n1": {"bases": [fleets.status(fleets.OLD, holds=[hold])]}})
        assert ("held", f"{fleets.BASE} 12.2: shop does not start", ["n1"]) in data.failures(collected, None)
        (row,) = data.rows(collected, None)
        assert row.notes == ["holds 12.2: shop does not start"]

    def test_refused_versions_are_among_the_failures(self) -> None:
        refusal = {"base": fleets.BASE, "version": "12.9", "code": "image-breaks", "message": "shop breaks"}
        answer = {"bases": [fleets.status(fleets.OLD)], "refused": [refusal]}
        collected = fleet.collect(["n1"], {"n1": answer})
        assert data.failures(collected, None) == [
            ("refused", f"{fleets.BASE} 12.9: [image-breaks] shop breaks", ["n1"])
        ]
        (row,) = data.rows(collected, None)
        assert row.notes == ["refused 12.9: [image-breaks] shop breaks"]


def test_what_is_wrong_comes_before_the_squares_and_the_box_beside_what_it_filters() -> None:
    source = whole()
    places = [source.index(text) for text in ('id="failures"', 'id="nodes"', 'class="find"', 'class="map"', 'id="all"')]
    assert places == sorted(places)
    assert "</section><section" not in source[places[2] : places[4]]
