"""Diff IDs, chain IDs and references; the OCI image spec's formula is computed independently."""

from __future__ import annotations

import hashlib

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.stack import ids

# `printf a | sha256sum`, also for b and c; chain IDs: `printf "$CHAIN $NEXT" | sha256sum`.
A = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
B = "sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
C = "sha256:2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6"
CHAIN_AB = "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676"
CHAIN_ABC = "sha256:2fce7f8ce91bcf0a1428b36e1024639fdbd9469eea762dba98aa749631885106"


class TestChainIds:
    def test_one_layer_is_its_own_chain(self) -> None:
        assert ids.chain_id([A]) == A

    def test_every_prefix_has_one(self) -> None:
        assert ids.chain_ids([A, B, C]) == [A, CHAIN_AB, CHAIN_ABC]
        assert ids.chain_id([A, B, C]) == CHAIN_ABC

    def test_the_formula_of_the_spec(self) -> None:
        """config.md: ChainID(L0|...|Ln-1|Ln) = Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))."""
        stack = [A, B, C, A, B]

        def chain(diff_ids: list[str]) -> str:
            if len(diff_ids) == 1:
                return diff_ids[0]
            return "sha256:" + hashlib.sha256(f"{chain(diff_ids[:-1])} {diff_ids[-1]}".encode()).hexdigest()

        assert ids.chain_ids(stack) == [chain(stack[:end]) for end in range(1, len(stack) + 1)]

    def test_order_matters(self) -> None:
        assert ids.chain_id([A, B]) != ids.chain_id([B, A])

    def test_an_image_without_layers_has_none(self) -> None:
        assert ids.chain_ids([]) == []
        with pytest.raises(ArgumentInvalid, match="no chain ID"):
            ids.chain_id([])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, True),
        (A + "\n", False),
        (" " + A, False),
        (A[:-1], False),
        (A + "0", False),
        (A.upper(), False),
        (A.replace("ca97", "CA97"), False),
        (A.removeprefix("sha256:"), False),
        ("sha512:" + "0" * 128, False),
        ("", False),
        (A.encode(), False),
        (None, False),
        (12, False),
    ],
)
def test_is_digest(value: object, expected: bool) -> None:
    assert ids.is_digest(value) is expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("corp/base:12.0", "12.0"),
        ("base:12.0", "12.0"),
        ("base", "latest"),
        ("corp/base", "latest"),
        ("registry.corp:5000/base:12.0", "12.0"),
        ("registry.corp:5000/base", "latest"),
        ("registry.corp:5000/a/b/base:12.0-rc.1_x", "12.0-rc.1_x"),
        (f"corp/base@{A}", ""),
        (f"registry.corp:5000/base@{A}", ""),
        (f"corp/base:12.0@{A}", "12.0"),
        (f"registry.corp:5000/base:12.0@{A}", "12.0"),
        (A, ""),
    ],
)
def test_the_tag_of_a_reference(reference: str, expected: str) -> None:
    assert ids.tag(reference) == expected
