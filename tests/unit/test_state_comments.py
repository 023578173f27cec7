"""Comments of the state: at most ten lines, the most severe first, and a dry run reads like the run."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest

from tests.support.sources import REPO

spec = importlib.util.spec_from_file_location("states_baseimg", REPO / "_states/baseimg.py")
assert spec
assert spec.loader
STATE = importlib.util.module_from_spec(spec)
spec.loader.exec_module(STATE)
LEFT = {"subject": "usr/bin/x", "text": "needs libx.so.1"}


def image(name: str, verdict: str) -> dict[str, Any]:
    return {"image": name, "verdict": verdict, "reasons": [LEFT], "covered": {}, "shadowed": [], "warnings": []}


NOTHING: dict[str, Any] = {"paths": 0, "packages": {}}
RESULT: dict[str, Any] = {
    "changed": True,
    "repaired": False,
    "base": "corp/base:12.0",
    "from": "12.0",
    "to": "12.1",
    "images": ["shop:1", "billing:1"],
    "containers": {"current": [], "outdated": ["shop"], "unknown": []},
    "protected": [],
    "warnings": ["version 12.1 is unproven"],
    "kept": [{"base": "corp/java:1", "version": "1", "images": ["app:1"], "declared": None, "masked": NOTHING}],
    "masked": [],
    "restart": {"mode": "keep", "restarted": [], "started": [], "left": {}, "batches": []},
    "pruned": {"removed": [], "freed": 0, "in_use": [], "warnings": []},
    "bundles": ["12.1"],
    "changes": {"added": 1, "modified": 2, "removed": 0},
    "impact": {
        "verdicts": {"breaks": 1, "impaired": 0, "not-checked": 0, "blocked": 0, "partly": 1, "effective": 3},
        "images": [image("shop:1", "breaks"), image("billing:1", "partly")],
        "containers": [],
        "packages": {
            "unknown": "",
            "removed": {"less": "590"},
            "added": {"tree": "2"},
            "changed": {"openssl": ["1", "2"], "zlib1g": ["1", "2"]},
            "fixes": {"openssl": ["CVE-2024-0001", "CVE-2024-0002", "CVE-2024-0003"]},
        },
    },
}


def comment(result: dict[str, Any], test: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(STATE, "__opts__", {"test": test}, raising=False)
    ret = {"name": "corp/base:12.0", "result": True, "changes": {}, "comment": ""}
    work = STATE._would_converge if test else STATE._converged
    return str(work(ret, copy.deepcopy(result))["comment"]).split("\n")


def test_the_most_severe_first(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = comment(RESULT, False, monkeypatch)
    assert [line.split(" ")[0] for line in lines] == [
        *("corp/base:12.0:", "Packages", "Warning:", "Breaks:", "Partly:", "Not", "Stop", "Images:", "Security"),
        "(2",
    ]
    assert lines[1] == "Packages removed: less 590."
    assert lines[8] == "Security fixes: openssl 1 -> 2 (CVE-2024-0001, CVE-2024-0002 and 1 more)."
    assert lines[0] == "corp/base:12.0: 12.0 -> 12.1 (2 images)."


def test_images_without_a_name_are_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = [f"sha256:{number}" for number in range(3)]
    kept = {**RESULT["kept"][0], "images": ["app:1", *nameless]}
    images = [image("shop:1", "partly"), *(image(name, "partly") for name in nameless)]
    impact = {**RESULT["impact"], "images": images, "verdicts": {"breaks": 0, "partly": 5, "effective": 0}}
    lines = comment({**RESULT, "kept": [kept], "impact": impact}, False, monkeypatch)
    assert lines[3] == "Partly: shop:1 (usr/bin/x needs libx.so.1), 3 without a name and 1 more."
    assert "(app:1, 3 without a name)" in lines[4]


def test_a_dry_run_reads_like_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    done, foretold = (comment(RESULT, test, monkeypatch) for test in (False, True))
    assert foretold[0] == "corp/base:12.0: would go 12.0 -> 12.1 (2 images)."
    assert foretold[1:] == done[1:]


def test_live_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if this run mounted nothing, and with the reason for each path that is left alone."""
    live = {
        "shop": {"in_effect": ["/etc/a", "/etc/b"], "left": {"/etc/none": "no version has such a file"}},
        "web": {"attached": ["/etc/a"], "in_effect": ["/etc/a"]},
        "old": {"detached": ["/etc/a"]},
    }
    lines = comment({**RESULT, "impact": None, "restart": {**RESULT["restart"], "live": live}}, False, monkeypatch)
    assert [line for line in lines if line.startswith("Live files")] == [
        "Live files in effect in shop: /etc/a, /etc/b.",
        "Live files left alone in shop: /etc/none (no version has such a file).",
        "Live files in effect in web: /etc/a.",
        "Live files detached in old: /etc/a.",
    ]


@pytest.mark.parametrize("test", [False, True])
def test_ten_lines_at_most(monkeypatch: pytest.MonkeyPatch, test: bool) -> None:
    """Many contents of one name, each a line, once hid everything that was wrong with them."""
    content = {"chain_id": "sha256:1", "from": "12.0", "to": "12.1", "changed": True, "images": ["a"]}
    warnings = [f"warning {number}" for number in range(3)]
    many = {**RESULT, "contents": [content] * 20, "warnings": warnings}
    lines = comment(many, test, monkeypatch)
    assert len(lines) == 10
    assert lines[3] == "(17 more contents of corp/base:12.0)"
    assert lines[8].startswith("Breaks: ")
    assert lines[9].startswith("(7 more lines: ")


NEST = {
    "kept": [{**RESULT["kept"][0], "version": "2", "masked": {"paths": 14, "packages": {"openssl": ["1", "2"]}}}],
    "masked": [{"base": "corp/os:1", "version": "5", "paths": 1, "packages": {}}],
}


def test_what_is_masked_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [{**RESULT["kept"][0], "masked": None}]
    lines = comment({**RESULT, "kept": kept, "impact": None}, False, monkeypatch)
    assert "It is unknown how much of 12.1 reaches the images on corp/java:1, kept at 1." in lines


@pytest.mark.parametrize(("test", "verb"), [(True, "Would no longer reach"), (False, "No longer reach")])
def test_fixes_that_are_masked(monkeypatch: pytest.MonkeyPatch, test: bool, verb: str) -> None:
    lines = comment({**RESULT, **NEST, "impact": None}, test, monkeypatch)
    assert "Does not reach the images on corp/java:1, kept at 2: openssl 2 (1), 14 paths." in lines
    assert f"{verb} the images: 1 path of corp/os:1 5; 12.1 was not built on it." in lines


def test_pruned_reports_every_content_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [{"base": "corp/base:12.0", "removed": [name], "freed": 1e6, "warnings": []} for name in ("1", "2")]
    monkeypatch.setattr(STATE, "__opts__", {"test": False}, raising=False)
    monkeypatch.setattr(STATE, "__salt__", {"baseimg.prune": lambda *_arguments: results}, raising=False)
    done = STATE.pruned("corp/base:12.0")
    assert done["changes"] == {"removed": ["1", "2"], "freed": 2e6}
