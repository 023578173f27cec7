"""Applications for .NET and Java, and locales, on a base whose runtimes change: made-up layers over two trees."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from baseimg_core.disk.impact.judge import Judge
from baseimg_core.model.impact import dotnet, java, locales
from baseimg_core.model.impact.dotnet import Framework
from tests.support.judging import base_change

SHARED = "usr/share/dotnet/shared/Microsoft.NETCore.App"
JAVA = "usr/lib/jvm/java-{0}"


def tree(root: Path, dotnet_version: str, java_version: str, locale: str) -> Path:
    home = JAVA.format(java_version)
    files = {
        "usr/share/dotnet/dotnet": b"\x7f",
        f"{SHARED}/{dotnet_version}/System.dll": b"",
        f"{home}/bin/java": b"\x7f",
        f"{home}/release": b'IMPLEMENTOR="x"\nJAVA_VERSION="%s.0.9"\n' % java_version.encode(),
        "usr/lib/locale/locale-archive": b"\x09\x01\x02\xde" + locale.encode() + b"\0" + bytes(64),
        "usr/lib/locale/fr_FR.utf8/LC_CTYPE": b"",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/java").symlink_to(f"/{home}/bin/java")
    (root / "usr/bin/dotnet").symlink_to("/usr/share/dotnet/dotnet")
    return root


@dataclass(frozen=True)
class Case:
    name: str
    command: Sequence[str]
    reasons: Sequence[str]
    environment: Sequence[str] = ()
    #: The versions of .NET and Java of the old and of the new base.
    versions: tuple[tuple[str, str], tuple[str, str]] = (("6.0.25", "17"), ("8.0.1", "21"))


DOTNET, JAR = ("dotnet", "/app/shop.dll"), ("java", "-jar", "/app/shop.jar")
OLD_JAVA = (("8.0.1", "11"), ("8.0.1", "17"))
DOWN = (("8.0.1", "21"), ("8.0.1", "17"))
FLAG = "-XX:+UseConcMarkSweepGC"
CASES = [
    Case("framework", DOTNET, ["breaks runtime app/shop.runtimeconfig.json"]),
    Case("framework-beside", ("dotnet", "--info"), ["impaired runtime app/shop.runtimeconfig.json"]),
    Case("patch", DOTNET, [], versions=(("6.0.25", "17"), ("6.0.36", "17"))),
    Case("older-patch", DOTNET, [], versions=(("6.0.25", "17"), ("6.0.5", "17"))),
    Case("forced", DOTNET, [], ["DOTNET_ROLL_FORWARD=Major"],),
    Case("classes", JAR, ["breaks runtime app/shop.jar"], versions=DOWN),
    Case("classes-beside", ("true",), ["impaired runtime app/shop.jar"], versions=DOWN),
    Case("newer-java", JAR, [], versions=(("8.0.1", "17"), ("8.0.1", "21"))),
    Case("option", JAR, ["breaks runtime JAVA_OPTS"], [f"JAVA_OPTS={FLAG}"], OLD_JAVA),
    Case("option-of-command", ("java", FLAG, *JAR[1:]), ["breaks runtime java"], [], OLD_JAVA),
    Case("option-lost-before", JAR, [], [f"JAVA_OPTS={FLAG}"], (("8.0.1", "17"), ("8.0.1", "21"))),
    Case("locale", ("true",), ["impaired environment LANG"], ["LANG=de_DE.UTF-8"], (DOWN[0], DOWN[0])),
    Case("locale-kept", ("true",), [], ["LC_ALL=fr_FR.UTF-8"], (DOWN[0], DOWN[0])),
    Case("locale-built-in", ("true",), [], ["LC_ALL=C.UTF-8"], (DOWN[0], DOWN[0])),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_an_application_loses(tmp_path: Path, case: Case) -> None:
    (old_dotnet, old_java), (new_dotnet, new_java) = case.versions
    old = tree(tmp_path / "old", old_dotnet, old_java, "de_DE.utf8")
    new = tree(tmp_path / "new", new_dotnet, new_java, "en_US.utf8")
    application = tmp_path / "own/app"
    application.mkdir(parents=True)
    framework = {"name": "Microsoft.NETCore.App", "version": f"{old_dotnet.partition('.')[0]}.0.0"}
    (application / "shop.runtimeconfig.json").write_text(json.dumps({"runtimeOptions": {"framework": framework}}))
    (application / "shop.dll").write_bytes(b"MZ\0")
    with zipfile.ZipFile(application / "shop.jar", "w") as archive:
        archive.writestr("Shop.class", b"\xca\xfe\xba\xbe\0\0\0" + bytes([int(old_java) + 44]))
        archive.writestr("META-INF/versions/99/Shop.class", b"\xca\xfe\xba\xbe\0\0\0\xff")
    raw = {"Cmd": list(case.command), "Env": ["PATH=/usr/bin", *case.environment]}
    reasons = Judge(base_change([old], [new]), {}).reasons([str(tmp_path / "own")], raw)
    expected = [
        reason for reason in reasons if not (reason.subject == "app/shop.jar" and reason.code == "missing-path")
    ]
    assert [f"{reason.verdict.value} {reason.code} {reason.subject}" for reason in expected] == case.reasons, reasons


@pytest.mark.parametrize(
    ("version", "roll_forward", "installed", "is_met"),
    [
        ("6.0.0", "Minor", ["6.1.0"], True),
        ("6.0.0", "Minor", ["7.0.0"], False),
        ("6.0.4", "Minor", ["6.0.3"], False),
        ("6.0.0", "LatestPatch", ["6.1.0"], False),
        ("6.0.0", "LatestPatch", ["6.0.9"], True),
        ("6.0.0", "Major", ["8.0.0"], True),
        ("6.0.0", "Disable", ["6.0.1"], False),
        ("6.0.0", "Minor", [], False),
    ],
)
def test_roll_forward(version: str, roll_forward: str, installed: list[str], is_met: bool) -> None:
    assert Framework("x", version, roll_forward).is_met(installed) is is_met


def test_a_self_contained_application_needs_no_framework() -> None:
    assert (
        dotnet.frameworks(b'{"runtimeOptions": {"includedFrameworks": [{"name": "x", "version": "6.0.0"}]}}', {}) == []
    )


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"runtimeOptions": 1}', b'{"runtimeOptions": {"framework": 1}}']
)
def test_another_form_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"runtime configuration|Expecting value|property name"):
        dotnet.frameworks(content, {})


@pytest.mark.parametrize(
    ("text", "old", "new", "rejected"),
    [
        ("java -XX:+PrintGCDateStamps -XX:+UseG1GC", 8, 11, ["-XX:+PrintGCDateStamps"]),
        ("-XX:MaxPermSize=64m", 8, 11, []),
        ("-XX:MaxPermSize=64m -XX:CMSInitiatingOccupancyFraction=70", 11, 17,
         ["-XX:CMSInitiatingOccupancyFraction", "-XX:MaxPermSize"]),
        ("-XX:+IgnoreUnrecognizedVMOptions -XX:+AggressiveOpts", 11, 17, []),
        ("--add-modules java.xml.bind", 8, 11, ["--add-modules java.xml.bind"]),
    ],
)  # fmt: skip
def test_options(text: str, old: int, new: int, rejected: list[str]) -> None:
    assert java.rejected_options(text, old, new) == rejected


def test_versions_of_java() -> None:
    assert java.version(b'JAVA_VERSION="1.8.0_392"\n') == 8
    assert java.version(b'IMPLEMENTOR="x"\nJAVA_VERSION="17.0.9"\n') == 17
    assert java.version(b"") == 0


def test_spellings_of_a_locale() -> None:
    assert locales.spellings("de_DE.UTF-8") == [b"de_DE.UTF-8", b"de_DE.utf8"]
    assert locales.spellings("de_DE@euro") == [b"de_DE@euro"]
    assert locales.named({"LANG": "C.UTF-8", "LC_TIME": "POSIX", "LC_ALL": "de_DE", "X": "de_DE"}) == {
        "LC_ALL": "de_DE"
    }
