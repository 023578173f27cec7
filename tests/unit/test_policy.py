"""The declared policy: every mistake names the key, the given value and the expected one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.policy import pillar as policy_pillar
from baseimg_core.model.policy.pillar import Source

DIGEST = "sha256:" + "1" * 64
URL = "salt://baseimg/bundles/b.tar"
BASE = "corp/base:12.0"
AT = f"baseimg:bases:{BASE}"
BUILD = "/srv/b.tar"
BUILT = f"baseimg:builds:{BUILD}"


def base(**fields: Any) -> dict[str, Any]:
    return {"bases": {BASE: {"version": "12.1", **fields}}}


def build(**fields: Any) -> dict[str, Any]:
    return {"builds": {BUILD: {"source": "b:1", "target": "b:2", **fields}}}


class TestSound:
    # `config.get` finds these settings in pillar too
    @pytest.mark.parametrize(
        "pillar",
        [None, {}, {"bases": None}, {"bases": {}, "builds": {}}, {"lock_timeout": 5, "reserve": 2, "link": "copy"}],
    )
    def test_nothing_declared(self, pillar: object) -> None:
        assert policy_pillar.declared(pillar) == {"bases": {}, "builds": {}}

    def test_defaults(self) -> None:
        declared = policy_pillar.declared({**base(), **build()})
        assert declared["bases"] == {
            BASE: {
                "version": "12.1",
                "bundles": {},
                "chain_id": None,
                "missing": "ok",
                "repair": False,
                "protect": [],
                "accept": [],
                "impaired": "refuse",
                "breaks": "refuse",
                "ghosts": "accept",
                "require": [],
                "trial": None,
                "containers": "keep",
                "below": None,
                "keep": 1,
            }
        }
        built = {
            "source": "b:1",
            "target": "b:2",
            "version": None,
            "compression": "zstd",
            "key": None,
            "delta": None,
            "fixes": None,
        }
        assert declared["builds"] == {BUILD: built}

    def test_everything_declared(self) -> None:
        bundles = {"12.1": {"source": URL, "hash": DIGEST}, "12.2": {"source": "/srv/b.tar"}}
        fields = {"version": "12.2", "bundles": bundles, "chain_id": DIGEST, "missing": "fail", "repair": True}
        fields["protect"], fields["below"], fields["keep"] = ["corp/legacy:*"], "exact", 0
        fields.update(
            accept=["a:*"], impaired="accept", breaks="unused", ghosts="refuse", require=["libssl3"], trial="auto"
        )
        fields["containers"] = {"mode": "restart", "except": ["db"]}
        built = {"source": "b:1", "target": "b:2", "version": "2", "compression": "gzip", "key": "/etc/key"}
        built |= {"delta": "both", "fixes": {"openssl": ["CVE-2024-5535"], "/srv/x": "CORP-1"}}
        declared = policy_pillar.declared({"bases": {BASE: fields}, "builds": {BUILD: built}})
        assert declared == {"bases": {BASE: fields}, "builds": {BUILD: built}}

    def test_bundles(self) -> None:
        raw = {"12.1": {"source": URL, "hash": DIGEST}, "12.2": {"source": "/srv/b.tar"}}
        assert policy_pillar.bundles(raw) == {"12.1": Source(URL, DIGEST), "12.2": Source("/srv/b.tar")}
        assert policy_pillar.bundles(None) == {}

    @pytest.mark.parametrize("key", ["hash", "source_hash"])
    @pytest.mark.parametrize("form", ["sha256:{}", "sha256={}", "{}", "SHA256:{}"])
    @pytest.mark.parametrize("change", [str.lower, str.upper])
    def test_every_form_of_a_digest(self, key: str, form: str, change: Callable[[str], str]) -> None:
        digest = "sha256:" + "0a" * 32
        raw = {"12.1": {"source": URL, key: form.format(change("0a" * 32))}}
        assert policy_pillar.bundles(raw) == {"12.1": Source(URL, digest)}

    @pytest.mark.parametrize("place", ["/srv/b.tar", URL, "https://h/b.tar", "s3://bucket/b.tar"])
    def test_places(self, place: str) -> None:
        assert policy_pillar.bundle_source(place, None, "bundle") == Source(place)


# pillar, the wrong key, the given value, the expected one
MISTAKES: list[tuple[object, str, str, str]] = [
    ([], "baseimg", "'[]' (list)", "a mapping with bases and builds"),
    ("x", "baseimg", "'x' (str)", "a mapping with bases and builds"),
    ({"bases": [BASE]}, "baseimg:bases", "(list)", "base references, each with a version"),
    ({"bases": {5: {"version": "1"}}}, "a name in baseimg:bases", "'5' (int)", "a text"),
    ({"bases": {BASE: None}}, f"{AT}:version", "nothing", "a text"),
    ({"bases": {BASE: "12.1"}}, AT, "'12.1' (str)", "a mapping with version and bundles"),
    (base(version=12.1), f"{AT}:version", "'12.1' (float)", "write it in quotes, '12.1'"),
    (base(version=12), f"{AT}:version", "'12' (int)", "write it in quotes, '12'"),
    (base(version=""), f"{AT}:version", "'' (str)", "a text"),
    (base(version=True), f"{AT}:version", "'True' (bool)", "a text"),
    (base(version=["12.1"]), f"{AT}:version", "(list)", "a text"),
    (base(version="12.1\n"), f"{AT}:version", r"'12.1\n' (str)", "a text"),
    (
        base(verison="12.1"),
        f"{AT}:verison",
        "'12.1' (str)",
        "only these keys: accept, below, breaks, bundles, chain_id, containers, ghosts, impaired, keep,",
    ),
    (base(accept="corp/x:*"), f"{AT}:accept", "'corp/x:*' (str)", "a list of image patterns"),
    (base(keep=-1), f"{AT}:keep", "'-1' (int)", "a number of generations, 0 or more"),
    (base(keep=True), f"{AT}:keep", "'True' (bool)", "a number of generations, 0 or more"),
    (base(impaired="yes"), f"{AT}:impaired", "'yes' (str)", "one of: refuse, accept"),
    (base(ghosts="no"), f"{AT}:ghosts", "'no' (str)", "one of: accept, refuse"),
    (base(breaks=True), f"{AT}:breaks", "'True' (bool)", "one of: refuse, unused"),
    (base(require=[""]), f"{AT}:require:0", "'' (str)", "a text"),
    (base(protect="corp/x:*"), f"{AT}:protect", "'corp/x:*' (str)", "a list of image patterns"),
    (base(protect=["a", 5]), f"{AT}:protect:1", "'5' (int)", "a text"),
    (base(missing="maybe"), f"{AT}:missing", "'maybe' (str)", "one of: ok, fail"),
    (base(missing=None), f"{AT}:missing", "nothing", "one of: ok, fail"),
    (base(missing=["ok"]), f"{AT}:missing", "(list)", "one of: ok, fail"),
    (base(chain_id="1234"), f"{AT}:chain_id", "'1234' (str)", "sha256:<64 hex digits>"),
    (base(chain_id=DIGEST.upper()), f"{AT}:chain_id", "'SHA256:", "sha256:<64 hex digits>"),
    (base(bundles=[URL]), f"{AT}:bundles", "(list)", "versions, each with a bundle's source and hash"),
    (base(bundles={12.1: {"source": URL}}), f"a version in {AT}:bundles", "'12.1' (float)", "quotes, '12.1'"),
    (base(bundles={"12.1": URL}), f"{AT}:bundles:12.1", f"'{URL}' (str)", "a mapping with source and hash"),
    (base(bundles={"12.1": None}), f"{AT}:bundles:12.1:source", "nothing", "a text"),
    (base(bundles={"12.1": {}}), f"{AT}:bundles:12.1:source", "nothing", "a text"),
    (base(bundles={"12.1": {"source": 5}}), f"{AT}:bundles:12.1:source", "'5' (int)", "a text"),
    (base(bundles={"12.1": {"source": "b.tar"}}), f"{AT}:bundles:12.1:source", "'b.tar'", "an absolute path or a URL"),
    (
        base(bundles={"12.1": {"source": URL, "hash": "1" * 63}}),
        f"{AT}:bundles:12.1:hash",
        "'1111",
        "64 hex digits",
    ),
    (base(bundles={"12.1": {"source": URL, "hash": 5}}), f"{AT}:bundles:12.1:hash", "'5' (int)", "64 hex digits"),
    (
        base(bundles={"12.1": {"source": URL, "digest": DIGEST}}),
        f"{AT}:bundles:12.1:digest",
        "'sha256:1",
        "only these keys: hash, source",
    ),
    ({"builds": [BUILD]}, "baseimg:builds", "(list)", "paths of bundles, each with a source and a target"),
    ({"builds": {"b.tar": {}}}, "a path in baseimg:builds", "'b.tar' (str)", "an absolute path"),
    ({"builds": {5: {}}}, "a path in baseimg:builds", "'5' (int)", "an absolute path"),
    ({"builds": {BUILD: None}}, f"{BUILT}:source", "nothing", "a text"),
    ({"builds": {BUILD: []}}, BUILT, "'[]' (list)", "a mapping with source and target"),
    (build(target=None), f"{BUILT}:target", "nothing", "a text"),
    (build(version=12.1), f"{BUILT}:version", "'12.1' (float)", "quotes, '12.1'"),
    (build(fixes=["CVE-2024-5535"]), f"{BUILT}:fixes", "(list)", "lists of advisories"),
    (build(fixes={"openssl": []}), f"{BUILT}:fixes:openssl", "[]", "1 to 50 advisories"),
    (build(fixes={"openssl": ["openssl"]}), f"{BUILT}:fixes:openssl", "'openssl'", "the ID of an advisory"),
    (
        build(bundle="x"),
        f"{BUILT}:bundle",
        "'x' (str)",
        "only these keys: compression, delta, fixes, key, source, target",
    ),
    (build(delta=True), f"{BUILT}:delta", "'True' (bool)", "one of: auto, both, only"),
    (build(compression="lzma"), f"{BUILT}:compression", "'lzma' (str)", "gzip"),
    # a misspelt key must not mean "nothing declared"
    ({"base": {BASE: {"version": "12.1"}}}, "baseimg:base", "a mapping with corp/base", "bases"),
]


@pytest.mark.parametrize(
    ("pillar", "key", "given_value", "expected"),
    MISTAKES,
    ids=[f"{key} {given_value}" for _pillar, key, given_value, _expected in MISTAKES],
)
def test_a_mistake(pillar: object, key: str, given_value: str, expected: str) -> None:
    with pytest.raises(ArgumentInvalid) as failure:
        policy_pillar.declared(pillar)
    message = failure.value.message
    named, _is, rest = message.partition(" is ")
    assert named == key
    value_text, _comma, expected_text = rest.partition(", expected ")
    assert given_value in value_text
    assert expected in expected_text


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ArgumentInvalid) as failure:
        policy_pillar.declared("x" * 100_000)
    assert len(failure.value.message) < 300
