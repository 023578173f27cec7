"""Versions and relations of rpm packages agree with rpm."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from baseimg_core.disk.packages import databases
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
        ({"Requires": "/usr/bin/env\nrpmlib(PayloadIsZstd) <= 5\n(none if other)"}, {}, ""),
        ({"Requires": "/usr/bin/none"}, {}, "needs /usr/bin/none"),
        ({"Requires": "(none or x)"}, {}, ""),
        ({"Requires": "(none or x >= 2:9)"}, {}, "needs (none or x >= 2:9)"),
        ({}, {"Conflicts": "(app if x)"}, "x of the new base conflicts (app if x)"),
        ({"Conflicts": "x < 1:4"}, {}, "conflicts x < 1:4"),
        ({"Conflicts": "x < 1:3"}, {}, ""),
        ({}, {"Conflicts": "app < 2"}, "x of the new base conflicts app < 2"),
        ({}, {"Conflicts": "app > 1-1"}, ""),
        ({}, {"Requires": "app >= 2"}, ""),  # the base alone does not meet it either
    ],
)  # fmt: skip
def test_relations(own: dict[str, str], base: dict[str, str], broken: str) -> None:
    violations = rpm.broken_relations(
        packages(("app", "1-1", own)).values(), packages(("x", "1:3.0-2", base)), "/usr/bin/env".__eq__
    )
    assert [violation.text for violation in violations] == ([broken] if broken else [])
    assert all(violation.package == "app" for violation in violations)
    assert any(violation.is_revision for violation in violations) == (broken == "needs x = 1:3.0-1")


@pytest.mark.parametrize("need", ["app >= 2", "libapp.so.2()(64bit)"])
def test_a_package_of_the_new_base_needs_more_than_the_application_has(need: str) -> None:
    own = packages(("app", "1-1", {"Provides": "libapp.so.1()(64bit)"}))
    base = packages(("x", "1-1", {"Requires": need}), ("app", "2-1", {"Provides": "libapp.so.2()(64bit)"}))
    (violation,) = rpm.broken_relations(own.values(), base)
    assert (violation.package, violation.text) == ("app", f"x of the new base needs {need}")


NEEDS = (
    """
(x or none)|(none or gone)|(x and none)|(none if x)|(none if gone)|(none if gone else x)|(none if x else gone)
(gone if gone else none)|(p with q)|(p with none)|(p with p >= 3)|(p without q)|(p without none)|(x and y and none)
(none or gone or y)|((none or x) and y)|((p or none) with q)|(lib.so.1()(64bit) or none)|(lib.so.2()(64bit) if y < 3)
(lib.so.1()(64bit) if (x and none))|(x = 1:3.0 or none)|(x > 1:3.0-2 or none)|(x >= 2 with x < 3)|/etc/x|/etc/gone
x|none|virtual = 9|p = 2|p = 9|y < 2|y <= 2|y = 2-1|y = 2-2|virtual|lib.so.1()(64bit)
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
CONFLICTS = (
    """
x|none|y < 2|y = 2|(x and y)|(x and none)|(x unless y)|(x unless none)|(p with q)|(none unless x else y)|(none or y)
p = 9
""".strip()
    .replace("\n", "|")
    .split("|")
)
PACKAGE = "\n%package -n {name}\nSummary: x\n{lines}\n%description -n {name}\nx\n%files -n {name}\n"
BASE = {
    "x": "Version: 3.0\nRelease: 2\nEpoch: 1\nProvides: p = 2",
    "y": "Version: 2\nProvides: p = 3\nProvides: q\nProvides: virtual\nProvides: lib.so.1()(64bit)",
}


def test_rpm_itself_finds_the_same_relations_broken(tmp_path: Path) -> None:
    """An application's packages in a database of rpm are judged as ``rpm --verify`` does."""
    own = {f"need{number}": f"Requires: {need}" for number, need in enumerate(NEEDS)}
    own |= {f"conflict{number}": f"Conflicts: {each}" for number, each in enumerate(CONFLICTS)}
    own["script"] = "Requires(post): none\nRequires(pre): /etc/gone"
    spec = "Name: z\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\nx\n"
    for name, lines in {**BASE, **own}.items():
        spec += PACKAGE.format(name=name, lines=lines)
    spec = (
        spec.replace("%files -n x\n", "%files -n x\n/etc/x\n") + "%install\ninstall -D /dev/null %{buildroot}/etc/x\n"
    )
    (tmp_path / "x.spec").write_text(spec)
    define = ["--define", f"_topdir {tmp_path}", "--define", f"_dbpath {tmp_path}", "--define", "_db_backend sqlite"]
    subprocess.run(["rpmbuild", *define, "-bb", tmp_path / "x.spec"], check=True, capture_output=True)
    built = sorted((tmp_path / "RPMS/noarch").glob("*.rpm"))
    subprocess.run(["rpm", *define, "--justdb", "--nodeps", "--install", *built], check=True, capture_output=True)
    verified = subprocess.run(["rpm", *define, "-Va", "--nofiles"], check=False, capture_output=True, text=True).stdout

    relation = re.compile(r"^\t(.+) (?:is needed by|(conflicts) with) \(installed\) (.+)-1-1\.noarch", re.MULTILINE)
    expected = {(name, f"{word or 'needs'} {text}") for text, word, name in relation.findall(verified)}
    assert len(expected) > 20
    names = {f"var/lib/rpm/{file.name}".encode(): file for file in tmp_path.glob("rpmdb.sqlite*")}
    read = databases.installed("rpm", lambda path: names[path].read_bytes() if path in names else None)
    base = {name: read.pop(name) for name in BASE}
    violations = rpm.broken_relations(read.values(), base, "/etc/x".__eq__)
    assert {(violation.package, violation.text) for violation in violations} == expected
