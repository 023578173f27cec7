"""Versions and relations of rpm packages agree with rpm."""

from __future__ import annotations

import itertools
import subprocess

import pytest

from baseimg_core.model.packages import rpm
from baseimg_core.model.packages.dpkg import InstalledPackage

VERSIONS = [
    "1.0", "1.0~rc1", "1.0^git1", "1.0.1", "1.0a", "1.0b", "1a", "2", "10", "1..0", "1.0~", "1.0^", "1.0^a~b", "010"
]  # fmt: skip


def test_versions_are_in_rpms_order() -> None:
    pairs = list(itertools.product(VERSIONS, VERSIONS))
    calls = "".join(f"print(rpm.vercmp('{first}', '{second}'), ' ')" for first, second in pairs)
    printed = subprocess.run(["rpm", "--eval", f"%{{lua: {calls}}}"], check=True, capture_output=True, text=True)
    assert [rpm.compare(*pair) for pair in pairs] == [int(order) for order in printed.stdout.split()]


def packages(*rows: tuple[str, str, dict[str, str]]) -> dict[str, InstalledPackage]:
    return {name: InstalledPackage(name, version, fields) for name, version, fields in rows}


@pytest.mark.parametrize(
    ("own", "base", "broken"),
    [
        ({"Requires": "libcrypto.so.3()(64bit)"}, {"Provides": "libcrypto.so.3()(64bit)"}, ""),
        ({"Requires": "libz.so.1()(64bit)"}, {"Provides": "libz.so.3()(64bit)"}, "needs libz.so.1()(64bit)"),
        ({"Requires": "x >= 1:3.0"}, {}, ""),
        ({"Requires": "x >= 1:3.1"}, {}, "needs x >= 1:3.1"),
        ({"Requires": "x = 1:3.0"}, {}, ""),
        ({"Requires": "x > 3.9\nx <= 1:3.0-2"}, {}, ""),
        ({"Requires": "x = 1:3.0-1"}, {}, "needs x = 1:3.0-1"),
        ({"Requires": "virtual = 9"}, {"Provides": "virtual"}, ""),
        ({"Requires": "virtual = 9"}, {"Provides": "virtual = 8"}, "needs virtual = 9"),
        ({"Requires": "/usr/bin/none\nrpmlib(PayloadIsZstd) <= 5\n(none if other)"}, {}, ""),
        ({"Conflicts": "x < 1:4"}, {}, "conflicts x < 1:4"),
        ({"Conflicts": "x < 1:3"}, {}, ""),
        ({}, {"Conflicts": "app < 2"}, "x of the new base conflicts app < 2"),
        ({}, {"Conflicts": "app > 1-1"}, ""),
        ({}, {"Requires": "app >= 2"}, ""),  # the base alone does not meet it either
    ],
)  # fmt: skip
def test_relations(own: dict[str, str], base: dict[str, str], broken: str) -> None:
    violations = rpm.broken_relations(packages(("app", "1-1", own)).values(), packages(("x", "1:3.0-2", base)))
    assert [violation.text for violation in violations] == ([broken] if broken else [])
    assert all(violation.package == "app" for violation in violations)
    assert any(violation.is_revision for violation in violations) == (broken == "needs x = 1:3.0-1")


@pytest.mark.parametrize("need", ["app >= 2", "libapp.so.2()(64bit)"])
def test_a_package_of_the_new_base_needs_more_than_the_application_has(need: str) -> None:
    own = packages(("app", "1-1", {"Provides": "libapp.so.1()(64bit)"}))
    base = packages(("x", "1-1", {"Requires": need}), ("app", "2-1", {"Provides": "libapp.so.2()(64bit)"}))
    (violation,) = rpm.broken_relations(own.values(), base)
    assert (violation.package, violation.text) == ("app", f"x of the new base needs {need}")
