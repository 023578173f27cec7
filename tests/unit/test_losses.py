"""What an application names, imports or may access, and a new base lacks: made-up layers over two trees of a base."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baseimg_core.disk.impact.judge import Judge
from tests.support.judging import base_change, write_tree

TRUE = Path("/bin/true").read_bytes()
PACKAGES = "usr/lib/python3/dist-packages"
OLD = {
    "bin/sh": b"sh",
    "usr/bin/python3": b"\x7f",
    "usr/bin/perl": b"\x7f",
    "usr/bin/tool-1": b"tool",
    "usr/lib/libx.so.1": TRUE,
    "opt/jdk-1/bin/java": b"java",
    f"{PACKAGES}/corp/__init__.py": b"",
    f"{PACKAGES}/corp/old.py": b"",
    f"{PACKAGES}/_corp.py": b"",
    "usr/share/perl5/Corp/Old.pm": b"",
    "usr/share/zoneinfo/US/Pacific": b"",
    "usr/share/corp/data": b"data",
    "usr/share/man/corp.1": b"",
    "usr/lib/python3.11/collections/abc.py": b"",
    "usr/lib/python3.11/_json.py": b"",
    "run/utmp": b"",
}
KEPT = ("bin/sh", "usr/bin/python3", "usr/bin/perl", f"{PACKAGES}/corp/__init__.py")
NEW = {name: OLD[name] for name in KEPT}
SCRIPT = b"#!/bin/sh\n"


@dataclass(frozen=True)
class Case:
    """The own files and the configuration of an application, and its reasons as ``verdict code``."""

    name: str
    own: Mapping[str, bytes]
    command: Sequence[str]
    reasons: Sequence[str]
    config: Mapping[str, object] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)


def python(source: bytes) -> dict[str, bytes]:
    return {"app/main.py": source}


CASES = [
    Case("relative", {"app/run.sh": b"tool-1\n"}, ("sh", "run.sh"), ["breaks missing-program"], {"WorkingDir": "/app"}),
    Case(
        "relative-program",
        {"app/bin/run": SCRIPT + b"tool-1\n"},
        ("bin/run",),
        ["breaks missing-program"],
        {"WorkingDir": "/app"},
    ),
    Case(
        "relative-health",
        {"app/bin/check": SCRIPT + b"tool-1\n"},
        ("sh",),
        ["breaks missing-program"],
        {"WorkingDir": "/app", "Healthcheck": {"Test": ["CMD-SHELL", "./bin/check"]}},
    ),
    Case("option", {}, ("sh", "--file=/usr/share/corp/data"), ["breaks missing-path"]),
    Case("text", {}, ("sh", "-c", "read x </usr/share/corp/data"), ["breaks missing-path"]),
    Case(
        "without-line", python(b"open('/usr/share/corp/data')\n"), ("python3", "/app/main.py"), ["breaks missing-path"]
    ),
    Case("executable-helper", {"app/bin/x": SCRIPT + b"/opt/jdk-1/bin/java\n"}, ("sh",), ["impaired missing-path"]),
    Case("helper-program", {"app/bin/x": SCRIPT + b"tool-1 -v\n"}, ("sh",), ["impaired missing-program"]),
    Case("quoted", python(b"call(['tool-1', '-v'])\n"), ("python3", "/app/main.py"), ["impaired missing-program"]),
    Case(
        "quoted-command", python(b'os.system("tool-1 -v")\n'), ("python3", "/app/main.py"), ["impaired missing-program"]
    ),
    Case(
        "sourced",
        {"app/bin/x": SCRIPT + b". /app/env\n", "app/env": b"tool-1\n"},
        ("/app/bin/x",),
        ["breaks missing-program"],
    ),
    Case("quoted-word", python(b"x['tool-1'] = get('tool-1')\n"), ("python3", "/app/main.py"), []),
    Case("library", python(b"CDLL('libx.so.1')\n"), ("python3", "/app/main.py"), ["impaired missing-library"]),
    Case("compiled", {"app/bin/x": TRUE + b"\0libx.so.1\0"}, ("/app/bin/x",), ["impaired missing-library"]),
    Case("compiled-path", {"app/bin/x": TRUE + b"\0/usr/share/corp/data"}, ("/app/bin/x",), ["impaired missing-path"]),
    Case("import", python(b"import corp.old\n"), ("python3", "/app/main.py"), ["breaks missing-module"]),
    Case("from", python(b"from corp import new, old\n"), ("python3", "/app/main.py"), ["breaks missing-module"]),
    Case("import-beside", {"app/lib.py": b"import corp.old\n"}, ("sh",), ["impaired missing-module"]),
    Case(
        "import-in-function",
        python(b"def x():\n  import corp.old\n"),
        ("python3", "/app/main.py"),
        ["impaired missing-module"],
    ),
    Case(
        "import-tried", python(b"try:\n  import corp.old\nexcept ImportError: pass\n"), ("python3", "/app/main.py"), []
    ),
    Case("built-in", python(b"import collections.abc\nimport _json\n"), ("python3", "/app/main.py"), []),
    Case("private", python(b"import _corp\n"), ("python3", "/app/main.py"), ["breaks missing-module"]),
    Case("own-module", {**python(b"import corp.old\n"), "app/lib/corp/old.py": b""}, ("python3", "/app/main.py"), []),
    Case("perl", {"app/bin/x": b"#!/usr/bin/perl\nuse Corp::Old;\n"}, ("/app/bin/x",), ["breaks missing-module"]),
    Case("time-zone", {}, ("sh",), ["impaired environment"], {"Env": ["TZ=US/Pacific"]}),
    Case("preload", {}, ("sh",), ["impaired environment"], {"Env": ["LD_PRELOAD=libx.so.1"]}),
    Case("options", {}, ("sh",), ["breaks environment"], {"Env": ["OPTS=-Da=1 -Db=/opt/jdk-1/bin/java"]}),
    Case("crontab", {"etc/cron.d/x": b"*/5 * * * * root /opt/jdk-1/bin/java\n"}, ("sh",), ["impaired missing-path"]),
    Case("dispensable", {"app/bin/x": SCRIPT + b"cat /usr/share/man/corp.1 /run/utmp\n"}, ("/app/bin/x",), []),
    Case("package-database", {"lib/apk/db/installed": b"P:x\nD:so:libx.so.1 /usr/bin/tool-1\n"}, ("sh",), []),
    Case("long-name", {"app/conf": b"/" + b"x" * 300 + b"/java\n"}, ("sh",), []),
    Case("url", {"app/conf": b"data=file:///usr/share/corp/data\n"}, ("sh",), ["impaired missing-path"]),
    Case(
        "env-line",
        {"app/bin/x": b"#!/usr/bin/env java\n"},
        ("/app/bin/x",),
        ["breaks missing-interpreter", "impaired environment"],
        {"Env": ["PATH=/opt/jdk-1/bin:/usr/bin:/bin"]},
    ),
    Case("mount", {}, ("/data/run",), ["not-checked unreadable"], mounts={"/data": "/srv/data"}),
    Case("mounted-script", {}, ("sh", "/data/run.sh"), ["not-checked unreadable"], mounts={"/data": "/srv/data"}),
    Case("mount-elsewhere", {}, ("sh",), [], mounts={"/data": "/srv/data"}),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("bases")
    old = dict(OLD)
    old["usr/bin/env"] = new_env = b"\x7f"
    return write_tree(work / "old", old), write_tree(work / "new", {**NEW, "usr/bin/env": new_env})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_an_application_loses(tmp_path: Path, bases: tuple[Path, Path], case: Case) -> None:
    own = write_tree(tmp_path, case.own or {"app/x": b""})
    config = {"Cmd": list(case.command), "Env": ["PATH=/usr/bin:/bin"], **case.config}
    change = base_change([bases[0]], [bases[1]])
    reasons = Judge(change, {}).reasons([str(own)], config, volumes=case.mounts)
    assert [f"{reason.verdict.value} {reason.code}" for reason in reasons] == case.reasons, reasons
    assert all(reason.remedy for reason in reasons)


def compile_library(work: Path, name: str, source: str, *arguments: str) -> bytes:
    work.mkdir(exist_ok=True)
    (work / "source.c").write_text(source)
    subprocess.run(["gcc", "-o", name, "source.c", *arguments], cwd=work, check=True)
    return (work / name).read_bytes()


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Compile two contents of a library without versions, two with versions, and programs that use them."""
    work = tmp_path_factory.mktemp("code")
    shared = ("-shared", "-fPIC", "-Wl,-soname,libx.so.1")
    (work / "old.map").write_text("X_1 { global: kept; };\n")
    (work / "new.map").write_text("X_1 { global: kept; };\nX_2 { global: fresh; } X_1;\n")
    both, kept = "int kept(void){return 0;}int gone(void){return 0;}", "int kept(void){return 0;}"
    fresh = f"{kept}int fresh(void){{return 0;}}"
    files = {
        "old": compile_library(work, "libx.so.1", both, *shared),
        "uses-gone": compile_library(work, "gone", "int gone(void);int main(){return gone();}", "./libx.so.1"),
        "uses-kept": compile_library(work, "kept", "int kept(void);int main(){return kept();}", "./libx.so.1"),
        "new": compile_library(work, "libx.so.1", kept, *shared),
        "X_1": compile_library(work, "libx.so.1", kept, *shared, "-Wl,--version-script,old.map"),
        "X_2": compile_library(work, "libx.so.1", fresh, *shared, "-Wl,--version-script,new.map"),
    }
    files["uses-X_2"] = compile_library(work, "tool", "int fresh(void);int main(){return fresh();}", "./libx.so.1")
    return files


LIBRARY, LOADER = "usr/lib/x86_64-linux-gnu/libx.so.1", "lib64/ld-linux-x86-64.so.2"
COMMON = {"bin/sh": b"sh", LOADER: Path("/", LOADER).read_bytes()}


@pytest.mark.parametrize(
    ("program", "command", "expected"),
    [
        ("uses-gone", "/app/bin/run", ["breaks missing-symbol"]),
        ("uses-gone", "sh", ["impaired missing-symbol"]),
        ("uses-kept", "/app/bin/run", []),
    ],
)
def test_a_symbol_without_a_version(
    tmp_path: Path, code: dict[str, bytes], program: str, command: str, expected: list[str]
) -> None:
    old = write_tree(tmp_path / "old", {LIBRARY: code["old"], **COMMON})
    new = write_tree(tmp_path / "new", {LIBRARY: code["new"], **COMMON})
    own = write_tree(tmp_path / "own", {"app/bin/run": code[program]})
    reasons = Judge(base_change([old], [new]), {}).reasons([str(own)], {"Cmd": [command]})
    assert [f"{reason.verdict.value} {reason.code}" for reason in reasons] == expected


def test_an_own_library_that_the_new_base_needs_in_a_newer_version(tmp_path: Path, code: dict[str, bytes]) -> None:
    old = write_tree(tmp_path / "old", {LIBRARY: code["X_1"], "usr/bin/tool": code["uses-kept"], **COMMON})
    new = write_tree(tmp_path / "new", {LIBRARY: code["X_2"], "usr/bin/tool": code["uses-X_2"], **COMMON})
    own = write_tree(tmp_path / "own", {LIBRARY: code["X_1"]})
    (reason,) = Judge(base_change([old], [new]), {}).reasons([str(own)], {"Cmd": ["sh"]})
    assert (reason.verdict.value, reason.code, reason.subject) == ("impaired", "missing-version", "usr/bin/tool")


@pytest.mark.parametrize(
    ("change", "command", "user", "expected"),
    [
        (("opt/x/bin/run", 0o755, 0o700), ["/opt/x/bin/run"], "web", ["breaks permission"]),
        (("opt/x", 0o755, 0o700), ["/opt/x/bin/run"], "web", ["breaks permission"]),
        (("opt/x/bin/run", 0o755, 0o644), ["/opt/x/bin/run"], "", ["breaks permission"]),
        (("opt/x/bin/run", 0o4755, 0o755), ["/opt/x/bin/run"], "web", ["impaired permission"]),
        (("opt/x/bin/run", 0o4755, 0o755), ["/opt/x/bin/run"], "", []),
        (("etc/key", 0o644, 0o600), ["cat", "/etc/key"], "web", ["breaks permission"]),
        (("etc/key", 0o644, 0o600), ["cat", "/etc/key"], "", []),
        (("etc/key", 0o640, 0o600), ["cat", "/etc/key"], "web:key", ["breaks permission"]),
        (("etc/key", 0o640, 0o600), ["cat", "/etc/key"], "web:web", []),
    ],
)
def test_permissions(
    tmp_path: Path, change: tuple[str, int, int], command: list[str], user: str, expected: list[str]
) -> None:
    files = {
        "etc/passwd": b"root:x:0:0::/:/bin/sh\nweb:x:500:500::/:/bin/sh\n",
        "etc/group": b"root:x:0:\nkey:x:7:\nweb:x:500:\n",
        "etc/key": b"key",
        "opt/x/bin/run": b"run",
        "usr/bin/cat": b"cat",
    }
    path, before, after = change
    trees = [write_tree(tmp_path / name, files) for name in ("old", "new")]
    for root, mode in zip(trees, (before, after), strict=True):
        os.chown(root / "etc/key", 0, 7)
        (root / path).chmod(mode)
    own = write_tree(tmp_path / "own", {"app/x": b""})
    reasons = Judge(base_change(trees[:1], trees[1:]), {}).reasons([str(own)], {"Cmd": command, "User": user})
    assert [f"{reason.verdict.value} {reason.code}" for reason in reasons] == expected


@pytest.mark.parametrize(
    ("own", "user", "volumes", "expected"),
    [
        ({"app/x": b""}, "svc", {}, []),
        ({"app/x": b""}, "svc", {"/data": "data"}, ["impaired"]),
        ({"etc/passwd": b"svc:x:999:999::/:/bin/sh\nmine:x:5:5::/:/bin/sh\n"}, "svc", {}, ["breaks"]),
        ({"etc/passwd": b"svc:x:999:999::/:/bin/sh\nmine:x:5:5::/:/bin/sh\n"}, "mine", {}, ["impaired"]),
    ],
)
def test_renumbered_accounts(
    tmp_path: Path, own: dict[str, bytes], user: str, volumes: dict[str, str], expected: list[str]
) -> None:
    trees = []
    for number in (999, 998):
        root = write_tree(
            tmp_path / str(number), {"etc/passwd": b"svc:x:%d:999::/:/bin/sh\n" % number, "srv/state": b""}
        )
        os.chown(root / "srv/state", number, 999)
        trees.append(root)
    change = base_change(trees[:1], trees[1:])
    layer = str(write_tree(tmp_path / "own", own))
    reasons = Judge(change, {}).reasons([layer], {"User": user}, volumes=volumes)
    assert [reason.verdict.value for reason in reasons if reason.code == "account"] == expected


def test_the_default_version_of_a_language_changes(tmp_path: Path) -> None:
    """Both versions stay, and the symlink names the other one."""
    programs = {"usr/bin/python3.9": b"\x7f", "usr/bin/python3.11": b"\x7f"}
    trees = [write_tree(tmp_path / name, programs) for name in ("old", "new")]
    for root, version in zip(trees, ("9", "11"), strict=True):
        (root / "usr/bin/python3").symlink_to(f"python3.{version}")
    own = write_tree(tmp_path / "own", {"usr/local/lib/python3.9/dist-packages/shop.py": b"", "app/main.py": b""})
    change = base_change(trees[:1], trees[1:])
    for command, expected in (("python3", ["breaks runtime"]), ("python3.9", [])):
        reasons = Judge(change, {}).reasons([str(own)], {"Cmd": [command, "/app/main.py"]})
        assert [f"{reason.verdict.value} {reason.code}" for reason in reasons] == expected
