"""Routes of bundles to a version; only the bundles on the route are fetched."""

from __future__ import annotations

import pytest

from baseimg_core.errors import VersionUnknown
from baseimg_core.model.bundle import route as bundle_route
from baseimg_core.model.bundle.manifest import ImageRef, Manifest, Totals
from baseimg_core.model.stack.ids import chain_id


def image(content: str, version: str | None = None) -> ImageRef:
    """Return an image reference: `content` identifies the image, `version` only names it."""
    diff_ids = ("sha256:" + content.encode().hex().rjust(64, "0"),)
    name = version or content
    return ImageRef(f"base:{name}", name, chain_id(diff_ids), diff_ids)


class Bundles:
    """Declared bundles by version, `"12.1": ("12.0", "12.1")`; records the requested manifests."""

    def __init__(self, **leads: tuple[str | ImageRef, str]) -> None:
        self.asked: list[str] = []
        self._manifests = {}
        for version, (source, target) in leads.items():
            start = image(source) if isinstance(source, str) else source
            totals = Totals(1, 0, 0, 1, 10)
            self._manifests[version] = Manifest(start, image(target, version), "sha256:" + "0" * 64, 0, totals)

    def manifest(self, version: str) -> Manifest:
        if version not in self.asked:
            self.asked.append(version)
        return self._manifests[version]

    def route(self, target_chain: str, *live_versions: str) -> list[str]:
        present = {image(content).chain_id for content in live_versions}
        return bundle_route.route(target_chain, self._manifests.keys(), present, self.manifest)


CHAIN = {"b": ("a", "b"), "c": ("b", "c"), "d": ("c", "d"), "x": ("w", "x"), "aa": ("z", "aa")}


class TestRoutes:
    def test_one_bundle_leads_there(self) -> None:
        assert Bundles(**CHAIN).route("b", "a") == ["b"]

    def test_several_are_chained_oldest_first(self) -> None:
        assert Bundles(**CHAIN).route("d", "a") == ["b", "c", "d"]

    def test_it_starts_from_the_nearest_content_that_is_present(self) -> None:
        assert Bundles(**CHAIN).route("d", "a", "b") == ["c", "d"]
        assert Bundles(**CHAIN).route("d", "a", "b", "c") == ["d"]

    def test_a_way_backwards_is_a_way(self) -> None:
        bundles = Bundles(b=("a", "b"), a=("b", "a"))
        assert bundles.route("a", "b") == ["a"]

    def test_contents_decide_and_not_names(self) -> None:
        bundles = Bundles(new=(image("middle", "called-otherwise"), "top"), other=("bottom", "middle"))
        assert bundles.route("new", "bottom") == ["other", "new"]

    def test_a_version_that_is_only_called_like_the_source_is_passed_over(self) -> None:
        bundles = Bundles(top=(image("middle", "mid"), "top"), mid=("bottom", "another"), real=("bottom", "middle"))
        assert bundles.route("top", "bottom") == ["real", "top"]


class TestFetching:
    """Requesting a manifest can download the bundle."""

    @pytest.mark.parametrize(
        ("target_chain", "live_versions", "asked"),
        [("b", "a", {"b"}), ("d", "c", {"d"}), ("d", "b", {"d", "c"}), ("d", "a", {"d", "c", "b"})],
    )
    def test_only_the_bundles_on_the_way(self, target_chain: str, live_versions: str, asked: set[str]) -> None:
        bundles = Bundles(**CHAIN)
        bundles.route(target_chain, live_versions)
        assert set(bundles.asked) == asked

    def test_the_wanted_one_first_then_backwards(self) -> None:
        bundles = Bundles(**CHAIN)
        bundles.route("d", "a")
        assert bundles.asked == ["d", "c", "b"]

    def test_nothing_for_a_version_that_no_bundle_leads_to(self) -> None:
        bundles = Bundles(**CHAIN)
        with pytest.raises(VersionUnknown):
            bundles.route("e", "a")
        assert bundles.asked == []


class TestNoWay:
    def test_a_version_that_no_bundle_leads_to(self) -> None:
        with pytest.raises(VersionUnknown, match=r"version e is not on the node .* lead to: 'aa' or 'b' or 'c' or "):
            Bundles(**CHAIN).route("e", "a")

    def test_no_bundles_at_all(self) -> None:
        with pytest.raises(VersionUnknown, match="lead to: no version "):
            Bundles().route("b", "a")

    def test_a_dead_end_names_where_the_last_bundle_starts(self) -> None:
        with pytest.raises(VersionUnknown, match=r"the bundle for b starts from base:a \(sha256:.*cannot show"):
            Bundles(**CHAIN).route("d", "elsewhere")

    def test_nothing_is_present(self) -> None:
        with pytest.raises(VersionUnknown, match="the bundle for b starts from base:a"):
            Bundles(**CHAIN).route("b")

    @pytest.mark.parametrize(
        "leads",
        [
            {"a": ("b", "a"), "b": ("a", "b")},
            {"a": ("c", "a"), "b": ("a", "b"), "c": ("b", "c")},
            {"a": ("a", "a")},
        ],
        ids=["two", "three", "itself"],
    )
    def test_a_cycle_that_nothing_leads_into_ends(self, leads: dict[str, tuple[str, str]]) -> None:
        with pytest.raises(VersionUnknown, match="cannot show"):
            Bundles(**leads).route("a", "elsewhere")

    def test_a_cycle_is_left_where_a_content_is_present(self) -> None:
        bundles = Bundles(a=("c", "a"), b=("a", "b"), c=("b", "c"))
        assert bundles.route("a", "b") == ["c", "a"]


class TestSpace:
    """Two bundles lead to one content; they have the names `step` and `whole`."""

    BUNDLES = Bundles(top=("middle", "top"), step=("near", "middle"), whole=("far", "middle"), near=("far", "near"))

    def route(self, *fitting: list[str]) -> list[str]:
        asked = self.BUNDLES
        present = {image("far").chain_id}
        versions = ("top", "step", "whole", "near")
        return bundle_route.route(
            "top", versions, present, asked.manifest, asked.manifest, lambda steps: steps in fitting
        )

    def test_the_shortest_that_fits(self) -> None:
        short, long = ["whole", "top"], ["near", "step", "top"]
        assert self.route(short, long) == short
        assert self.route(long) == long

    def test_if_none_fits_the_shortest_says_what_is_missing(self) -> None:
        assert self.route() == ["whole", "top"]
