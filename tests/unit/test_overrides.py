"""Path classes and the verdict for shadowed paths. tests/property compares with the kernel."""

from __future__ import annotations

import pytest

from baseimg_core.model.impact.overrides import (
    ExpectedPath,
    ExpectedPaths,
    LayerEntry,
    Verdict,
    combine,
    shadowed_paths,
    verdict,
)
from baseimg_core.model.impact.path_class import PathClass, classify
from baseimg_core.model.stack.entry import Entry, Kind
from baseimg_core.model.stack.overlay import Mark, ancestors

FILE, PROGRAM = Entry(Kind.FILE, 0o644), Entry(Kind.FILE, 0o755)
LINK, DIRECTORY = Entry(Kind.SYMLINK, 0o777), Entry(Kind.DIRECTORY, 0o755)
LIB, BIN, DOC = b"usr/lib/libssl.so.3", b"usr/bin/openssl", b"usr/share/doc/ssl"
STATUS, CACHE, ETC = b"var/lib/dpkg/status", b"var/cache/ldconfig/aux-cache", b"etc"


@pytest.mark.parametrize(
    ("path_class", "paths"),
    [
        (PathClass.LIBRARY, "usr/lib/x86_64-linux-gnu/libssl.so.3 lib/ld-musl-x86_64.so.1 lib64 opt/jdk/lib/modules"),
        (
            PathClass.LIBRARY,
            "usr/local/lib/python3.11/site.py srv/app/own.jar var/lib/app/plugin.so opt/x/libz.so.1.2.13",
        ),
        (PathClass.PROGRAM, "usr/bin/openssl sbin/init usr/libexec/git bin opt/jdk/bin/java"),
        (PathClass.CERTIFICATE, "etc/ssl/certs/ca-certificates.crt etc/pki/tls/cert.pem opt/jdk/lib/security/cacerts"),
        (PathClass.CERTIFICATE, "usr/share/ca-certificates/mozilla/x.crt usr/lib/python3/certifi/cacert.pem"),
        (PathClass.CONFIGURATION, "etc/passwd etc/apt/sources.list"),
        (PathClass.OTHER, "usr/share/doc/libssl3/changelog var/lib/app/data librarian/file usr/share/zoneinfo/UTC"),
        (PathClass.PACKAGE_DATABASE, "var/lib/dpkg/status var/lib/dpkg/info/a.list var/lib/rpm lib/apk/db/installed"),
        (PathClass.PACKAGE_DATABASE, "usr/lib/sysimage/rpm/rpmdb.sqlite var/lib/apt/extended_states etc/apk/world"),
        (
            PathClass.CACHE,
            "var/cache/apt/pkgcache.bin etc/ld.so.cache usr/lib/python3/__pycache__/a.pyc var/log/dpkg.log",
        ),
        (PathClass.CACHE, "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache tmp/x"),
    ],
)
def test_classes(path_class: PathClass, paths: str) -> None:
    assert {path: classify(path.encode(), FILE) for path in paths.split()} == dict.fromkeys(paths.split(), path_class)


def test_an_executable_file_is_a_program_in_any_directory() -> None:
    assert classify(b"opt/tool/run", PROGRAM) is PathClass.PROGRAM
    assert (
        classify(b"opt/tool/run", FILE)
        is classify(b"opt/tool/run", None)
        is classify(b"opt/tool/run", LINK)
        is PathClass.OTHER
    )


def test_a_directory_is_its_metadata_only() -> None:
    assert classify(b"usr/lib", DIRECTORY) is PathClass.DIRECTORY
    assert classify(b"usr/lib\nx/a", FILE) is PathClass.OTHER


def judge(changed: dict[bytes, Entry | None], shadowed: list[bytes]) -> Verdict:
    expected = ExpectedPaths({path: ExpectedPath(path, entry) for path, entry in changed.items()})
    own = {path: LayerEntry(Mark.LEAF, Kind.FILE) for path in shadowed}
    for path in shadowed:
        own.update(dict.fromkeys(ancestors(path), LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY, True)))
    return verdict(expected, shadowed_paths(expected, [own]))


ALL: dict[bytes, Entry | None] = {LIB: FILE, BIN: PROGRAM, DOC: FILE, STATUS: FILE, CACHE: FILE}


@pytest.mark.parametrize(
    ("changed", "shadowed", "expected"),
    [
        (ALL, [], Verdict.EFFECTIVE),
        (ALL, [STATUS, CACHE], Verdict.EFFECTIVE),
        (ALL, [LIB], Verdict.PARTLY),
        (ALL, [DOC], Verdict.PARTLY),
        (ALL, [DOC, STATUS, CACHE], Verdict.PARTLY),
        (ALL, [LIB, BIN], Verdict.BLOCKED),  # documentation does not decide the verdict
        ({DOC: FILE, STATUS: FILE}, [DOC], Verdict.BLOCKED),
        ({DOC: FILE, b"etc/x": FILE, STATUS: FILE}, [DOC, STATUS], Verdict.PARTLY),
        # ignored classes count if nothing else changes
        ({STATUS: FILE}, [STATUS], Verdict.BLOCKED),
        ({STATUS: FILE, CACHE: FILE}, [CACHE], Verdict.PARTLY),
        # a removed path carries no fix
        ({LIB: FILE, BIN: None}, [LIB], Verdict.BLOCKED),
        ({LIB: FILE, BIN: None}, [BIN], Verdict.PARTLY),
        ({LIB: None}, [LIB], Verdict.PARTLY),
        ({}, [], Verdict.EFFECTIVE),
    ],
)
def test_verdicts(changed: dict[bytes, Entry | None], shadowed: list[bytes], expected: Verdict) -> None:
    assert judge(changed, shadowed) is expected


def test_libraries_come_first() -> None:
    expected = ExpectedPaths({path: ExpectedPath(path, entry) for path, entry in ALL.items()})
    shadowed = shadowed_paths(
        expected, [{b"usr": LayerEntry(Mark.OPAQUE, Kind.DIRECTORY), b"var": LayerEntry(Mark.WHITEOUT)}]
    )
    assert [(shadow.path, shadow.reason, shadow.by) for shadow in shadowed] == [
        (LIB, "opaque directory above", b"usr"),
        (BIN, "opaque directory above", b"usr"),
        (DOC, "opaque directory above", b"usr"),
        (STATUS, "whiteout above", b"var"),
        (CACHE, "whiteout above", b"var"),
    ]


def test_an_own_directory_where_the_base_removes_one_counts_as_a_directory() -> None:
    expected = ExpectedPaths({b"usr/lib/old": ExpectedPath(b"usr/lib/old")})
    layer = {
        b"usr": LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY),
        b"usr/lib": LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY),
        b"usr/lib/old": LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY),
    }
    (shadow,) = shadowed_paths(expected, [layer])
    assert (shadow.path_class, shadow.reason) == (PathClass.DIRECTORY, "own directory")


def test_paths_of_which_only_the_time_differs_do_not_count() -> None:
    first = [ExpectedPath(b"usr/lib/a.pm", FILE, is_time=True), ExpectedPath(b"usr/lib/b.so", FILE)]
    expected = ExpectedPaths(combine([first]))
    assert (expected.totals[PathClass.TIME], expected.totals[PathClass.LIBRARY]) == (1, 1)
    layer = {path: LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY) for path in (b"usr", b"usr/lib")}
    layer[b"usr/lib/a.pm"] = LayerEntry(Mark.LEAF, Kind.FILE)
    shadowed = shadowed_paths(expected, [layer])
    assert [shadow.path_class for shadow in shadowed] == [PathClass.TIME]
    assert verdict(expected, shadowed) is Verdict.EFFECTIVE
    second = [ExpectedPath(b"usr/lib/a.pm", FILE), ExpectedPath(b"usr/lib/b.so", FILE, is_time=True)]
    assert not any(path.is_time for path in combine([first, second]).values())


def test_a_later_bundle_overrides_an_earlier_one() -> None:
    first = [
        ExpectedPath(b"a", DIRECTORY),
        ExpectedPath(b"a-b", FILE),
        ExpectedPath(b"a/x", FILE),
        ExpectedPath(b"a0", FILE),
        ExpectedPath(b"c", FILE),
    ]
    second = [ExpectedPath(b"a"), ExpectedPath(b"c", LINK), ExpectedPath(b"d", FILE)]
    third = [ExpectedPath(b"a", DIRECTORY), ExpectedPath(b"a/y", FILE)]
    combined = combine([first, second])
    assert {path: expected.entry for path, expected in combined.items()} == {
        b"a": None,
        b"a-b": FILE,
        b"a0": FILE,
        b"c": LINK,
        b"d": FILE,
    }
    assert set(combine([first, second, third])) == {b"a", b"a/y", b"a-b", b"a0", b"c", b"d"}
