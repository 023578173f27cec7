"""Short forms of results for people."""

from __future__ import annotations

from typing import Any

import pytest

from baseimg_core.model import summary

NAMELESS = "sha256:" + "1f" * 32


def status(**more: Any) -> dict[str, Any]:
    generations = [
        {"number": 0, "version": "12.0", "current": False, "damaged": False, "activated": "2026-01-01T00:00:00Z"},
        {"number": 1, "version": "12.1", "current": True, "damaged": False, "activated": "2026-02-01T00:00:00Z"},
    ]
    return {
        "base": "corp/base:12.0",
        "path": "/layers/1f/diff",
        "version": "12.1",
        "declared": "12.1",
        "previous": 0,
        "generations": generations,
        "images": ["corp/base:12.0", "shop:1", "billing:1"],
        "containers": {"current": ["a"], "outdated": [], "unknown": []},
        "holds": [],
        "judged": [],
        "evidence": [],
        "restarting": [],
        "running": "",
        **more,
    }


def containers(*outdated: str) -> dict[str, list[str]]:
    return {"current": [], "outdated": list(outdated), "unknown": []}


class TestNode:
    def test_a_quiet_base_is_one_line(self) -> None:
        assert summary.of_node([status()]) == ["corp/base:12.0  12.1  (was 12.0)  3 images"]

    def test_a_base_that_never_changed(self) -> None:
        only = [
            {"number": 0, "version": "12.0", "current": True, "damaged": False, "activated": "2026-01-01T00:00:00Z"}
        ]
        quiet = status(version="12.0", previous=None, declared=None, generations=only)
        assert summary.of_node([quiet]) == ["corp/base:12.0  12.0  3 images"]

    def test_after_a_rollback(self) -> None:
        """A rollback leads to the previous generation, which is live then; the version that it left is told."""
        back = status(version="12.0", declared=None)
        for item, at in zip(back["generations"], ("2026-03-01T00:00:00Z", "2026-02-01T00:00:00Z"), strict=True):
            item.update(current=item["number"] == 0, activated=at)
        assert summary.of_node([back]) == ["corp/base:12.0  12.0  (was 12.1)  3 images"]

    def test_one_base_and_the_node_agree_about_the_former_version(self) -> None:
        plain = {"bytes": 1, "kept": "", "pinned": False, "prepared": "", "users": [], "damage": ""}
        rest = {"pristine": "kept", "interrupted": False, "space": 0}
        back = status(version="12.0", **rest)
        for item, at in zip(back["generations"], ("2026-03-01T00:00:00Z", "2026-02-01T00:00:00Z"), strict=True):
            item.update(plain, current=item["number"] == 0, activated=at)
        assert summary.of_base(back)["previous"] == "12.1"

    def test_whatever_needs_a_person_has_a_line(self) -> None:
        hold = {"version": "12.2", "by": "root", "until": "", "reason": "shop does not start", "at": "x"}
        broken = {"image": "billing:1", "verdict": "breaks", "subject": "libx", "text": "is gone", "remedy": "rebuild"}
        first, *others = summary.of_node(
            [status(declared="12.2", containers=containers("shop"), holds=[hold], judged=[broken])]
        )
        assert first == "corp/base:12.0  12.1  (was 12.0)  3 images  declared: 12.2  outdated: shop  held"
        assert others == [
            "  breaks  billing:1: libx is gone; rebuild",
            "  outdated  shop: stop and start it (docker restart is not enough)",
            "  held  12.2 by root: shop does not start",
        ]

    def test_many_containers_do_not_fill_the_line(self) -> None:
        (first, *others) = summary.of_node([status(containers=containers(*"abcde"))])
        assert "outdated: a, b, c and 2 more" in first
        assert len(others) == 5

    def test_images_without_a_name_are_a_group(self) -> None:
        (line,) = summary.of_node([status(images=["shop:1", NAMELESS, NAMELESS])])
        assert line.endswith("1 image, 2 without a name")

    def test_a_damaged_base_names_the_remedy(self) -> None:
        damaged = status()
        damaged["generations"][1]["damaged"] = True
        first, second = summary.of_node([damaged])
        assert first.endswith("  damaged")
        assert "repair: true" in second

    def test_containers_that_did_not_come_back(self) -> None:
        first, second, third = summary.of_node([status(restarting=["shop"])])
        assert first.endswith("  restart unfinished")
        assert "baseimg.give_up" in second
        assert third.startswith("  stopped  shop: ")

    def test_a_gate_that_is_still_open(self) -> None:
        """A container that runs is not stopped; while an operation restarts it, nobody has to do anything."""
        waits = "  waiting  a: it runs, but has not passed its gate since its restart"
        assert summary.of_node([status(restarting=["a"], running="pid 1")])[1:] == ["  running  pid 1", waits]
        _base, remedy, waiting = summary.of_node([status(restarting=["a"])])
        assert (waiting, "restart unfinished" in remedy) == (waits, True)

    def test_a_broken_record(self) -> None:
        error = {"code": "record-invalid", "message": "no JSON", "hint": "converge with repair"}
        lines = summary.of_node([{"base": "", "path": "/layers/2e", "error": error}])
        assert lines == ["/layers/2e  [record-invalid] no JSON", "  converge with repair"]

    def test_no_base(self) -> None:
        (line,) = summary.of_node([])
        assert line.startswith("no base")

    def test_texts_cannot_steer_a_terminal(self) -> None:
        assert all(line.isprintable() for line in summary.of_node([status(containers=containers("a\x1b[2J"))]))


REASON = {"subject": "usr/bin/x", "text": "needs libx.so.1", "remedy": "rebuild", "verdict": "breaks", "code": "y"}


def image(number: int, verdict: str, **more: Any) -> dict[str, Any]:
    name = f"app:{number}"
    reasons = [] if verdict == "effective" else [REASON]
    overridden: dict[str, Any] = {"covered": {}, "shadowed": [], "warnings": []}
    return {"image": name, "id": name, "tags": [name], "verdict": verdict, "reasons": reasons, **overridden, **more}


def impact(images: list[dict[str, Any]], containers: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "format": 2,
        "base": "corp/base:12.0",
        "chain_id": "sha256:1f",
        "version": "12.0",
        "generation": 0,
        "to": "12.1",
        "changes": {"libraries": 2},
        "packages": {"added": {}, "removed": {"a": "1"}, "changed": {"b": ["1", "2"]}, "unknown": ""},
        "config": {"Env PATH": ["a", "b"]},
        "verdicts": {"breaks": 1, "partly": 0, "effective": 2},
        "images": images,
        "containers": containers or [],
        "kept": [],
    }


class TestImpact:
    def test_counts_and_the_worst(self) -> None:
        summarised = summary.of_impact(impact([image(1, "breaks"), image(2, "effective")]))
        assert summarised["images"] == 2
        assert summarised["verdicts"] == {"breaks": 1, "effective": 2}
        assert summarised["packages"] == {"changed": 1, "removed": ["a 1"]}
        assert summarised["config"] == ["Env PATH"]
        assert summarised["worst"] == ["breaks  app:1: usr/bin/x needs libx.so.1; rebuild"]

    def test_at_most_ten(self) -> None:
        lines = summary.of_impact(impact([image(number, "partly") for number in range(34)]))["worst"]
        assert len(lines) == 11
        assert lines[-1] == "and 24 more: see full=True"

    def test_a_container_is_listed_if_it_is_worse_than_its_image(self) -> None:
        container = {"name": "c", "image": "app:1", "image_id": "app:1", "content": "current", "reasons": [REASON]}
        listed = [{**container, "verdict": "breaks"}, {**container, "verdict": "partly", "content": "none"}]
        summarised = summary.of_impact(impact([image(1, "partly")], listed))
        assert [line.split(":")[0] for line in summarised["worst"]] == ["breaks  container c (app", "partly  app"]
        assert summarised["containers"] == {"current": 1, "stopped": 1}

    def test_how_much_own_files_override(self) -> None:
        """An image that is blocked or gets a part has no reason, but files of its own."""
        own = {"path": "usr/lib/tool", "what": "libraries", "reason": "own file"}
        covered = {"libraries": [1, 1], "configuration": [1, 3]}
        blocked = image(1, "blocked", reasons=[], covered=covered, shadowed=[own, own])
        (line,) = summary.of_impact(impact([blocked]))["worst"]
        assert line == "blocked  app:1: 1 of 1 libraries, 1 of 3 configuration; usr/lib/tool: own file"

    def test_images_without_a_name_are_a_group(self) -> None:
        nameless = [image(number, "partly", tags=[]) for number in range(3)]
        assert summary.of_impact(impact(nameless))["worst"] == ["partly  3 images without a name"]

    def test_images_that_were_not_judged(self) -> None:
        summarised = impact([{"image": "a", "id": "a", "tags": ["a"]}])
        assert summary.of_impact({**summarised, "to": None, "packages": None, "config": None})["worst"] == []


class TestOperation:
    def result(self, count: int) -> dict[str, Any]:
        changed = impact([image(number, "partly") for number in range(count)])
        worse = {**image(0, "breaks"), "container": "shop"}
        kept = [{"base": "corp/java:17", "version": "17", "images": ["a", "b"], "masked": {"paths": 2}}]
        names = [f"app:{number}" for number in range(count)]
        return {"changed": True, "images": names, "kept": kept, "impact": {**changed, "containers": [worse]}}

    def test_a_node_with_many_images(self) -> None:
        """A screen, not a page for each image."""
        short = summary.of_operation(self.result(50))
        assert len(short["images"]) == len(short["impact"]["worst"]) == 11
        assert short["images"][-1] == "and 40 more: see full=True"
        assert short["impact"]["worst"][0] == "breaks  container shop (app:0): usr/bin/x needs libx.so.1; rebuild"
        assert short["impact"]["packages"] == {"changed": 1, "removed": ["a 1"]}
        assert short["kept"] == ["corp/java:17 17: 2 images, 2 changed paths do not reach them"]

    def test_several_bases(self) -> None:
        short = summary.of_operation(
            {**self.result(50), "bases": [self.result(12), {**self.result(1), "impact": None}]}
        )
        assert [len(own["images"]) for own in short["bases"]] == [11, 1]
        assert "impact" not in short["bases"][1]


class TestDiff:
    def test_counts_and_the_biggest(self) -> None:
        added = [{"path": f"etc/{number}", "type": "file", "size": number} for number in range(12)]
        modified = [{"path": "usr/lib/x", "type": "file", "size": 2_500_000, "differs": ["content"]}]
        counts = {"added": 12, "modified": 1, "removed": 0}
        summarised = summary.of_diff(
            {
                "source": "a",
                "target": "b",
                "platform": "linux/amd64",
                "counts": counts,
                "config": {},
                "removed": [],
                "added": added,
                "modified": modified,
            }
        )
        assert summarised["counts"] == counts
        assert summarised["bytes"] == 2_500_066
        assert summarised["biggest"][:2] == ["2.5 MB  modified  usr/lib/x", "11 B  added  etc/11"]
        assert summarised["biggest"][-1] == "and 3 more: see full=True"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": None, "b": "", "c": [], "d": {}, "e": {"f": []}}, {}),
        (
            {"changed": False, "number": 0, "list": [{"a": "", "b": 1}]},
            {"changed": False, "number": 0, "list": [{"b": 1}]},
        ),
    ],
)
def test_empty_keys_are_left_out(value: Any, expected: Any) -> None:
    assert summary.without_empty(value) == expected
