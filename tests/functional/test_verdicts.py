"""Verdicts on a real engine: judge each image, change the base, then run the image."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError

from baseimg_core.model.packages.dpkg import InstalledPackage
from tests.functional.lab import BUSYBOX, Lab, digest, layer
from tests.support.deadlines import wait_until
from tests.support.engine import Engine, EngineError
from tests.support.images import Member, directory, file, symlink, whiteout
from tests.support.minion import Minion
from tests.support.packages import rpm_database

pytestmark = pytest.mark.functional

BASE, NEW = "corp/base:12.0", "corp/base:12.1"
LIB = "usr/lib/x86_64-linux-gnu"
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
SHELL = "/bin/sh"
RPM = "usr/lib/sysimage/rpm/rpmdb.sqlite"


@dataclass(frozen=True)
class Case:
    """An application, its expected verdict, and whether its command works on the new base."""

    verdict: str
    #: Code and subject of the first reason; empty for none.
    reason: tuple[str, str]
    members: tuple[Member, ...]
    command: tuple[str, ...]
    works: bool
    config: Mapping[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Build two versions of a library, and programs that need them."""
    work = tmp_path_factory.mktemp("elf")
    (work / "corp.c").write_text("int corp(void) { return 0; }\nint more(void) { return 0; }\n")
    (work / "main.c").write_text("int corp(void);\nint main(void) { return corp(); }\n")
    (work / "plain.c").write_text("int main(void) { return 0; }\n")
    (work / "host.c").write_text(
        "#include <dlfcn.h>\n#include <unistd.h>\n"
        'int main(void) { if (!dlopen("/app/plugin.so", RTLD_NOW)) return 1; for (;;) pause(); }\n'
    )
    (work / "plugin.c").write_text("int corp(void);\nint plugin(void) { return corp(); }\n")
    (work / "old.map").write_text("CORP_1.0 { global: corp; local: *; };\n")
    (work / "new.map").write_text("CORP_2.0 { global: corp; more; local: *; };\n")

    def compile(name: str, *arguments: str) -> bytes:
        subprocess.run(["gcc", "-o", name, *arguments], cwd=work, check=True)
        return (work / name).read_bytes()

    shared = ("-shared", "-fPIC", "corp.c")
    files = {
        "libcorp.so.1": compile("libcorp.so.1", *shared, "-Wl,-soname,libcorp.so.1"),
        "libkept.so.1": compile("libkept.so.1", *shared, "-Wl,-soname,libkept.so.1", "-Wl,--version-script,old.map"),
        "needs": compile("needs", "main.c", "./libcorp.so.1"),
        "versioned": compile("versioned", "main.c", "./libkept.so.1"),
        "plain": compile("plain", "plain.c"),
    }
    files["host"] = compile("host", "host.c", "-ldl")
    files["plugin.so"] = compile("plugin.so", "-shared", "-fPIC", "plugin.c", "./libcorp.so.1")
    files["libmoved.so.1"] = compile("libmoved.so.1", *shared, "-Wl,-soname,libmoved.so.1")
    files["moved"] = compile("moved", "main.c", "./libmoved.so.1")
    files["libfound.so.1"] = compile("libfound.so.1", *shared, "-Wl,-soname,libfound.so.1")
    files["found"] = compile("found", "main.c", "./libfound.so.1")
    for number in ("1", "2"):
        root = work / f"root-{number}"
        (root / f"opt/libs-{number}").mkdir(parents=True)
        (root / "etc").mkdir()
        (root / f"opt/libs-{number}/libfound.so.1").write_bytes(files["libfound.so.1"])
        (root / "etc/ld.so.conf").write_text(f"/opt/libs-{number}\n")
        subprocess.run(["ldconfig", "-r", root], check=True, env={"PATH": "/usr/sbin:/sbin"})
        files[f"cache {number}"] = (root / "etc/ld.so.cache").read_bytes()
    files["new libkept.so.1"] = compile("new.so", *shared, "-Wl,-soname,libkept.so.1", "-Wl,--version-script,new.map")
    files["libcorp.so.3"] = compile("libcorp.so.3", *shared, "-Wl,-soname,libcorp.so.3")
    return files


def program(path: str, text: str) -> Member:
    return file(path, text.encode(), 0o755)


def python(path: str, text: bytes) -> Member:
    return file(path, text)


PASSWD = b"root:x:0:0::/root:/bin/sh\nsvc:x:999:999::/:/bin/sh\n"


def old_base(elf: Mapping[str, bytes]) -> bytes:
    return layer(
        file("lib64/ld-linux-x86-64.so.2", LOADER.read_bytes(), 0o755),
        file(f"{LIB}/libc.so.6", Path("/lib/x86_64-linux-gnu/libc.so.6").read_bytes(), 0o755),
        file(f"{LIB}/libcorp.so.1", elf["libcorp.so.1"]),
        file(f"{LIB}/libkept.so.1", elf["libkept.so.1"]),
        file("moved/tool", b"tool"),
        program("usr/bin/tool-1", "#!/bin/sh\nexit 0\n"),
        program("opt/jdk-1/bin/java", "#!/bin/sh\nexit 0\n"),
        file("etc/passwd", PASSWD),
        file("etc/conf.d/x", b"x"),
        file("etc/conf.d/y", b"y"),
        file("usr/lib/python3/module.py", b"value = 1\n"),
        file("usr/bin/python3.9", elf["plain"], 0o755),
        symlink("usr/bin/python3", "python3.9"),
        file("usr/share/ca-certificates/old.crt", b"old"),
        file("etc/ssl/certs/ca-certificates.crt", b"old"),
        file("var/lib/dpkg/status", status(("libcorp1", "1.0", ""), ("libkept1", "1.0", ""))),
        file("lib/apk/db/installed", apk(("libcorp1", "1.0-r0", "", "so:libcorp.so.1=1"))),
        file(RPM, rpm(("libcorp", "1.0-1", {}))),
        file("usr/share/dotnet/shared/Microsoft.NETCore.App/6.0.25/x.dll", b"6"),
        program("usr/bin/dotnet", "#!/bin/sh\nls /usr/share/dotnet/shared/Microsoft.NETCore.App/6.*\n"),
        program("usr/lib/jvm/11/bin/java", "#!/bin/sh\nexit 0\n"),
        file("usr/lib/jvm/11/release", b'JAVA_VERSION="11.0.21"\n'),
        symlink("usr/bin/java", "../lib/jvm/11/bin/java"),
        file("usr/lib/locale/locale-archive", b"\x09\x01\x02\xdede_DE.utf8\0fr_FR.utf8\0"),
        file("data/file", b"old"),
        file("libs/libmoved.so.1", elf["libmoved.so.1"]),
        file("opt/libs-1/libfound.so.1", elf["libfound.so.1"]),
        file("etc/ld.so.cache", elf["cache 1"]),
    )


def new_base(elf: Mapping[str, bytes]) -> bytes:
    return layer(
        whiteout(f"{LIB}/libcorp.so.1"),
        file(f"{LIB}/libcorp.so.3", elf["libcorp.so.3"]),
        file(f"{LIB}/libkept.so.1", elf["new libkept.so.1"]),
        whiteout("moved"),
        symlink("moved", "data"),
        whiteout("usr/bin/tool-1"),
        whiteout("opt/jdk-1"),
        program("opt/jdk-2/bin/java", "#!/bin/sh\nexit 0\n"),
        file("etc/passwd", PASSWD.replace(b"999:999", b"998:998")),
        whiteout("etc/conf.d"),
        file("usr/lib/python3/module.py", b"value = 2\n"),
        whiteout("usr/bin/python3.9"),
        file("usr/bin/python3.11", elf["plain"], 0o755),
        symlink("usr/bin/python3", "python3.11"),
        file("usr/share/ca-certificates/new.crt", b"new"),
        file("etc/ssl/certs/ca-certificates.crt", b"new"),
        file("var/lib/dpkg/status", status(("libcorp3", "3.0", ""), ("libkept1", "2.0", "Breaks: own-broken (<< 2)"))),
        file("lib/apk/db/installed", apk(("libcorp3", "3.0-r0", "", "so:libcorp.so.3=3"))),
        file(RPM, rpm(("libcorp", "3.0-1", {}))),
        whiteout("usr/share/dotnet/shared/Microsoft.NETCore.App/6.0.25"),
        file("usr/share/dotnet/shared/Microsoft.NETCore.App/8.0.1/x.dll", b"8"),
        whiteout("usr/lib/jvm/11"),
        program("usr/lib/jvm/17/bin/java", '#!/bin/sh\ncase "$*" in *UseConcMarkSweepGC*) exit 1;; esac\n'),
        file("usr/lib/jvm/17/release", b'JAVA_VERSION="17.0.9"\n'),
        symlink("usr/bin/java", "../lib/jvm/17/bin/java"),
        file("usr/lib/locale/locale-archive", b"\x09\x01\x02\xdefr_FR.utf8\0"),
        file("data/file", b"new"),
        file("data/tool", b"tool"),
        whiteout("libs"),
        symlink("libs", "usr/libs"),
        file("usr/libs/libmoved.so.1", elf["libmoved.so.1"]),
        whiteout("opt/libs-1"),
        file("opt/libs-2/libfound.so.1", elf["libfound.so.1"]),
        file("etc/ld.so.cache", elf["cache 2"]),
    )


def status(*packages: tuple[str, str, str]) -> bytes:
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
        + (f"{more}\n" if more else "")
        for name, version, more in packages
    ).encode()


def apk(*packages: tuple[str, str, str, str]) -> bytes:
    stanzas = (f"P:{name}\nV:{version}\nD:{needs}\np:{offers}\n" for name, version, needs, offers in packages)
    return "\n".join(stanzas).encode()


FRAMEWORK = b'{"runtimeOptions": {"framework": {"name": "Microsoft.NETCore.App", "version": "6.0.0"}}}'


def rpm(*packages: tuple[str, str, Mapping[str, str]]) -> bytes:
    return rpm_database(InstalledPackage(name, version, relations) for name, version, relations in packages)


def cases(elf: Mapping[str, bytes]) -> dict[str, Case]:
    run, sleep = file("app/run", elf["needs"], 0o755), (SHELL, "-c", "cat /app/run > /dev/null")
    fine = file("app/run", elf["plain"], 0o755)
    own = (file("app/run", b"x"),)
    moved, moved_config = file("app/run", elf["moved"], 0o755), {"Env": ["LD_LIBRARY_PATH=/libs"]}
    script = file("app/run", elf["found"], 0o755)
    base = [("libcorp1", "1.0", ""), ("libkept1", "1.0", "")]
    return {
        "fine": Case("effective", ("", ""), (fine,), ("/app/run",), True),
        "library": Case("breaks", ("missing-library", "app/run"), (run,), ("/app/run",), False),
        "own-library": Case(
            "effective",
            ("", ""),
            (run, file("app/lib/libcorp.so.1", elf["libcorp.so.1"])),
            ("/app/run",),
            True,
            {"Env": ["LD_LIBRARY_PATH=/app/lib"]},
        ),
        "version": Case(
            "breaks", ("missing-version", "app/run"), (file("app/run", elf["versioned"], 0o755),), ("/app/run",), False
        ),
        "beside": Case(
            "impaired",
            ("missing-library", "app/other"),
            (fine, file("app/other", elf["needs"], 0o755)),
            ("/app/run",),
            True,
        ),
        "every": Case("breaks", ("missing-library", "app/run"), (run,), (), False),
        "program": Case("breaks", ("missing-program", "tool-1"), own, ("tool-1",), False),
        "shell": Case("breaks", ("missing-program", "tool-1"), own, (SHELL, "-c", "set -e; tool-1 --now"), False),
        "interpreter": Case(
            "breaks",
            ("missing-interpreter", "app/run"),
            (program("app/run", "#!/usr/bin/python3.9\n"),),
            ("/app/run",),
            False,
        ),
        "link": Case(
            "breaks",
            ("missing-program", "/app/java"),
            (symlink("app/java", "/opt/jdk-1/bin/java"),),
            ("/app/java",),
            False,
        ),
        "link-beside": Case(
            "impaired", ("missing-target", "app/java"), (*own, symlink("app/java", "/opt/jdk-1/bin/java")), sleep, True
        ),
        "script": Case(
            "breaks",
            ("missing-path", "app/run"),
            (program("app/run", "#!/bin/sh\nset -e\nexec /opt/jdk-1/bin/java\n"),),
            ("/app/run",),
            False,
        ),
        "text": Case(
            "impaired",
            ("missing-path", "app/conf"),
            (*own, file("app/conf", b"java=/opt/jdk-1/bin/java\n")),
            sleep,
            True,
        ),
        "comment": Case("effective", ("", ""), (*own, file("app/conf", b"# java=/opt/jdk-1/bin/java\n")), sleep, True),
        "environment": Case(
            "breaks",
            ("environment", "PATH"),
            own,
            ("java",),
            False,
            {"Env": ["PATH=/opt/jdk-1/bin:/bin", "JAVA_HOME=/opt/jdk-1"]},
        ),
        "home": Case(
            "breaks",
            ("environment", "JAVA_HOME"),
            own,
            (SHELL, "-c", '"$JAVA_HOME"/bin/java'),
            False,
            {"Env": ["JAVA_HOME=/opt/jdk-1"]},
        ),
        "account": Case(
            "breaks",
            ("account", "svc"),
            (file("app/secret", b"x", 0o400, 999, 999),),
            (SHELL, "-c", "cat /app/secret"),
            False,
            {"User": "svc"},
        ),
        "account-beside": Case(
            "impaired", ("account", "svc"), (file("app/secret", b"x", 0o400, 999, 999), *own), sleep, True
        ),
        "runtime": Case(
            "breaks",
            ("runtime", "usr/local/lib/python3.9/dist-packages"),
            (file("usr/local/lib/python3.9/dist-packages/shop.py", b""), program("app/run", "#!/usr/bin/python3\n")),
            ("/app/run",),
            True,  # the interpreter is a stub that imports nothing
        ),
        "compiled": Case(
            "partly",
            ("derived", "usr/lib/python3/__pycache__/module.cpython-39.pyc"),
            (*own, file("usr/lib/python3/__pycache__/module.cpython-39.pyc", b"value = 1")),
            sleep,
            True,
        ),
        "certificates": Case(
            "partly",
            ("derived", "etc/ssl/certs/ca-certificates.crt"),
            (*own, file("etc/ssl/certs/ca-certificates.crt", b"old and own")),
            sleep,
            True,
        ),
        "ghost": Case(
            "partly",
            ("ghost", "etc/conf.d/x"),
            (*own, whiteout("etc/conf.d/x")),
            (SHELL, "-c", "ls -l /etc/conf.d"),
            False,
        ),
        "tree": Case("partly", ("", ""), (*own, directory("moved"), file("moved/mine", b"x")), sleep, True),
        "moved": Case("effective", ("", ""), (moved,), ("/app/run",), True, moved_config),
        "hidden": Case(
            "breaks",
            ("missing-library", "app/run"),
            (moved, directory("libs"), file("libs/mine", b"x")),
            ("/app/run",),
            False,
            moved_config,
        ),
        "cached": Case("effective", ("", ""), (script,), ("/app/run",), True),
        "stale": Case(
            "breaks",
            ("stale-cache", "app/run"),
            (script, file("etc/ld.so.cache", elf["cache 1"])),
            ("/app/run",),
            False,
        ),
        "relation": Case(
            "impaired",
            ("relation", "own-broken"),
            (*own, file("var/lib/dpkg/status", status(*base, ("own-broken", "1.0", "Depends: libkept1 (>= 1)")))),
            sleep,
            True,
        ),
        "satisfied": Case(
            "effective",
            ("", ""),
            (*own, file("var/lib/dpkg/status", status(*base, ("own-good", "1.0", "Depends: libkept1 (>= 1) | none")))),
            sleep,
            True,
        ),
        "apk-relation": Case(
            "impaired",
            ("relation", "own-apk"),
            (
                *own,
                file(
                    "lib/apk/db/installed",
                    apk(("libcorp1", "1.0-r0", "", "so:libcorp.so.1=1"), ("own-apk", "1-r0", "so:libcorp.so.1", "")),
                ),
            ),
            sleep,
            True,
        ),
        "rpm-relation": Case(
            "impaired",
            ("relation", "own-rpm"),
            (
                *own,
                file(RPM, rpm(("libcorp", "1.0-1", {}), ("own-rpm", "1-1", {"Requires": "(libcorp < 2 or libnone)"}))),
            ),
            sleep,
            True,
        ),
        "framework": Case(
            "breaks",
            ("runtime", "app/shop.runtimeconfig.json"),
            (file("app/shop.dll", b"MZ\0"), file("app/shop.runtimeconfig.json", FRAMEWORK)),
            ("/usr/bin/dotnet", "/app/shop.dll"),
            False,
        ),
        "java-option": Case(
            "breaks",
            ("runtime", "java"),
            own,
            ("java", "-XX:+UseConcMarkSweepGC"),
            False,
            {"Env": ["PATH=/usr/bin:/bin"]},
        ),
        "java": Case("effective", ("", ""), own, ("java",), True, {"Env": ["PATH=/usr/bin:/bin"]}),
        "locale": Case("impaired", ("environment", "LANG"), own, sleep, True, {"Env": ["LANG=de_DE.UTF-8"]}),
        "locale-kept": Case("effective", ("", ""), own, sleep, True, {"Env": ["LANG=fr_FR.UTF-8"]}),
        "volume": Case("partly", ("volume", "/data"), own, sleep, True, {"Volumes": {"/data": {}}}),
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, elf: dict[str, bytes]) -> Iterator[Lab]:
    """Load the base, its new version and every application on one node."""
    work = tmp_path_factory.mktemp("verdicts")
    with Engine(work / "engine") as engine:
        lab = Lab(engine, Minion(work / "minion", engine.url), work)
        old = [BUSYBOX, old_base(elf)]
        lab.load({BASE: old, NEW: [*old, new_base(elf)]})
        for name, case in cases(elf).items():
            lab.load({f"corp/{name}:1": [*old, layer(*case.members)]}, {"Cmd": list(case.command), **case.config})
        lab.bundle(BASE, NEW)
        yield lab


@pytest.fixture(autouse=True)
def emptied() -> None:
    """Keep the images, unlike other tests: all tests here share the node."""


@pytest.fixture(scope="module")
def bundle(lab: Lab) -> str:
    return str(lab.work / "12.0_12.1.tar")


@pytest.fixture(scope="module")
def judged(lab: Lab, bundle: str) -> dict[str, dict[str, Any]]:
    return {image["image"]: image for image in lab.impact(BASE, bundle)["images"]}


NAMES = list(cases(defaultdict(bytes)))


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_and_its_first_reason(judged: dict[str, Any], elf: dict[str, bytes], name: str) -> None:
    case, image = cases(elf)[name], judged[f"corp/{name}:1"]
    reasons = [(reason["code"], reason["subject"]) for reason in image["reasons"]]
    assert image["verdict"] == case.verdict, image["reasons"]
    if case.reason[0]:
        assert case.reason in reasons
        assert all(reason["remedy"] and reason["text"] for reason in image["reasons"])


class TestPolicy:
    def test_nothing_changes_where_an_image_breaks(self, lab: Lab, bundle: str) -> None:
        declared = {"12.1": {"source": bundle, "hash": digest(bundle)}}
        for function, arguments in (
            ("apply", (bundle,)),
            ("converge", (BASE, "12.1", declared)),
            ("plan", (BASE, "12.1", declared)),
        ):
            error = lab.refused("image-breaks", function, *arguments)
            assert "corp/account:1 (svc the image runs as account svc: 999 -> 998" in error.info["message"]
        state = lab.minion.states["baseimg.converged"](name=BASE, version="12.1", bundles=declared)
        assert state["result"] is False
        assert state["comment"].startswith("[image-breaks]")

    def test_an_image_that_is_impaired_only_is_refused_apart(
        self, lab: Lab, bundle: str, elf: dict[str, bytes]
    ) -> None:
        breaking = [f"corp/{name}:*" for name, case in cases(elf).items() if case.verdict == "breaks"]
        error = lab.refused("image-impaired", "apply", bundle, accept=breaking)
        assert "corp/beside:1 (app/other needs libcorp.so.1, which is missing)" in error.info["message"]
        assert lab.plan(BASE, "12.1", {"12.1": {"source": bundle}}, accept=["corp/*"])["changed"]

    def test_pillar_accepts(self, lab: Lab, bundle: str) -> None:
        base = {"version": "12.1", "bundles": {"12.1": {"source": bundle}}, "impaired": "accept", "breaks": "unused"}
        ghosts = Minion(
            lab.work / "ghosts", lab.engine.url, pillar={"baseimg": {"bases": {BASE: {**base, "ghosts": "refuse"}}}}
        )
        error = Lab(lab.engine, ghosts, lab.work).refused("image-impaired", "plan", BASE, "12.1", base["bundles"])
        assert "corp/ghost:1 (etc/conf.d/x is a ghost name" in error.info["message"]
        minion = Minion(lab.work / "accepting", lab.engine.url, pillar={"baseimg": {"bases": {BASE: base}}})
        accepting = Lab(lab.engine, minion, lab.work)
        assert accepting.plan(BASE, "12.1", base["bundles"])["changed"]
        lab.engine.start_container("corp/home:1", "/bin/sleep", "1000", name="used")
        try:
            error = accepting.refused("image-breaks", "plan", BASE, "12.1", base["bundles"])
            assert "corp/home:1" in error.info["message"]
            assert "corp/library" not in error.info["message"]
            assert accepting.plan(BASE, "12.1", base["bundles"], accept=["corp/home"])["changed"]
        finally:
            lab.engine.remove_container("used")

    def test_a_required_fix_must_arrive(self, lab: Lab, bundle: str) -> None:
        required = ["/etc/ssl/certs", "libnone", "CVE-2024-0001"]
        base = {"version": "12.1", "bundles": {"12.1": {"source": bundle}}, "require": required}
        minion = Minion(lab.work / "requiring", lab.engine.url, pillar={"baseimg": {"bases": {BASE: base}}})
        error = Lab(lab.engine, minion, lab.work).refused("fix-missing", "apply", bundle, accept=["corp/*"])
        assert error.info["message"].partition(": ")[2].split("; ") == [
            "/etc/ssl/certs does not reach corp/certificates:1: etc/ssl/certs/ca-certificates.crt",
            "libnone is not changed by the bundle",
            "CVE-2024-0001 is not changed by the bundle",
        ]


class TestContainers:
    def test_a_container_of_its_own_files_and_mounts_is_judged_apart(self, lab: Lab, bundle: str) -> None:
        sleeping = ("/bin/sleep", "1000")
        lab.engine.start_container("corp/fine:1", *sleeping, name="same")
        lab.engine.start_container("corp/fine:1", "/bin/sh", "-c", "tool-1; exec sleep 1000", name="other-command")
        wrote = lab.engine.start_container("corp/fine:1", *sleeping, name="wrote")
        lab.engine.exec(wrote, "/bin/sh", "-c", "ln -s /opt/jdk-1/bin/java /app/java")
        hides = lab.engine.start_container("corp/moved:1", "/bin/sh", "-c", "/app/run && sleep 1000", name="hides")
        lab.engine.exec(hides, "/bin/sh", "-c", "echo > /libs/mine")
        lab.engine.start_container("corp/fine:1", *sleeping, name="mounts", binds=["filled:/data"])
        try:
            containers = {container["name"]: container for container in lab.impact(BASE, bundle)["containers"]}
            verdicts = {name: container["verdict"] for name, container in containers.items()}
            assert verdicts == {
                "same": "effective",
                "other-command": "breaks",
                "wrote": "impaired",
                "hides": "breaks",
                "mounts": "partly",
            }
            assert ("hidden-tree", "libs") in {
                (reason["code"], reason["subject"]) for reason in containers["hides"]["reasons"]
            }
            assert containers["mounts"]["reasons"][0]["text"].startswith("the volume filled is mounted over")
            error = lab.refused("image-breaks", "apply", bundle, accept=["corp/[!f]*", "hides"])
            assert "container other-command (tool-1 is started and is missing)" in error.info["message"]
        finally:
            for name in ("same", "other-command", "wrote", "hides", "mounts"):
                lab.engine.remove_container(name)


class TestRunning:
    """Verdicts on running containers, which include the files that their processes have mapped."""

    def test_a_loaded_plugin_that_loses_its_library_breaks_the_container(
        self, lab: Lab, bundle: str, elf: dict[str, bytes]
    ) -> None:
        members = (file("app/run", elf["host"], 0o755), file("app/plugin.so", elf["plugin.so"]))
        lab.load({"corp/plugin:1": [BUSYBOX, old_base(elf), layer(*members)]}, {"Cmd": ["/app/run"]})
        lab.engine.start_container("corp/plugin:1", "/app/run", name="loads")
        child = lab.engine.start_container("corp/plugin:1", "/bin/sh", "-c", "/app/run & wait", name="child-loads")
        lab.engine.start_container("corp/plugin:1", "/bin/sleep", "1000", name="sleeps")
        try:
            wait_until(lambda: b"plugin.so" in mapped(lab, "loads"), "the plugin is loaded")
            wait_until(lambda: "plugin.so" in lab.engine.exec(child, "/bin/sh", "-c", "cat /proc/*/maps"), "loaded")
            result = lab.impact(BASE, bundle)
            image = next(image for image in result["images"] if image["image"] == "corp/plugin:1")
            containers = {container["name"]: container for container in result["containers"]}
            verdicts = {name: containers[name]["verdict"] for name in ("loads", "child-loads", "sleeps")}
            assert image["verdict"] == "impaired"
            assert verdicts == {"loads": "breaks", "child-loads": "breaks", "sleeps": "impaired"}
            reason = containers["loads"]["reasons"][0]
            assert (reason["code"], reason["subject"]) == ("missing-library", "app/plugin.so")
            assert reason["text"] == "needs libcorp.so.1, which is missing; a running process has loaded it"
        finally:
            for name in ("loads", "child-loads", "sleeps"):
                lab.engine.remove_container(name)
            lab.untag("corp/plugin:1")


def mapped(lab: Lab, name: str) -> bytes:
    pid = lab.engine.client.inspect_container(name)["State"]["Pid"]
    return Path(f"/proc/{pid}/maps").read_bytes()


class TestConfiguration:
    @pytest.fixture(scope="class")
    def images(self, lab: Lab) -> Lab:
        """Load a base, a version that changes a variable, one that also changes a file, and an application."""
        old, other = [BUSYBOX, layer(file("etc/version", b"1"))], layer(file("etc/version", b"2"))
        lab.load({"corp/env:1.0": old}, {"Env": ["MODE=fast", "PATH=/bin"]})
        lab.load({"corp/env:1.1": old, "corp/env:1.2": [*old, other]}, {"Env": ["MODE=safe", "PATH=/bin"]})
        lab.load({"corp/on-env:1": [*old, layer(file("app/run", b"x"))]}, {"Env": ["MODE=fast", "PATH=/bin"]})
        return lab

    def test_a_change_of_configuration_alone_is_refused_with_the_reason(self, images: Lab) -> None:
        error = images.refused("images-equal", "build", "corp/env:1.0", "corp/env:1.1", str(images.work / "no.tar"))
        assert error.info["message"].endswith("their configuration differs: Env.MODE")
        assert "rebuild the applications" in error.info["hint"]

    def test_variables_beside_a_file_are_named_and_never_arrive(self, images: Lab) -> None:
        path, config = str(images.work / "env.tar"), {"Env.MODE": ["fast", "safe"]}
        assert images.build("corp/env:1.0", "corp/env:1.2", path)["config"] == config
        assert images.diff("corp/env:1.0", "corp/env:1.2")["config"] == config
        assert images.inspect(path)["config"] == config
        result = images.impact("corp/env:1.0", path)
        image = {image["image"]: image for image in result["images"]}["corp/on-env:1"]
        assert (result["config"], image["verdict"]) == (config, "partly")
        assert [(reason["code"], reason["subject"]) for reason in image["reasons"]] == [("configuration", "Env.MODE")]


def works(lab: Lab, name: str, case: Case) -> bool:
    try:
        lab.engine.run(f"corp/{name}:1", *(case.command or ("/app/run",)))
    except (EngineError, APIError):  # APIError: the program does not exist
        return False
    return True


class TestApplied:
    """Images after the apply, which behave as their verdicts say. Runs last: it changes the node."""

    @pytest.fixture(scope="class")
    def applied(self, lab: Lab, bundle: str, elf: dict[str, bytes]) -> Lab:
        before = {name: works(lab, name, case) for name, case in cases(elf).items()}
        assert [name for name, worked in before.items() if not worked] == []
        lab.apply(bundle, accept=["corp/*"])
        return lab

    @pytest.mark.parametrize("name", NAMES)
    def test_an_image_works_as_its_verdict_says(self, applied: Lab, elf: dict[str, bytes], name: str) -> None:
        case = cases(elf)[name]
        assert works(applied, name, case) == case.works
