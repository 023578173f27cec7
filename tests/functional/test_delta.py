"""Bundles whose changes are encoded as deltas to the node's old files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, NEWER, Lab, layer
from tests.support.images import file, whiteout
from tests.support.kernel import differences, show

pytestmark = pytest.mark.functional

LIBRARY = hashlib.shake_256(b"library").digest(300_000)
OLD = layer(file("etc/version", b"12.0\n"), file("lib/lib.so.1.2", LIBRARY), file("lib/same.so", LIBRARY[::-1]))
FIRST = layer(
    file("etc/version", b"12.1\n"),
    whiteout("lib/lib.so.1.2"),
    file("lib/lib.so.1.3", LIBRARY[:100_000] + b"changed" + LIBRARY[100_000:]),
    file("lib/same.so", b"a little more" + LIBRARY[::-1]),
)
SECOND = layer(file("etc/version", b"12.2\n"), file("lib/lib.so.1.3", LIBRARY[50_000:] + b"2"))


@pytest.fixture
def node(lab: Lab) -> Lab:
    base = [BUSYBOX, OLD]
    lab.load({BASE: base, NEW: [*base, FIRST], NEWER: [*base, FIRST, SECOND], APP: [*base, APP_LAYER]})
    return lab


def source(path: str) -> dict[str, str]:
    return {"source": path}


def build(lab: Lab, name: str, **arguments: Any) -> dict[str, Any]:
    return dict(lab.build(BASE, NEW, str(lab.work / name), **arguments))


@pytest.mark.parametrize("delta", ["only", "both", "auto"])
def test_it_shows_the_target_and_leads_back(node: Lab, delta: str) -> None:
    old, target = show(node.dirs(BASE)), show(node.dirs(NEW))
    full, made = build(node, "full.tar"), build(node, "delta.tar", delta=delta)
    encodings = node.inspect(made["bundle"], verify=True)["encodings"]
    assert set(encodings) == {"only": {"delta"}, "both": {"full", "delta"}, "auto": {"delta"}}[delta]
    assert encodings["delta"] < 10_000 < full["size"]
    assert made == build(node, "delta.tar", delta=delta)

    node.apply(made["bundle"])
    assert differences(show(node.dirs(BASE)), target) == []
    node.rollback(BASE)
    assert differences(show(node.dirs(BASE)), old) == []


def test_auto_keeps_the_full_one_where_that_is_smaller(lab: Lab) -> None:
    lab.usual()
    made = lab.build(BASE, NEW, str(lab.work / "b.tar"), delta="auto")
    assert set(lab.inspect(made["bundle"])["encodings"]) == {"full"}


def test_a_chain_of_deltas(node: Lab) -> None:
    """The second delta starts from content that only staging makes; no intermediate content remains."""
    first = node.bundle(BASE, NEW, delta="only")
    second = node.bundle(NEW, NEWER, delta="only")
    target = show(node.dirs(NEWER))
    node.converge(BASE, "12.2", {"12.1": source(first), "12.2": source(second)})
    assert differences(show(node.dirs(BASE)), target) == []
    (base,) = node.status(BASE)["bases"]
    assert [generation["version"] for generation in base["generations"]] == ["12.0", "12.2"]
    assert base["interrupted"] is False


def test_what_it_would_do_is_told_as_of_a_full_one(node: Lab) -> None:
    full, only = build(node, "full.tar"), build(node, "only.tar", delta="only")
    of_full, of_delta = (node.impact(BASE, made["bundle"]) for made in (full, only))
    assert of_delta == of_full
    of_full, of_delta = (node.plan(BASE, "12.1", {"12.1": source(made["bundle"])}) for made in (full, only))
    assert of_delta == of_full
    assert of_full["impact"]
    # a delta that starts from the target of another delta cannot be read before that target exists
    second = node.bundle(NEW, NEWER, delta="only")
    chained = node.plan(BASE, "12.2", {"12.1": source(only["bundle"]), "12.2": source(second)})
    assert chained["bundles"] == ["12.1", "12.2"]
    assert chained["impact"]["verdicts"]["not-checked"] == len(chained["images"])


def test_a_chain_whose_last_delta_does_not_fit_leaves_nothing(node: Lab) -> None:
    first = node.bundle(BASE, NEW, delta="only")
    library = Path(node.dirs(NEW)[0]) / "lib/lib.so.1.3"
    content = library.read_bytes()
    library.write_bytes(content[:-1] + b"X")  # the image changes after the build of the first bundle
    second = node.bundle(NEW, NEWER, delta="only")
    library.write_bytes(content)
    bundles = {"12.1": source(first), "12.2": source(second)}
    node.refused("delta-mismatch", "converge", BASE, "12.2", bundles)
    assert node.version() == "12.0"


class TestUnchangedContent:
    """A path of which only metadata changed: the bundle does not carry its content."""

    OLD = layer(file("etc/version", b"12.0\n"), file("lib/large", LIBRARY), file("bin/tool", LIBRARY[::-1], mode=0o755))
    FIRST = layer(
        file("etc/version", b"12.1\n"), file("lib/large", LIBRARY, mtime=2_000_000_000), file("bin/tool", LIBRARY[::-1])
    )
    SECOND = layer(file("etc/version", b"12.2\n"), file("lib/large", LIBRARY, uid=7))

    @pytest.fixture
    def node(self, lab: Lab) -> Lab:
        base = [BUSYBOX, self.OLD]
        app = [*base, APP_LAYER]
        lab.load({BASE: base, NEW: [*base, self.FIRST], NEWER: [*base, self.FIRST, self.SECOND], APP: app})
        return lab

    def test_it_is_left_out_and_shown(self, node: Lab) -> None:
        old, target = show(node.dirs(BASE)), show(node.dirs(NEW))
        made = build(node, "b.tar")
        manifest = node.inspect(made["bundle"], verify=True)
        assert (manifest["format"], manifest["totals"]["kept"]) == (2, 2 * len(LIBRARY))
        assert made["size"] < len(LIBRARY) // 10
        node.apply(made["bundle"])
        assert differences(show(node.dirs(BASE)), target) == []
        (verified,) = node.verify(BASE, deep=True)
        assert verified["ok"]
        node.rollback(BASE)
        assert differences(show(node.dirs(BASE)), old) == []

    def test_a_chain(self, node: Lab) -> None:
        first, second = node.bundle(BASE, NEW), node.bundle(NEW, NEWER)
        target, bundles = show(node.dirs(NEWER)), {"12.1": source(first), "12.2": source(second)}
        planned = node.plan(BASE, "12.2", bundles)
        assert planned["impact"]["verdicts"]["effective"] == 2
        node.converge(BASE, "12.2", bundles)
        assert differences(show(node.dirs(BASE)), target) == []

    def test_content_of_another_build_is_refused(self, node: Lab) -> None:
        """The file had other content where the bundle was built: the node refuses, and changes nothing."""
        files = [Path(directory) / "lib/large" for directory in (node.dirs(BASE)[0], node.dirs(NEW)[0])]
        for path in files:
            path.write_bytes(b"X" + LIBRARY[1:])
            os.utime(path, (0, 2_000_000_000 if path == files[1] else 0))
        made = build(node, "b.tar")
        for path in files:
            path.write_bytes(LIBRARY)
        node.refused("delta-mismatch", "apply", made["bundle"])
        assert node.version() == "12.0"


def test_old_files_that_were_changed(node: Lab) -> None:
    """A modified pristine file makes both encodings fail: no content is made from it."""
    only, both = build(node, "only.tar", delta="only"), build(node, "both.tar", delta="both")
    before = show(node.dirs(BASE))
    changed = Path(node.dirs(BASE)[0]) / "lib/lib.so.1.2"
    changed.write_bytes(b"X" + LIBRARY[1:])
    for bundle in (only, both):
        with pytest.raises(CommandExecutionError, match="pristine-damaged"):
            node.apply(bundle["bundle"])
    assert {line.partition(":")[0] for line in differences(show(node.dirs(BASE)), before)} == {"lib/lib.so.1.2"}


def test_a_node_without_zstandard(node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    only = build(node, "only.tar", delta="only")
    both = build(node, "both.tar", delta="both", compression="gzip")
    from baseimg_core import zstd

    monkeypatch.setattr(zstd, "library", lambda: None)
    error = node.refused("compression-unsupported", "apply", only["bundle"])
    assert "zstandard" in error.info["hint"]
    assert node.apply(both["bundle"])["changed"] is True


def test_the_state_builds_what_is_asked_for(node: Lab) -> None:
    path = str(node.work / "b.tar")
    built = node.minion.states["baseimg.built"]
    for delta in (None, "only", "both", "auto"):
        assert built(name=path, source=BASE, target=NEW, delta=delta)["changes"], delta
        assert built(name=path, source=BASE, target=NEW, delta=delta)["changes"] == {}, delta
    wrong = built(name=path, source=BASE, target=NEW, delta="yes")
    assert wrong["result"] is False
    assert "delta is 'yes'" in wrong["comment"]
