"""Versions and relations of Debian packages agree with dpkg."""

from __future__ import annotations

import itertools
import random
import subprocess

import pytest

from baseimg_core.model.packages import dpkg as dpkg_status
from baseimg_core.model.packages import dpkg_relations

VERSIONS = ["1.0", "1.0-1", "1.0~rc1-1", "1:0.9", "1.0+b1", "1.0a", "2", "10", "1.0-1~deb12u1", "1.0-1.1", "0", "1.0-"]


def dpkg(first: str, operator: str, second: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", first, operator, second], check=False).returncode == 0


@pytest.mark.parametrize(("first", "second"), random.Random(1).sample([*itertools.combinations(VERSIONS[:-1], 2)], 25))
def test_versions_are_in_dpkgs_order(first: str, second: str) -> None:
    order = dpkg_relations.compare(first, second)
    assert (order < 0, order == 0, order > 0) == tuple(dpkg(first, name, second) for name in ("lt", "eq", "gt"))
    assert (dpkg_relations.compare(second, first) > 0) == (order < 0)


def status(*packages: tuple[str, str, str]) -> dict[str, dpkg_status.InstalledPackage]:
    text = "\n".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n{fields}\n"
        for name, version, fields in packages
    )
    return dpkg_status.by_name(text.encode())


@pytest.mark.parametrize(
    ("own", "base", "broken"),
    [
        ("Depends: libssl3 (>= 3.0)\n", ("libssl3", "3.1", ""), ""),
        ("Depends: libssl3 (>= 3.0)\n", ("libssl3", "2.9", ""), "needs libssl3 (>= 3.0)"),
        ("Depends: libssl3 (>= 3.0)\n", ("libssl3t64", "3.5", "Provides: libssl3 (= 3.5)\n"), ""),
        ("Depends: libssl3 (>= 3.0)\n", ("libssl3t64", "3.5", "Provides: libssl3\n"), "needs libssl3 (>= 3.0)"),
        ("Depends: mail-agent\n", ("exim", "1", "Provides: mail-agent\n"), ""),
        ("Depends: a | libssl3:any,\n b\n", ("libssl3", "1", ""), "needs b"),
        ("Pre-Depends: none\n", ("x", "1", ""), "needs none"),
        ("Conflicts: x (<< 2)\n", ("x", "1", ""), "conflicts x (<< 2)"),
        ("Conflicts: x (<< 2)\n", ("x", "2", ""), ""),
        ("", ("x", "1", "Breaks: app (<= 1)\n"), "x of the new base breaks app (<= 1)"),
        ("", ("x", "1", "Breaks: app (<< 1)\n"), ""),
        ("Provides: app\nConflicts: app\n", ("x", "1", ""), ""),
        ("Provides: y (= 1)\n", ("x", "1", "Breaks: y (<< 2)\n"), "x of the new base breaks y (<< 2)"),
        ("Provides: y (= 2)\n", ("x", "1", "Breaks: y (<< 2)\n"), ""),
        ("Provides: mta\n", ("x", "1", "Provides: mta\nConflicts: mta\n"), "x of the new base conflicts mta"),
        ("Provides: mta\nConflicts: mta\n", ("x", "1", "Provides: mta\n"), "conflicts mta"),
    ],
)
def test_relations(own: str, base: tuple[str, str, str], broken: str) -> None:
    violations = dpkg_relations.broken_relations(status(("app", "1", own)).values(), status(base))
    assert [broken_relation.text for broken_relation in violations] == ([broken] if broken else [])
    assert all(broken_relation.package == "app" for broken_relation in violations)


@pytest.mark.parametrize(
    ("needs", "installed", "is_revision"),
    [
        ("perl-base (= 5.36.0-7+deb12u3)", "5.36.0-7+deb12u4", True),
        ("perl-base (= 5.36.0-7+deb12u3)", "5.40.1-6", False),
        ("perl-base (= 1:5.36.0-7)", "5.36.0-7", False),
        ("perl-base (>= 5.37)", "5.36.0-7", False),
    ],
)
def test_another_revision_of_an_exact_version(needs: str, installed: str, is_revision: bool) -> None:
    own, base = status(("perl", "1", f"Depends: {needs}\n")), status(("perl-base", installed, ""))
    (violation,) = dpkg_relations.broken_relations(own.values(), base)
    assert violation.is_revision is is_revision


def test_a_package_of_the_new_base_needs_more_than_the_application_has() -> None:
    """The application's older package hides the one that the new base's runtime needs."""
    own = status(("node-minimatch", "3.1", ""))
    base = status(("libnode", "20", "Depends: node-minimatch (>= 9), lost\n"), ("node-minimatch", "9", ""))
    (violation,) = dpkg_relations.broken_relations(own.values(), base)
    assert (violation.package, violation.text) == (
        "node-minimatch", "libnode of the new base needs node-minimatch (>= 9)"
    )  # fmt: skip


def test_packages_that_are_removed_do_not_count() -> None:
    text = b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert dpkg_status.by_name(text) == {}
