"""Security advisories in changelogs, in a manifest, and in chains of bundles."""

from __future__ import annotations

import gzip
from pathlib import Path

from baseimg_core.disk.packages import changelogs
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.model.packages import advisories, difference
from baseimg_core.model.packages.difference import Packages

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
    assert advisories.of_debian(CHANGELOG, "3.0.11-1~deb12u2") == FIXED
    assert advisories.of_debian(CHANGELOG, "3.0.15-1~deb12u1") == ()
    assert advisories.of_rpm(["- CVE-2024-1", "- fix CVE-2024-2511", "- CVE-2023-5363"], ["- CVE-2023-5363"]) == (
        "CVE-2024-2511",
    )


def tree(root: Path, version: str) -> Path:
    """Write an image with two packages of one source, of which one's documentation is a link."""
    (root / "usr/share/doc/openssl").mkdir(parents=True)
    (root / "usr/share/doc/libssl3").symlink_to("openssl")
    (root / "usr/share/doc/openssl/changelog.Debian.gz").write_bytes(gzip.compress(CHANGELOG.encode()))
    (root / "var/lib/dpkg").mkdir(parents=True)
    packages = (
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n" for name in ("openssl", "libssl3")
    )
    (root / "var/lib/dpkg/status").write_text("\n".join(packages))
    return root


def test_images_with_documentation(tmp_path: Path) -> None:
    old, new = (tree(tmp_path / version, version) for version in ("3.0.11-1~deb12u2", "3.0.15-1~deb12u1"))
    packages = changelogs.difference(Stack([str(old)]), Stack([str(new)]))
    assert packages
    assert packages.fixes == {"libssl3": FIXED, "openssl": FIXED}
    assert difference.parse(packages.as_dict()) == packages
    (new / "usr/share/doc/openssl/changelog.Debian.gz").write_bytes(b"damaged")
    without = changelogs.difference(Stack([str(old)]), Stack([str(new)]))
    assert without
    assert without.fixes == {}


def test_a_chain_of_bundles_has_the_fixes_of_all_steps() -> None:
    steps = [
        Packages(
            "dpkg", changed={"a": ("1", "2"), "b": ("1", "2")}, fixes={"a": ("CVE-2024-0001",), "b": ("CVE-2024-1",)}
        ),
        Packages("dpkg", changed={"a": ("2", "3")}, removed={"b": "2"}, fixes={"a": ("CVE-2024-0002",)}),
    ]
    combined = difference.combine(steps)
    assert combined
    assert combined.fixes == {"a": ("CVE-2024-0001", "CVE-2024-0002")}
