"""A bundle's manifest: it reads back as written, and errors name the damaged field."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from baseimg_core.errors import BundleInvalid
from baseimg_core.model.bundle import manifest
from baseimg_core.model.bundle.manifest import ImageRef, Manifest, Totals
from baseimg_core.model.stack.ids import chain_id

CHAIN_1, CHAIN_2, CHAIN_3 = ("sha256:" + digit * 64 for digit in "123")


def image(version: str, *diff_ids: str) -> ImageRef:
    return ImageRef(f"corp/base:{version}", version, chain_id(diff_ids), diff_ids)


SOUND = Manifest(
    source=image("12.0", CHAIN_1, CHAIN_2),
    target=image("12.1", CHAIN_1, CHAIN_3),
    diff_id="sha256:" + "d" * 64,
    layer_size=10240,
    totals=Totals(added=1, modified=2, removed=3, entries=6, bytes=4096),
)
MISSING = object()


def damaged(path: str, value: object) -> str:
    data: dict[str, Any] = copy.deepcopy(SOUND.as_dict())
    *parents, last = path.split(".")
    where = data
    for name in parents:
        where = where[name]
    if value is MISSING:
        del where[last]
    else:
        where[last] = value
    return json.dumps(data)


def test_round_trip() -> None:
    assert manifest.parse(SOUND.dump()) == SOUND


def test_optional_totals_round_trip() -> None:
    counted = replace(SOUND, totals=replace(SOUND.totals, metadata=0, inside=1, directories=7))
    assert manifest.parse(counted.dump()) == counted
    assert "directories" not in SOUND.dump()


def test_sizes_round_trip_and_are_optional() -> None:
    sized = replace(SOUND, target=replace(SOUND.target, sizes={"": (10, 2), CHAIN_1: (4096, 3)}))
    assert manifest.parse(sized.dump()) == sized
    assert sized.target.size_over(()) == (10, 2)
    assert SOUND.target.size_over(()) is None
    assert "sizes" not in SOUND.dump()


@pytest.mark.parametrize("sizes", [None, [], {"": 1}, {"": [1]}, {"": [1, -1]}, {"": [1, True]}, {"x": [1, 1]}])
def test_damaged_sizes_are_named(sizes: object) -> None:
    with pytest.raises(BundleInvalid, match=r"manifest field target\.sizes is "):
        manifest.parse(damaged("target.sizes", sizes))


def test_equal_manifests_are_equal_bytes() -> None:
    shuffled = json.dumps(dict(reversed(SOUND.as_dict().items())), indent=3)
    assert manifest.parse(shuffled).dump() == SOUND.dump()
    assert "\n" not in SOUND.dump()


def test_plain_data_only() -> None:
    assert json.loads(json.dumps(SOUND.as_dict())) == SOUND.as_dict()
    assert SOUND.as_dict()["format"] == manifest.FORMAT_COMPLETE


def test_left_out_content_raises_the_format() -> None:
    """Readers of the first format refuse a bundle that leaves out content; all others stay readable for them."""
    kept = replace(SOUND, totals=replace(SOUND.totals, kept=5))
    assert kept.as_dict()["format"] == manifest.FORMAT != manifest.FORMAT_COMPLETE
    assert manifest.parse(kept.dump()) == kept


def test_what_later_versions_add_is_ignored() -> None:
    assert manifest.parse(damaged("later", ["openssl"])) == SOUND


DIGESTS = ["diff_id", "source.chain_id", "target.chain_id"]
COUNTS = ["layer_size", *(f"totals.{name}" for name in ("added", "modified", "removed", "entries", "bytes"))]
TEXTS = [f"{side}.{name}" for side in ("source", "target") for name in ("reference", "version")]
LISTS = ["source.diff_ids", "target.diff_ids"]
OBJECTS = ["source", "target", "totals"]
BAD = {
    "digest": (
        DIGESTS,
        [MISSING, None, "", 1, CHAIN_1[:-1], CHAIN_1 + "\n", CHAIN_1.upper(), "md5:" + "1" * 32, [CHAIN_1]],
    ),
    "count": (COUNTS, [MISSING, None, -1, 1.5, "1", True, [], 1 << 62]),
    "text": (TEXTS, [MISSING, None, "", 12.1, ["a"], "a\nb", "\x1b[31mred", "\ud800"]),
    "list": (LISTS, [MISSING, None, [], CHAIN_1, [1], [CHAIN_1, None], [CHAIN_1, "x"], {CHAIN_1: CHAIN_1}]),
    "object": (OBJECTS, [MISSING, None, [], "x", 1]),
}


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for paths, values in BAD.values() for path in paths for value in values],
    ids=lambda value: "missing" if value is MISSING else repr(value)[:20],
)
def test_a_damaged_field_is_named(path: str, value: object) -> None:
    with pytest.raises(BundleInvalid, match=rf"manifest field .*{path.rpartition('.')[2]} is "):
        manifest.parse(damaged(path, value))


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_chain_id_must_be_that_of_its_layers(side: str) -> None:
    with pytest.raises(BundleInvalid, match=rf"manifest field {side}\.chain_id is .*, expected the chain ID"):
        manifest.parse(damaged(f"{side}.chain_id", "sha256:" + "e" * 64))


def test_source_and_target_must_differ() -> None:
    with pytest.raises(BundleInvalid, match="the same"):
        manifest.parse(damaged("target", SOUND.as_dict()["source"]))


@pytest.mark.parametrize("value", [MISSING, None, 0, 3, "1", "\n" * 5])
def test_another_format_version_says_what_to_update(value: object) -> None:
    with pytest.raises(BundleInvalid, match=r"format version is .*, this baseimg reads 1 and 2") as failure:
        manifest.parse(damaged("format", value))
    assert "update baseimg" in failure.value.hint


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", "[" * 100_000, '{"format": ' + "1" * 10_000 + "}", "[]", "null", '"text"', "12"]
)
def test_what_is_no_manifest_at_all(text: str) -> None:
    with pytest.raises(BundleInvalid, match=r"manifest|format version") as failure:
        manifest.parse(text)
    assert len(failure.value.message) < 300  # Python before 3.10.7 reads integers of any length


def test_a_long_wrong_value_is_cut() -> None:
    with pytest.raises(BundleInvalid) as failure:
        manifest.parse(damaged("diff_id", "x" * 100_000))
    assert len(failure.value.message) < 300
