"""Suggestions for a misspelt reference."""

from __future__ import annotations

import pytest

from baseimg_core.model.policy.misspelling import suggest

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
