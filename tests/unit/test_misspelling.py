"""Suggestions for a misspelt reference."""

from __future__ import annotations

import pytest

from baseimg_core.model.policy.misspelling import of_similar_repository, suggest

KNOWN = ["corp/base:12.0", "corp/base:12.1", "corp/java:12.0", "registry.corp:5000/base:12.0", "corp/shop:1"]


@pytest.mark.parametrize(
    ("reference", "suggestion"),
    [
        ("corp/bsae:12.0", "corp/base:12.0"),
        ("corp/base: 12.0", "corp/base:12.0"),
        ("corp/base", "corp/base:12.0 or corp/base:12.1"),
        ("registry.corp:5000/bsae:12.0", "registry.corp:5000/base:12.0"),
        ("corp/base:11.0", ""),
        ("corp/other:12.0", ""),
        ("corp/base:12.0", ""),
        ("", ""),
    ],
)
def test_suggestions(reference: str, suggestion: str) -> None:
    assert suggest(reference, KNOWN) == suggestion


@pytest.mark.parametrize(
    ("reference", "similar"),
    [
        ("corp/base:11.0", "corp/base:12.0, corp/base:12.1"),
        ("corp/bsae:11.0", "corp/base:12.0, corp/base:12.1"),
        ("corp/base:12.0", "corp/base:12.1"),
        ("corp/other:12.0", ""),
    ],
)
def test_references_of_a_similar_repository(reference: str, similar: str) -> None:
    assert of_similar_repository(reference, KNOWN) == similar


def test_many_tags_of_a_repository() -> None:
    known = [f"corp/base:12.{number}" for number in range(5)]
    assert of_similar_repository("corp/base:11", known).endswith("corp/base:12.2 and 2 more")
