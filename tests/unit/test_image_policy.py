"""Protected images, and the bundles that an impact uses."""

from __future__ import annotations

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.policy import image_policy, pillar
from baseimg_core.model.policy.pillar import Source
from tests.unit.test_policy import BASE, DIGEST, URL


def test_protection() -> None:
    bases = pillar.declared({"bases": {BASE: {"version": "1", "chain_id": DIGEST, "protect": ["a:*"]}}})["bases"]
    parsed = image_policy.parse(["b"], bases)
    assert parsed.of(BASE, "x") == parsed.of("other", DIGEST) == ("b", "a:*")
    assert parsed.of("other", "x") == image_policy.parse(("b",), {}).of(BASE, DIGEST) == ("b",)
    assert image_policy.parse(None, {}).of(BASE, DIGEST) == ()


@pytest.mark.parametrize(
    ("pattern", "protected"),
    [
        ("corp/app:1", True),
        ("corp/app", True),
        ("corp/*:1", True),
        ("*", True),
        ("sha256:abc*", True),
        ("host:5000/app", True),
        ("corp/app:2", False),
        ("corp", False),
        ("CORP/app", False),
        ("", False),
    ],
)
def test_what_a_pattern_protects(pattern: str, protected: bool) -> None:
    assert image_policy.protects([pattern], "sha256:abcd", ["corp/app:1", "host:5000/app:1"]) is protected
    assert not image_policy.protects([], "sha256:abcd", ["corp/app:1"])


@pytest.mark.parametrize(
    ("pattern", "name"), [("corp/shop", "corp/shop:2"), ("corp/app*", "corp/app:1"), ("sha256:ab*", "sha256:abcd")]
)
def test_the_name_that_matched(pattern: str, name: str) -> None:
    assert image_policy.matching_name(["nothing", pattern], "sha256:abcd", ["corp/app:1", "corp/shop:2"]) == name


def test_the_bundles_to_tell_the_impact_of() -> None:
    declared = {"version": "12.1", "bundles": {"12.1": {"source": URL}, "12.2": {"source": URL}}}
    bases = pillar.declared({"bases": {BASE: {**declared, "chain_id": DIGEST}}})["bases"]
    assert image_policy.declared_bundles(BASE, URL, {}) == image_policy.DeclaredBundles({"": Source(URL)})
    for name in (BASE, DIGEST):
        declared_bundles = image_policy.declared_bundles(name, None, bases)
        assert declared_bundles is not None
        assert (declared_bundles.version, set(declared_bundles.bundles), declared_bundles.chain_id) == (
            "12.1",
            {"12.1", "12.2"},
            DIGEST,
        )
        other = image_policy.declared_bundles(name, "12.2", bases)
        assert other is not None
        assert other.version == "12.2"
    bases[BASE]["version"] = "12.0"
    assert (
        image_policy.declared_bundles(BASE, None, bases)
        is image_policy.declared_bundles("other:1", None, bases)
        is None
    )
    for wrong in ("12.3", ["x"], ""):
        with pytest.raises(
            ArgumentInvalid, match=r"^\[argument-invalid\] bundle is .* that pillar declares .*: '12.1' or '12.2' -- "
        ):
            image_policy.declared_bundles(BASE, wrong, bases)
    with pytest.raises(ArgumentInvalid, match=r"write it in quotes, '12.1', in a shell \"'12.1'\" -- "):
        image_policy.declared_bundles(BASE, 12.1, bases)
