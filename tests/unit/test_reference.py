"""References of bundles in registries, and the settings declared for those registries."""

from __future__ import annotations

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.policy import pillar, reference
from baseimg_core.model.policy.pillar import Registry, Source
from baseimg_core.model.policy.reference import Reference, ReferenceMalformed

DIGEST = "sha256:" + "1" * 64


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected_reference"),
        [
            ("registry.corp/base:12.1", Reference("registry.corp", "base", "12.1")),
            ("docker://registry.corp:5000/a/b-c/d__e:1", Reference("registry.corp:5000", "a/b-c/d__e", "1")),
            ("docker://localhost/b@" + DIGEST, Reference("localhost", "b", "", DIGEST)),
            ("docker://registry:5000/b:1@" + DIGEST, Reference("registry:5000", "b", "1", DIGEST)),
            ("docker://[::1]:5000/b:1", Reference("[::1]:5000", "b", "1")),
            ("docker://10.0.0.1/b:A_b.c-D", Reference("10.0.0.1", "b", "A_b.c-D")),
        ],
    )
    def test_sound(self, text: str, expected_reference: Reference) -> None:
        assert reference.parse(text) == expected_reference

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "docker://",
            "base:1",
            "corp/base:1",  # Docker resolves this reference on Docker Hub
            "registry.corp/base",
            "registry.corp/Base:1",
            "registry.corp/../base:1",
            "registry.corp//base:1",
            "registry.corp/base:1#signature",
            "registry.corp/base:1?x",
            "registry.corp/base@sha256:1",
            "registry.corp/base@md5:" + "1" * 64,
            "registry.corp:port/base:1",
            "registry.corp/base:" + "x" * 129,
            "registry.corp/base:1\n",
            "https://registry.corp/base:1",
        ],
    )
    def test_malformed(self, text: str) -> None:
        with pytest.raises(ReferenceMalformed):
            reference.parse(text)

    def test_a_password_is_refused_and_not_shown(self) -> None:
        for text in ("docker://u:hunter2@r.corp/b:1", "docker://u:hun/ter2@r.corp/b:1"):
            with pytest.raises(ArgumentInvalid) as caught:
                pillar.bundle_source(text, None, "bundle")
            assert "ter2" not in str(caught.value)


class TestSignature:
    @pytest.mark.parametrize("source", ["docker://r.corp/b:1", "docker://r.corp/b@" + DIGEST])
    def test_place(self, source: str) -> None:
        place = Source(source, DIGEST).signature
        assert place.digest is None
        assert reference.parse_source(place.source) == (reference.parse(source), reference.SIGNATURE)
        assert reference.parse_source(source) == (reference.parse(source), "")
        signed = Source(source).judgement.signature
        assert reference.parse_source(signed.source) == (reference.parse(source), reference.SIGNED_JUDGEMENT)

    def test_place_of_a_judgement(self) -> None:
        source = Source("salt://b.tar?saltenv=dev", DIGEST, ("/srv/b.tar",)).judgement
        assert source.places == ("salt://b.tar.judged?saltenv=dev", "/srv/b.tar.judged")
        assert source.signature.places == ("salt://b.tar.judged.sig?saltenv=dev", "/srv/b.tar.judged.sig")

    def test_tag_fits_the_grammar_of_tags(self) -> None:
        tag = reference.companion_tag(DIGEST, reference.JUDGEMENT)
        assert reference.parse(f"r.corp/b:{tag}").tag == tag


class TestRegistries:
    def test_sound(self) -> None:
        raw = {"r.corp": {"mirrors": ["https://m.corp:5000", "http://10.0.0.1/"]}, "r.corp:5000": {"insecure": True}}
        assert pillar.registries(raw) == {
            "r.corp": Registry(("https://m.corp:5000", "http://10.0.0.1/")),
            "r.corp:5000": Registry((), True),
        }
        assert pillar.registries(None) == {}
        assert pillar.declared({"registries": raw}) == {"bases": {}, "builds": {}}

    @pytest.mark.parametrize(
        ("raw", "key"),
        [
            (["r.corp"], "baseimg:registries"),
            ({"https://r.corp": {}}, "a name in baseimg:registries"),
            ({"corp": {}}, "a name in baseimg:registries"),
            ({"r.corp": {"mirror": []}}, "baseimg:registries:r.corp:mirror"),
            ({"r.corp": {"mirrors": "https://m.corp"}}, "baseimg:registries:r.corp:mirrors"),
            ({"r.corp": {"mirrors": ["m.corp"]}}, "baseimg:registries:r.corp:mirrors"),
            ({"r.corp": {"mirrors": ["https://u:hunter2@m.corp"]}}, "baseimg:registries:r.corp:mirrors"),
            ({"r.corp": {"mirrors": ["https://m.corp/path"]}}, "baseimg:registries:r.corp:mirrors"),
            ({"r.corp": {"insecure": "yes"}}, "baseimg:registries:r.corp:insecure"),
        ],
    )
    def test_mistakes(self, raw: object, key: str) -> None:
        for check in (pillar.registries, lambda value: pillar.declared({"registries": value})):
            with pytest.raises(ArgumentInvalid) as caught:
                check(raw)
            assert caught.value.message.startswith(f"{key} is ")
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("127.0.0.1.corp", False),
        ("localhost.corp:5000", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert reference.is_loopback(host) is expected
