"""Packages in a manifest, and the databases of dpkg, apk and rpm as the package managers write them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from debian import deb822

from baseimg_core.disk.packages import databases, fixes
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.errors import BundleInvalid
from baseimg_core.model.bundle import manifest
from baseimg_core.model.packages import difference as packages_difference
from baseimg_core.model.packages import dpkg
from baseimg_core.model.packages.difference import MAX_PACKAGES, MAX_TEXT, Packages, combine, difference, parse
from tests.unit.test_manifest import SOUND

PACKAGES = Packages("dpkg", {"tree": "1"}, {"less": "590-2"}, {"openssl": ("3.0.11-1", "3.0.15-1")})
DPKG, APK = "var/lib/dpkg/status", "lib/apk/db/installed"


def put(root: Path, path: str, content: str | bytes) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def stanza(name: str, version: str, status: str = "install ok installed", architecture: str = "amd64") -> str:
    return (
        f"Package: {name}\nStatus: {status}\nArchitecture: {architecture}\nVersion: {version}\nDescription: x\n more\n"
    )


def differ(old: Path, new: Path) -> Packages | None:
    return databases.difference(Stack([str(old)]), Stack([str(new)]))


def read_difference(old: Path, new: Path) -> Packages:
    result = differ(old, new)
    assert result is not None
    return result


class TestManifest:
    def test_round_trip(self) -> None:
        with_packages = manifest.Manifest(
            SOUND.source, SOUND.target, SOUND.diff_id, SOUND.layer_size, SOUND.totals, PACKAGES
        )
        assert manifest.parse(with_packages.dump()) == with_packages
        assert json.loads(with_packages.dump())["packages"]["changed"] == {"openssl": ["3.0.11-1", "3.0.15-1"]}

    def test_bundles_without_it_stay_readable(self) -> None:
        assert "packages" not in json.loads(SOUND.dump())
        assert manifest.parse(SOUND.dump()).packages is None

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("manager", "yum"),
            ("manager", None),
            ("manager", ["dpkg"]),
            ("unknown", None),
            ("unknown", "x" * (MAX_TEXT + 1)),
            ("unknown", "a\nb"),
            ("added", None),
            ("added", ["tree"]),
            ("added", {"tree": 1}),
            ("added", {"": "1"}),
            ("added", {"x" * (MAX_TEXT + 1): "1"}),
            ("removed", {"a\x1b[31m": "1"}),
            ("removed", {"a": ""}),
            ("changed", {"a": "1"}),
            ("changed", {"a": ["1"]}),
            ("changed", {"a": ["1", "2", "3"]}),
            ("changed", {"a": ["1", None]}),
            ("added", {f"p{number}": "1" for number in range(MAX_PACKAGES + 1)}),
            ("added", {f"{number}".rjust(MAX_TEXT, "p"): "ä" * MAX_TEXT for number in range(1000)}),
        ],
    )
    def test_what_is_damaged_is_named(self, field: str, value: object) -> None:
        data: dict[str, Any] = {**SOUND.as_dict(), "packages": {**PACKAGES.as_dict(), field: value}}
        with pytest.raises(BundleInvalid, match=r"manifest field packages.* ") as failure:
            manifest.parse(json.dumps(data))
        assert len(failure.value.message) < 300

    @pytest.mark.parametrize("value", [[], "x", 1, True])
    def test_what_is_no_object(self, value: object) -> None:
        with pytest.raises(BundleInvalid, match="manifest field packages is"):
            parse(value)

    def test_the_largest_stays_far_below_what_registries_take(self) -> None:
        names = {
            f"libsomething-with-a-long-name-{number}": ("1:2.36-9+deb12u4", "1:2.36-9+deb12u10")
            for number in range(8000)
        }
        label = json.dumps(json.dumps(Packages("dpkg", changed=names).as_dict()))
        assert len(label) < 1 << 20


class TestDifference:
    def test_of_two_databases(self) -> None:
        packages = difference("dpkg", {"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"})
        assert packages == Packages("dpkg", {"d": "1"}, {"a": "1"}, {"b": ("1", "2")})
        names = [f"p{number}" for number in range(100)]
        packages = difference("dpkg", dict.fromkeys(reversed(names), "1"), dict.fromkeys(names, "2"))
        assert list(packages.changed) == sorted(names)

    def test_what_no_manifest_could_hold_is_unknown(self) -> None:
        many = {f"p{number}": "1" for number in range(MAX_PACKAGES + 1)}
        assert "8193 packages differ" in difference("dpkg", {}, many).unknown
        long = {f"{number}".rjust(MAX_TEXT, "p"): "1" * MAX_TEXT for number in range(4000)}
        assert "4000 packages differ" in difference("dpkg", {}, long).unknown
        for strange in ({"a\nb": "1"}, {"a": "x" * 1000}, {"a": ""}):
            assert "name or version" in difference("apk", {}, strange).unknown

    def test_over_several_bundles(self) -> None:
        first = Packages(
            "dpkg", {"new": "1", "gone": "1"}, {"old": "1", "back": "1"}, {"a": ("1", "2"), "same": ("1", "2")}
        )
        two = Packages("dpkg", {"back": "2"}, {"gone": "1", "a": "2"}, {"same": ("2", "1"), "b": ("1", "2")})
        assert combine([first, two]) == Packages(
            "dpkg", {"new": "1"}, {"old": "1", "a": "1"}, {"b": ("1", "2"), "back": ("1", "2")}
        )
        assert combine([first]) == first
        assert combine([first, None]) is combine([]) is None
        assert combine([first, Packages("dpkg", unknown="why")]) == Packages("dpkg", unknown="why")
        assert "differs" in combine([first, Packages("apk")]).unknown  # type: ignore[union-attr]


class TestDpkg:
    def test_status(self, tmp_path: Path) -> None:
        gone = stanza("vim", "9", "deinstall ok config-files")
        both = stanza("libc6", "2.36") + "\n" + stanza("libc6", "2.36", architecture="i386")
        old = put(
            tmp_path / "old", DPKG, "\n".join([stanza("a", "1:1-1"), stanza("b", "1", "hold ok installed"), gone])
        )
        new = put(tmp_path / "new", DPKG, "\n".join([stanza("a", "1:1-2"), both]))
        assert differ(old, new) == Packages(
            "dpkg", {"libc6:amd64": "2.36", "libc6:i386": "2.36"}, {"b": "1"}, {"a": ("1:1-1", "1:1-2")}
        )

    def test_a_version_with_more_architectures(self, tmp_path: Path) -> None:
        """The package was updated, not removed and added: its fixes count."""
        single = put(tmp_path / "single", DPKG, stanza("libc6", "2.36"))
        both = stanza("libc6", "2.37") + "\n" + stanza("libc6", "2.37", architecture="i386")
        several = put(tmp_path / "several", DPKG, both)
        assert differ(single, several) == Packages(
            "dpkg", {"libc6:i386": "2.37"}, {}, {"libc6:amd64": ("2.36", "2.37")}
        )
        assert differ(several, single) == Packages(
            "dpkg", {}, {"libc6:i386": "2.37"}, {"libc6:amd64": ("2.37", "2.36")}
        )

    def test_advisories_that_an_operator_names_for_several_architectures(self, tmp_path: Path) -> None:
        for version in ("2.36", "2.37"):
            both = (stanza("libc6", version, architecture=each) for each in ("amd64", "i386"))
            put(tmp_path / version, DPKG, "\n".join(both))
        stacks = [Stack([str(tmp_path / version)]) for version in ("2.36", "2.37")]
        named = {"libc6": ("CVE-2024-1",), "libc6:i386": ("CVE-2024-2",)}
        read = fixes.difference(*stacks, {DPKG.encode()}, named)
        assert read
        assert read.fixes == {"libc6:amd64": ("CVE-2024-1",), "libc6:i386": ("CVE-2024-1", "CVE-2024-2")}

    def test_images_made_without_dpkg(self, tmp_path: Path) -> None:
        """Distroless images have one file for each package, next to digest lists, and no status field."""
        stanza_text = "Package: openssl\nVersion: 3.0.11\nArchitecture: amd64\n"
        old = put(tmp_path / "old", f"{DPKG}.d/openssl", stanza_text)
        put(old, f"{DPKG}.d/openssl.md5sums", "0123  usr/bin/openssl\n")
        new = put(tmp_path / "new", f"{DPKG}.d/openssl", stanza_text.replace("11", "15"))
        put(new, f"{DPKG}.d/tzdata", "Package: tzdata\nVersion: 2025a\n")
        assert differ(old, new) == Packages("dpkg", {"tzdata": "2025a"}, {}, {"openssl": ("3.0.11", "3.0.15")})
        assert databases.list_installed(str(old), "dpkg", ["openssl", "tzdata"]) == {"openssl"}

    def test_the_machines_own(self) -> None:
        """The reader agrees with dpkg about the packages of this machine."""
        command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        known = {name: version for state, name, version in map(str.split, lines) if state == "installed"}
        database_difference = difference("dpkg", {}, databases._dpkg(Stack(["/"])) or {})
        assert {name.partition(":")[0]: version for name, version in database_difference.added.items()} == known
        assert databases.list_installed("/", "dpkg", [*known, "no-such-package"]) == set(known)

    def test_both_readers_of_the_machines_status_agree(self) -> None:
        """The status reader and python-debian agree on name, version and relations of every package."""
        path = Path("/") / DPKG
        names = ("Package", "Version", "Architecture", "Depends", "Pre-Depends", "Breaks", "Conflicts", "Provides")
        with path.open() as file:
            expected = [
                {name: str(paragraph[name]) for name in names if name in paragraph}
                for paragraph in deb822.Deb822.iter_paragraphs(file, use_apt_pkg=False)
                if paragraph["Status"].split()[2] == "installed"
            ]
        assert expected
        packages = list(dpkg.installed(path.read_bytes()))
        assert [{name: text for name, text in each.fields.items() if name in names} for each in packages] == expected

    @pytest.mark.parametrize("state", ["half-installed", "not-installed", "unpacked", "config-files"])
    def test_a_package_in_another_state_is_not_installed(self, tmp_path: Path, state: str) -> None:
        text = "\n".join([stanza("a", "1"), stanza("b", "1", f"install ok {state}")])
        root = put(tmp_path / "a", DPKG, text)
        assert databases._dpkg(Stack([str(root)])) == {"a": "1"}
        assert databases.list_installed(str(root), "dpkg", ["a", "b"]) == {"a"}

    def test_what_only_was_installed_is_not_listed(self, tmp_path: Path) -> None:
        text = "\n".join([stanza("a", "1"), stanza("vim", "9", "deinstall ok config-files"), stanza("b", "1")])
        assert databases.list_installed(str(put(tmp_path, DPKG, text)), "dpkg", ["a", "b", "vim", "c"]) == {"a", "b"}

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"no fields at all", b"Package: a\n", b"\n\n\n"])
    def test_nonsense_is_no_package(self, tmp_path: Path, content: bytes) -> None:
        database_difference = read_difference(
            put(tmp_path / "a", DPKG, content), put(tmp_path / "b", DPKG, stanza("a", "1"))
        )
        assert database_difference.added == {"a": "1"} or "damaged" in database_difference.unknown

    def test_no_symlink_is_followed(self, tmp_path: Path) -> None:
        """A symlink at the file, or at a directory above it, could point out of the image."""
        (tmp_path / "a/var/lib/dpkg").mkdir(parents=True)
        (tmp_path / "a" / DPKG).symlink_to("/var/lib/dpkg/status")
        database_difference = read_difference(tmp_path / "a", tmp_path / "a")
        assert "cannot be read" in database_difference.unknown
        (tmp_path / "b/var").mkdir(parents=True)
        (tmp_path / "b/var/lib").symlink_to("/var/lib")
        assert differ(tmp_path / "b", tmp_path / "b") is None
        assert databases.list_installed(str(tmp_path / "b"), "dpkg", ["dpkg"]) is None


def test_apk(tmp_path: Path) -> None:
    text = "C:Q1abc=\nP:{0}\nV:{1}\nA:x86_64\nD:so:libc.musl-x86_64.so.1\nF:usr/lib\nR:x\nZ:Q1\n\n"
    old = put(tmp_path / "old", APK, text.format("musl", "1.2.4-r2") + text.format("zlib", "1.2.13-r1"))
    new = put(tmp_path / "new", f"usr/{APK}", text.format("musl", "1.2.4-r3") + text.format("ssl_client", "1-r0"))
    assert differ(old, new) == Packages(
        "apk", {"ssl_client": "1-r0"}, {"zlib": "1.2.13-r1"}, {"musl": ("1.2.4-r2", "1.2.4-r3")}
    )
    assert databases.list_installed(str(old), "apk", ["zlib", "ssl_client"]) == {"zlib"}


def test_without_any_database(tmp_path: Path) -> None:
    assert differ(tmp_path, tmp_path) is None


SPEC = """
Name: {name}
Version: {version}
Release: 1
{epoch}
Summary: x
License: none
BuildArch: noarch
%description
x
%install
install -D /dev/null %{{buildroot}}/etc/{name}
%files
/etc/{name}
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert shutil.which("rpmbuild"), "Debian's package rpm is needed"
    work = tmp_path_factory.mktemp("rpm")
    for name, version, epoch in (
        ("alpha", "1.0", ""),
        ("alpha", "1.1", ""),
        ("beta", "2", "Epoch: 3"),
        ("gamma", "1", ""),
    ):
        (work / "x.spec").write_text(SPEC.format(name=name, version=version, epoch=epoch))
        run("rpmbuild", "-bb", "--define", f"_topdir {work}", str(work / "x.spec"))
    return work


class TestRpm:
    """Databases that rpm itself writes."""

    def database(self, work: Path, root: str, where: str, *names: str) -> Path:
        path = work / root
        files = [str(work / f"RPMS/noarch/{name}.noarch.rpm") for name in names]
        arguments = ["--define", f"_dbpath {path / where}", "--define", "_db_backend sqlite"]
        (path / where).mkdir(parents=True)
        run("rpm", *arguments, "--justdb", "--nodeps", "--install", *files)
        listed = run("rpm", *arguments, "-qa", "--qf", "%{NAME} %{EVR}\\n").splitlines()
        assert databases._rpm(Stack([str(path)])) == dict(line.split() for line in listed)
        return path

    def test_what_rpm_lists_is_found(self, work: Path) -> None:
        old = self.database(work, "old", "var/lib/rpm", "alpha-1.0-1", "beta-2-1")
        new = self.database(work, "new", "usr/lib/sysimage/rpm", "alpha-1.1-1", "gamma-1-1")
        before = sorted(old.rglob("*"))
        assert differ(old, new) == Packages("rpm", {"gamma": "1-1"}, {"beta": "3:2-1"}, {"alpha": ("1.0-1", "1.1-1")})
        assert databases.list_installed(str(old), "rpm", ["beta", "gamma"]) == {"beta"}
        installed = databases.installed(
            "rpm", lambda path: (old / path.decode()).read_bytes() if (old / path.decode()).exists() else None
        )
        assert installed["beta"].fields["Provides"] == "beta = 3:2-1"
        assert databases.files(Stack([str(old)]), "rpm", ["beta", "none"]) == {"beta": frozenset({b"etc/beta"})}
        assert sorted(old.rglob("*")) == before

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"SQLite format 3\0" + b"x" * 4096])
    def test_what_is_damaged_is_unknown(self, tmp_path: Path, content: bytes) -> None:
        root = put(tmp_path, "var/lib/rpm/rpmdb.sqlite", content)
        packages = read_difference(root, root)
        assert "damaged" in packages.unknown

    @pytest.mark.parametrize("name", ["Packages", "Packages.db"])
    def test_older_databases_are_said_to_be_unknown(self, tmp_path: Path, name: str) -> None:
        root = put(tmp_path, f"var/lib/rpm/{name}", b"\0" * 4096)
        packages = read_difference(root, root)
        assert "older kind" in packages.unknown
        assert databases.list_installed(str(root), "rpm", ["a"]) is None


def test_managers_have_readers() -> None:
    assert tuple(databases._READERS) == packages_difference.MANAGERS
