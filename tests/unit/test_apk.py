"""Alpine packages: versions, relations, and the files of a package."""

from __future__ import annotations

import itertools

import pytest

from baseimg_core.model.packages import apk

# ascending: suffixes such as _alpha and _rc sort before the release, _p sorts after it
ORDER = [
    "0.1.0_alpha",
    "0.1.3_alpha",
    "0.9_pre1",
    "0.9",
    "1.0.0_pre20191002222144-r0",
    "1.0.0-r0",
    "1.0.0_p1",
    "1.0.1-r2",
    "1.0.1-r10",
    "1.2b",
    "1.2c",
    "1.3-r0",
    "1.3.1-r0",
    "3.4.5_rc1",
    "3.4.5",
    "10",
]


@pytest.mark.parametrize(("older", "newer"), list(itertools.combinations(ORDER, 2)))
def test_versions(older: str, newer: str) -> None:
    assert (apk.compare(older, newer) or 0) < 0
    assert (apk.compare(newer, older) or 0) > 0
    assert apk.compare(older, older) == 0


def test_an_unknown_form_is_no_reason() -> None:
    assert apk.compare("1.0", "next") is None
    assert apk.satisfies("1.0", ">=", "next")


def database(*packages: tuple[str, str, str, str]) -> bytes:
    return b"\n\n".join(
        f"C:Q1x=\nP:{name}\nV:{version}\nD:{needs}\np:{offers}\nF:usr/lib\nR:{name}.so\nF:\nR:top\n".encode()
        for name, version, needs, offers in packages
    )


@pytest.mark.parametrize(
    ("needs", "base", "broken"),
    [
        ("", ("musl", "1.2.4-r2", ""), ""),
        ("so:libcrypto.so.3", ("libcrypto3", "3.1.4-r5", "so:libcrypto.so.3=3"), ""),
        ("so:libcrypto.so.1.1", ("libcrypto3", "3.1.4-r5", "so:libcrypto.so.3=3"), "needs so:libcrypto.so.1.1"),
        ("musl>=1.2", ("musl", "1.2.4-r2", ""), ""),
        ("musl>=1.3", ("musl", "1.2.4-r2", ""), "needs musl>=1.3"),
        ("musl=1.2.4-r2", ("musl", "1.2.4-r2", ""), ""),
        ("python3~3.11", ("python3", "3.11.6-r1", ""), ""),
        ("python3~3.11", ("python3", "3.12.1-r1", ""), "needs python3~3.11"),
        ("pc:x>=2", ("x-dev", "1", "pc:x=2.1"), ""),
        ("pc:x>=2", ("x-dev", "1", "pc:x"), "needs pc:x>=2"),
        ("!old", ("old", "1", ""), "conflicts old"),
        ("!old<2", ("old", "2", ""), ""),
        ("/bin/sh", ("busybox", "1", ""), ""),
        ("app", ("busybox", "1", ""), ""),
    ],
)
def test_relations(needs: str, base: tuple[str, str, str], broken: str) -> None:
    own = apk.by_name(database(("app", "1.0-r0", needs, "")))
    name, version, offers = base
    violations = apk.broken_relations(own.values(), apk.by_name(database((name, version, "", offers))))
    assert [violation.text for violation in violations] == ([broken] if broken else [])


@pytest.mark.parametrize(
    ("base", "broken", "is_revision"),
    [
        (("x", "1.0-r2", "libx=1.0-r2", ""), "x of the new base needs libx=1.0-r2", True),
        (("x", "1.0-r2", "libx=1.1-r0", ""), "x of the new base needs libx=1.1-r0", False),
        (("x", "1.0-r2", "so:libx.so.2", ""), "x of the new base needs so:libx.so.2", False),
        (("x", "1.0-r2", "!libx", ""), "x of the new base conflicts libx", False),
        (("x", "1.0-r2", "!libx<1", ""), "", False),
    ],
)
def test_relations_of_the_new_base(base: tuple[str, str, str, str], broken: str, is_revision: bool) -> None:
    own = apk.by_name(database(("libx", "1.0-r1", "", "so:libx.so.1")))
    installed = apk.by_name(database(base, ("libx", "1.1-r0", "", "so:libx.so.2")))
    violations = apk.broken_relations(own.values(), installed)
    assert [(violation.text, violation.is_revision) for violation in violations] == [(broken, is_revision)] * bool(
        broken
    )
    assert all(violation.package == "libx" for violation in violations)


def test_files_of_packages() -> None:
    data = database(("a", "1", "", ""), ("b", "1", "", ""))
    assert apk.files(data, ["a", "none"]) == {"a": frozenset({b"usr/lib/a.so", b"top"})}
