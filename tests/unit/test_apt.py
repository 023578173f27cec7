"""The mirrors that apt is configured for, read without any package list."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from tests.support import apt
from tests.support.apt import MirrorMissing, Source

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is Debian's")

HOST = "bookworm"
OWN = """
Types: deb deb-src
URIs: http://m.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib

Types: deb
URIs: http://s.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://other.example/
Suites: bookworm stable
Components: main
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration of a Debian 12 whose apt has never fetched a list."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{tmp_path}/sources.list";\nDir::Etc::SourceParts "{tmp_path}/sources.list.d";\n'
        f'Dir::State::Lists "{tmp_path}/lists";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"VERSION_CODENAME": HOST})
    return tmp_path


def configure(etc: Path, text: str = OWN) -> None:
    (etc / "sources.list.d/debian.sources").write_text(text)


def test_the_release_its_updates_and_its_security_updates(etc: Path) -> None:
    configure(etc)
    assert [str(source) for source in apt.sources(HOST)] == [
        "deb http://m.example/debian/ bookworm main",
        "deb http://m.example/debian/ bookworm-updates main",
        "deb http://s.example/debian-security/ bookworm-security main",
    ]


def test_another_release_comes_from_the_same_mirrors(etc: Path) -> None:
    configure(etc)
    assert apt.sources("trixie") == [
        Source("http://m.example/debian/", "trixie"),
        Source("http://m.example/debian/", "trixie-updates"),
        Source("http://s.example/debian-security/", "trixie-security"),
    ]
    assert apt.sources("sid") == [Source("http://m.example/debian/", "sid")]


def test_a_source_of_the_release_itself_comes_first(etc: Path) -> None:
    configure(etc, OWN + "\nTypes: deb\nURIs: http://t.example/\nSuites: trixie\nComponents: main\n")
    assert apt.sources("trixie")[0].mirror == "http://t.example/"


def test_a_list_of_mirrors(etc: Path) -> None:
    """Debian's cloud images use a mirror list."""
    (etc / "mirrors").write_text("# of the cloud\n\nhttp://first.example/debian\tpriority:1\nhttp://m.example/debian\n")
    configure(etc, OWN.replace("http://m.example/debian", f"mirror+file://{etc}/mirrors"))
    assert apt.sources(HOST)[0] == Source("http://first.example/debian/", HOST)


@pytest.mark.parametrize(
    "text", ["", "Types: deb\nURIs: http://s.example/\nSuites: bookworm-security\nComponents: main\n"]
)
def test_no_mirror(etc: Path, text: str) -> None:
    configure(etc, text)
    with pytest.raises(MirrorMissing, match="no mirror of Debian bookworm"):
        apt.sources(HOST)
