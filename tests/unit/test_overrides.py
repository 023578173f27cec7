"""Weights of paths, and what verdict follows from what is covered. What is covered the kernel decides elsewhere."""

from __future__ import annotations

import pytest

from baseimg_core.model.impact.overrides import Own, Verdict, Want, Wanted, follow, shadows, verdict
from baseimg_core.model.impact.path_class import Weight, weigh
from baseimg_core.model.stack.entry import Entry, Kind
from baseimg_core.model.stack.overlay import Mark, ancestors

FILE, PROGRAM = Entry(Kind.FILE, 0o644), Entry(Kind.FILE, 0o755)
LINK, DIRECTORY = Entry(Kind.SYMLINK, 0o777), Entry(Kind.DIRECTORY, 0o755)
LIB, BIN, DOC = b"usr/lib/libssl.so.3", b"usr/bin/openssl", b"usr/share/doc/ssl"
STATUS, CACHE, ETC = b"var/lib/dpkg/status", b"var/cache/ldconfig/aux-cache", b"etc"


@pytest.mark.parametrize(
    ("weight", "paths"),
    [
        (Weight.LIBRARY, "usr/lib/x86_64-linux-gnu/libssl.so.3 lib/ld-musl-x86_64.so.1 lib64 opt/jdk/lib/modules"),
        (Weight.LIBRARY, "usr/local/lib/python3.11/site.py srv/app/own.jar var/lib/app/plugin.so opt/x/libz.so.1.2.13"),
        (Weight.PROGRAM, "usr/bin/openssl sbin/init usr/libexec/git bin opt/jdk/bin/java"),
        (Weight.CERTIFICATE, "etc/ssl/certs/ca-certificates.crt etc/pki/tls/cert.pem opt/jdk/lib/security/cacerts"),
        (Weight.CERTIFICATE, "usr/share/ca-certificates/mozilla/x.crt usr/lib/python3/certifi/cacert.pem"),
        (Weight.CONFIGURATION, "etc/passwd etc/apt/sources.list"),
        (Weight.OTHER, "usr/share/doc/libssl3/changelog var/lib/app/data librarian/file usr/share/zoneinfo/UTC"),
        (Weight.PACKAGE_DATABASE, "var/lib/dpkg/status var/lib/dpkg/info/a.list var/lib/rpm lib/apk/db/installed"),
        (Weight.PACKAGE_DATABASE, "usr/lib/sysimage/rpm/rpmdb.sqlite var/lib/apt/extended_states etc/apk/world"),
        (Weight.CACHE, "var/cache/apt/pkgcache.bin etc/ld.so.cache usr/lib/python3/__pycache__/a.pyc var/log/dpkg.log"),
        (Weight.CACHE, "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache tmp/x"),
    ],
)
def test_weights(weight: Weight, paths: str) -> None:
    assert {path: weigh(path.encode(), FILE) for path in paths.split()} == dict.fromkeys(paths.split(), weight)


def test_what_can_be_executed_is_a_program_wherever_it_is() -> None:
    assert weigh(b"opt/tool/run", PROGRAM) is Weight.PROGRAM
    assert weigh(b"opt/tool/run", FILE) is weigh(b"opt/tool/run", None) is weigh(b"opt/tool/run", LINK) is Weight.OTHER


def test_a_directory_is_its_metadata_only() -> None:
    assert weigh(b"usr/lib", DIRECTORY) is Weight.DIRECTORY
    assert weigh(b"usr/lib\nx/a", FILE) is Weight.OTHER


def judge(wants: dict[bytes, Entry | None], covered: list[bytes]) -> Verdict:
    wanted = Wanted({path: Want(path, entry) for path, entry in wants.items()})
    own = {path: Own(Mark.LEAF, Kind.FILE) for path in covered}
    for path in covered:
        own.update(dict.fromkeys(ancestors(path), Own(Mark.DIRECTORY, Kind.DIRECTORY, True)))
    return verdict(wanted, shadows(wanted, [own]))


ALL: dict[bytes, Entry | None] = {LIB: FILE, BIN: PROGRAM, DOC: FILE, STATUS: FILE, CACHE: FILE}


@pytest.mark.parametrize(
    ("wants", "covered", "expected"),
    [
        (ALL, [], Verdict.EFFECTIVE),
        (ALL, [STATUS, CACHE], Verdict.EFFECTIVE),
        (ALL, [LIB], Verdict.PARTLY),
        (ALL, [DOC], Verdict.PARTLY),
        (ALL, [DOC, STATUS, CACHE], Verdict.PARTLY),
        (ALL, [LIB, BIN], Verdict.BLOCKED),  # the documentation does not make it less so
        ({DOC: FILE, STATUS: FILE}, [DOC], Verdict.BLOCKED),
        ({DOC: FILE, b"etc/x": FILE, STATUS: FILE}, [DOC, STATUS], Verdict.PARTLY),
        # where nothing else changes, they are what counts
        ({STATUS: FILE}, [STATUS], Verdict.BLOCKED),
        ({STATUS: FILE, CACHE: FILE}, [CACHE], Verdict.PARTLY),
        # a path that is gone brings nothing, so it does not make up for what is covered
        ({LIB: FILE, BIN: None}, [LIB], Verdict.BLOCKED),
        ({LIB: FILE, BIN: None}, [BIN], Verdict.PARTLY),
        ({LIB: None}, [LIB], Verdict.PARTLY),
        ({}, [], Verdict.EFFECTIVE),
    ],
)
def test_verdicts(wants: dict[bytes, Entry | None], covered: list[bytes], expected: Verdict) -> None:
    assert judge(wants, covered) is expected


def test_what_matters_most_comes_first() -> None:
    wanted = Wanted({path: Want(path, entry) for path, entry in ALL.items()})
    found = shadows(wanted, [{b"usr": Own(Mark.OPAQUE, Kind.DIRECTORY), b"var": Own(Mark.WHITEOUT)}])
    assert [(one.path, one.reason, one.by) for one in found] == [
        (LIB, "opaque directory above", b"usr"),
        (BIN, "opaque directory above", b"usr"),
        (DOC, "opaque directory above", b"usr"),
        (STATUS, "whiteout above", b"var"),
        (CACHE, "whiteout above", b"var"),
    ]


def test_an_own_directory_where_the_base_removes_one_is_of_little_weight() -> None:
    wanted = Wanted({b"usr/lib/old": Want(b"usr/lib/old")})
    layer = {
        b"usr": Own(Mark.DIRECTORY, Kind.DIRECTORY),
        b"usr/lib": Own(Mark.DIRECTORY, Kind.DIRECTORY),
        b"usr/lib/old": Own(Mark.DIRECTORY, Kind.DIRECTORY),
    }
    (found,) = shadows(wanted, [layer])
    assert (found.weight, found.reason) == (Weight.DIRECTORY, "own directory")


def test_later_bundles_have_the_last_word() -> None:
    first = [Want(b"a", DIRECTORY), Want(b"a-b", FILE), Want(b"a/x", FILE), Want(b"a0", FILE), Want(b"c", FILE)]
    second = [Want(b"a"), Want(b"c", LINK), Want(b"d", FILE)]
    third = [Want(b"a", DIRECTORY), Want(b"a/y", FILE)]
    found = follow([first, second])
    assert {path: want.entry for path, want in found.items()} == {
        b"a": None,
        b"a-b": FILE,
        b"a0": FILE,
        b"c": LINK,
        b"d": FILE,
    }
    assert set(follow([first, second, third])) == {b"a", b"a/y", b"a-b", b"a0", b"c", b"d"}
