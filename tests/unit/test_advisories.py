"""Security advisories in changelogs, in a manifest, and in chains of bundles."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from baseimg_core.disk.packages import fixes
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.errors import ArgumentInvalid, BundleInvalid
from baseimg_core.model.packages import advisories, difference
from baseimg_core.model.packages.advisories import NamedAdvisories
from baseimg_core.model.packages.difference import Packages
from baseimg_core.model.packages.dpkg import InstalledPackage
from tests.support.packages import rpm_database

CHANGELOG = """\
openssl (3.0.15-1~deb12u1) bookworm-security; urgency=medium

  * Fix CVE-2024-5535 (buffer overread) and CVE-2024-4741.

 -- A <a@example.org>  Sun, 01 Sep 2024 12:00:00 +0000

openssl (3.0.14-1) unstable; urgency=medium

  * Fix CVE-2024-2511.

openssl (3.0.11-1~deb12u2) bookworm-security; urgency=medium

  * Fix CVE-2023-5363.
"""
FIXED = ("CVE-2024-2511", "CVE-2024-4741", "CVE-2024-5535")


def test_entries_newer_than_the_old_version() -> None:
    assert advisories.of_debian(CHANGELOG, "3.0.11-1~deb12u2") == NamedAdvisories(FIXED)
    assert advisories.of_debian(CHANGELOG, "3.0.15-1~deb12u1") == NamedAdvisories()
    assert "reach back to 3.0.1" in advisories.of_debian(CHANGELOG, "3.0.1").unread
    entries = ["- CVE-2024-1", "- fix CVE-2024-2511", "- CVE-2023-5363"]
    assert advisories.of_rpm(entries, ["- CVE-2023-5363"]) == NamedAdvisories(("CVE-2024-2511",))
    assert "reach back" in advisories.of_rpm(entries, ["- older"]).unread
    many = advisories.of_rpm(["- older", *(f"- CVE-2024-{number:04}" for number in range(60))], ["- older"])
    assert (len(many.advisories), many.unread) == (50, "its changelog names 60 advisories, of which 50 are listed")


def tree(root: Path, version: str) -> Path:
    """Write an image with two packages of one source, of which one's documentation is a link."""
    (root / "usr/share/doc/openssl").mkdir(parents=True)
    (root / "usr/share/doc/libssl3").symlink_to("openssl")
    (root / "usr/share/doc/openssl/changelog.Debian.gz").write_bytes(gzip.compress(CHANGELOG.encode()))
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "var/lib/dpkg/info/openssl.list").write_text("/.\n/usr\n/bin/openssl\n/etc/ssl/openssl.cnf\n")
    source = (
        "Source: openssl (" + version + ")\n"
    )  # libssl3 is as Debian's packages with another version than their source
    packages = (
        f"Package: {name}\nStatus: install ok installed\nVersion: {epoch}{version}\n{origin}"
        for name, epoch, origin in (("openssl", "", ""), ("libssl3", "2:", source))
    )
    (root / "var/lib/dpkg/status").write_text("\n".join(packages))
    return root


@pytest.fixture
def stacks(tmp_path: Path) -> tuple[Stack, Stack]:
    """Return two versions of an image."""
    old, new = (tree(tmp_path / version, version) for version in ("3.0.11-1~deb12u2", "3.0.15-1~deb12u1"))
    return Stack([str(old)]), Stack([str(new)])


def differ(stacks: tuple[Stack, Stack], named: dict[str, tuple[str, ...]] | None = None) -> Packages:
    packages = fixes.difference(*stacks, {b"usr/bin/openssl", b"srv/x"}, named or {})
    assert packages
    assert difference.parse(json.loads(json.dumps(packages.as_dict()))) == packages
    return packages


def test_images_with_documentation(stacks: tuple[Stack, Stack]) -> None:
    packages = differ(stacks)
    assert (packages.fixes, packages.unread) == ({"libssl3": FIXED, "openssl": FIXED}, {})
    assert packages.owners == {"openssl": (b"usr/bin/openssl",)}  # /usr is merged
    assert (packages.owned("openssl"), packages.owned("libssl3"), packages.owned("/srv/x")) == (
        (b"usr/bin/openssl",),
        None,  # without a list of its files
        (b"srv/x",),
    )


def test_images_without_documentation_say_so(stacks: tuple[Stack, Stack], tmp_path: Path) -> None:
    (tmp_path / "3.0.15-1~deb12u1/usr/share/doc/openssl/changelog.Debian.gz").write_bytes(b"damaged")
    without = differ(stacks, {"openssl": ("CVE-2024-5535",), "/srv/x": ("CORP-2024:1",)})
    assert without.fixes == {"/srv/x": ("CORP-2024:1",), "openssl": ("CVE-2024-5535",)}
    assert (without.named, without.source("openssl", "CVE-2024-5535")) == (without.fixes, "operator")
    assert without.unread == dict.fromkeys(("libssl3", "openssl"), "its changelog cannot be read")
    (tmp_path / "3.0.15-1~deb12u1/usr/share/doc/openssl/changelog.Debian.gz").unlink()
    assert set(differ(stacks).unread.values()) == {advisories.NO_CHANGELOG}
    with pytest.raises(ArgumentInvalid, match="bash, which does not differ"):
        differ(stacks, {"bash": ("CVE-2024-5535",)})


def test_an_rpm_base_with_changelogs_in_its_headers(tmp_path: Path) -> None:
    entries = ["- fix CVE-2024-5535", "- fix CVE-2024-2511 and CVE-2024-4741", "- first build"]
    stacks = []
    for version, changelog in (("3.0.7-1", entries[2:]), ("3.0.7-2", entries)):
        fields = {"Changelog": "\n".join(changelog), "Files": "/usr/lib64/libssl.so.3\n/usr/bin/openssl"}
        silent = {"Files": "/usr/bin/openssl-tool"}
        packages = [InstalledPackage("openssl", f"1:{version}", fields), InstalledPackage("tool", version, silent)]
        (tmp_path / version / "var/lib/rpm").mkdir(parents=True)
        (tmp_path / version / "var/lib/rpm/rpmdb.sqlite").write_bytes(rpm_database(packages))
        stacks.append(Stack([str(tmp_path / version)]))
    paths = {b"usr/lib64/libssl.so.3", b"usr/bin/openssl", b"var/lib/rpm/rpmdb.sqlite"}
    read = fixes.difference(stacks[0], stacks[1], paths, {})
    assert read
    assert read.fixes == {"openssl": ("CVE-2024-2511", "CVE-2024-4741", "CVE-2024-5535")}
    assert read.unread == {"tool": advisories.NO_CHANGELOG}
    assert read.owners == {"openssl": (b"usr/bin/openssl", b"usr/lib64/libssl.so.3"), "tool": ()}


def test_a_reader_of_release_0_1_ignores_what_it_does_not_know(stacks: tuple[Stack, Stack]) -> None:
    known = {"manager", "added", "removed", "changed", "unknown", "fixes"}
    plain = {key: value for key, value in differ(stacks).as_dict().items() if key in known}
    older = difference.parse(plain)
    assert older
    assert (older.fixes, older.owners, older.owned("openssl")) == (differ(stacks).fixes, None, None)


@pytest.mark.parametrize(
    "owners", [[], {"a": []}, {"a": {"usr": "x"}}, {"a": {"..": ["x"]}}, {"a": {"": ["/x"]}}, {"a": {"usr": [""]}}]
)
def test_owners_are_names_by_directory(owners: object) -> None:
    raw = {**Packages("dpkg").as_dict(), "owners": owners}
    with pytest.raises(BundleInvalid, match="owners"):
        difference.parse(raw)


def test_what_does_not_fit_into_a_manifest_is_named() -> None:
    plain = Packages("dpkg", changed={"a": ("1", "2")})
    paths = [b"usr/%d" % number for number in range(200_000)]
    without_owners = difference.with_fixes(plain, {"a": ("CVE-2024-1",)}, {}, {}, {"a": paths})
    assert (without_owners.owners, without_owners.fixes, without_owners.unread) == (None, {"a": ("CVE-2024-1",)}, {})
    many = {"a": tuple(f"CVE-2024-{number}" for number in range(100_000))}
    least = difference.with_fixes(plain, many, {"a": ("CVE-2024-1",)}, {}, None)
    assert (least.fixes, least.unread) == (
        {"a": ("CVE-2024-1",)},
        {"a": "more advisories are named than a manifest can hold"},
    )


def test_a_chain_of_bundles_has_the_fixes_of_all_steps() -> None:
    steps = [
        Packages(
            "dpkg",
            changed={"a": ("1", "2"), "b": ("1", "2"), "c": ("1", "3")},
            fixes={"a": ("CVE-2024-0001",), "b": ("CVE-2024-1",), "c": ("CVE-2024-3",), "/srv/x": ("CORP-1",)},
            owners={"a": (b"usr/a",)},
        ),
        Packages(
            "dpkg",
            changed={"a": ("2", "3"), "c": ("3", "2")},  # c goes back to a version without its fix
            removed={"b": "2"},
            fixes={"a": ("CVE-2024-0002",)},
            unread={"a": "reason"},
            owners={"a": (b"usr/a", b"usr/b")},
        ),
    ]
    combined = difference.combine(steps)
    assert combined
    # removing b also fixes its advisories
    b = ("CVE-2024-1",)
    assert combined.fixes == {"/srv/x": ("CORP-1",), "a": ("CVE-2024-0001", "CVE-2024-0002"), "b": b}
    assert (combined.unread, combined.owners) == ({"a": "reason"}, {"a": (b"usr/a", b"usr/b")})


def test_advisories_that_do_not_fit_are_no_silence() -> None:
    """A difference without its advisories would look as if it fixed nothing."""
    names = {f"package-{number}-{'x' * 200}": ("1", "2") for number in range(2500)}
    packages = Packages("dpkg", changed=names)
    assert packages.fits
    named = dict.fromkeys(names, tuple(f"CVE-2024-{number:05}" for number in range(20)))
    limited = difference.with_fixes(packages, named, named, {}, None)
    assert limited.fits
    assert "more advisories are named" in limited.unknown


@pytest.mark.parametrize(
    ("installed", "other", "older"),
    [
        ("5.14-1, 5.14-3", "5.14-2", True),
        ("5.14-2, 5.14-3", "5.14-2", False),
        ("5.14-1", "5.14-1, 5.14-2", False),
        ("5.13-1", "5.14-1, 5.14-2", True),
    ],
)
def test_of_several_versions_the_oldest_counts(installed: str, other: str, older: bool) -> None:
    assert difference.is_older("rpm", installed, other) is older
