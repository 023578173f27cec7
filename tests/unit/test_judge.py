"""Judge made-up layers over two trees of a base: language runtimes and package databases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.disk.impact.judge import Judge
from baseimg_core.model.impact.verdict import Reason
from baseimg_core.model.packages.dpkg import InstalledPackage
from tests.support.judging import base_change, write_tree
from tests.support.packages import rpm_database

NODE = {"usr/bin/node": b"\x7fELF?", "bin/sh": b"sh"}
ABI_108, ABI_115 = b"#define NODE_MODULE_VERSION 108\n", b"#define NODE_MODULE_VERSION 115\n"
HEADER = "usr/local/include/node/node_version.h"
DEBIAN_NODE = "usr/lib/x86_64-linux-gnu/libnode.so"


def judge(
    work: Path, old: Mapping[str, bytes], new: Mapping[str, bytes], own: Mapping[str, bytes], *command: str
) -> list[Reason]:
    """Judge an application of one layer; the command defaults to a shell."""
    change = base_change([write_tree(work / "old", old)], [write_tree(work / "new", new)])
    config: dict[str, Any] = {"Cmd": list(command or ("sh",)), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
    return Judge(change, {}).reasons([str(write_tree(work / "own", own))], config)


@pytest.mark.parametrize(
    ("old", "new", "module", "program"),
    [
        ("usr/lib/ruby/3.1.0/x.rb", "usr/lib/ruby/3.3.0/x.rb", "var/lib/gems/3.1.0/gems/a.rb", "ruby"),
        ("usr/lib/ruby/3.1.0/x.rb", "usr/lib/ruby/3.3.0/x.rb", "app/vendor/bundle/ruby/3.1.0/a.rb", "ruby"),
        (
            "usr/local/lib/ruby/3.1.0/x.rb",
            "usr/local/lib/ruby/3.3.0/x.rb",
            "usr/local/bundle/extensions/x86_64-linux/3.1.0/a/a.so",
            "ruby",
        ),
        ("usr/lib/php/20220829/a.so", "usr/lib/php/20240924/a.so", "usr/lib/php/20220829/own.so", "php"),
        (
            "usr/local/lib/php/extensions/no-debug-non-zts-20220829/a.so",
            "usr/local/lib/php/extensions/no-debug-non-zts-20240924/a.so",
            "usr/local/lib/php/extensions/no-debug-non-zts-20220829/own.so",
            "php",
        ),
        (f"{DEBIAN_NODE}.108", f"{DEBIAN_NODE}.115", "app/node_modules/a/build/Release/a.node", "node"),
        (f"{DEBIAN_NODE}.108", f"{DEBIAN_NODE}.115", "app/prebuilds/linux-x64/node.abi108.node", "node"),
        (f"{DEBIAN_NODE}.108", f"{DEBIAN_NODE}.115", "app/lib/binding/node-v108-linux-x64/a.node", "node"),
    ],
)
@pytest.mark.parametrize("is_started", [True, False])
def test_modules_of_a_lost_runtime(
    tmp_path: Path, old: str, new: str, module: str, program: str, is_started: bool
) -> None:
    base = {f"usr/bin/{program}": b"\x7f", "bin/sh": b"sh"}
    command = (program, "-e", "1") if is_started else ()
    reasons = judge(tmp_path, {old: b"", **base}, {new: b"", **base}, {module: b"\x7f"}, *command)
    verdicts = {(reason.code, reason.verdict.value) for reason in reasons}
    assert verdicts == {("runtime", "breaks" if is_started else "impaired")}
    assert all(f"{module}/".startswith(reason.subject) for reason in reasons)


@pytest.mark.parametrize(
    ("module", "content", "is_lost"),
    [
        ("app/build/Release/a.node", b"..node_register_module_v108..", True),
        ("app/build/Release/a.node", b"..node_register_module_v115..", False),
        ("app/build/Release/a.node", b"..napi_register_module_v1..", False),
        ("app/build/Release/a.node", b"..napi_module_register..", False),
        ("app/build/Release/a.node", b"..node_module_register..", True),
        ("app/prebuilds/linux-x64/node.abi115.node", b"", False),
        ("app/index.js", b"", False),
    ],
)
def test_compiled_modules_of_node(tmp_path: Path, module: str, content: bytes, is_lost: bool) -> None:
    """Official images have the same paths for every version: the header tells the ABI."""
    old, new = {HEADER: ABI_108, **NODE}, {HEADER: ABI_115, **NODE}
    reasons = judge(tmp_path, old, new, {module: content}, "node", "/app/index.js")
    assert [(reason.code, reason.verdict.value) for reason in reasons] == [("runtime", "breaks")] * is_lost


def test_a_directory_of_modules_without_files_is_no_reason(tmp_path: Path) -> None:
    """`python3 -m venv --without-pip` makes one, Debian's package of Ruby another one."""
    write_tree(tmp_path / "layer", {"app/x": b""})
    (tmp_path / "layer/opt/venv/lib/python3.11/site-packages/empty").mkdir(parents=True)
    change = base_change(
        [write_tree(tmp_path / "old", {"usr/bin/python3.11": b""})],
        [write_tree(tmp_path / "new", {"usr/bin/python3.13": b""})],
    )
    assert Judge(change, {}).reasons([str(tmp_path / "layer")], {"Cmd": ["/usr/bin/python3"]}) == []


def test_the_command_of_a_declared_trial_counts_as_started(tmp_path: Path) -> None:
    change = base_change(
        [write_tree(tmp_path / "old", {"bin/tool": b"", "bin/sh": b""})],
        [write_tree(tmp_path / "new", {"bin/sh": b""})],
    )
    own = [str(write_tree(tmp_path / "own", {"app/x": b""}))]
    assert Judge(change, {}).reasons(own, {"Cmd": ["sh"]}) == []
    (reason,) = Judge(change, {}).reasons(own, {"Cmd": ["sh"]}, trials=[("tool", "--check")])
    assert (reason.verdict.value, reason.code, reason.subject) == ("breaks", "missing-program", "tool")


def test_sources_that_the_new_base_only_touched_derive_nothing(tmp_path: Path) -> None:
    source, derived = "usr/share/ca-certificates/a.crt", "etc/ssl/certs/ca-certificates.crt"
    old, new = (write_tree(tmp_path / name, {source: b"same"}) for name in ("old", "new"))
    for directory in (new, *new.rglob("*")):
        os.utime(directory, (0, 0))
    change = base_change([old], [new])
    own = [str(write_tree(tmp_path / "own", {derived: b"own"}))]
    assert Judge(change, {}).reasons(own, {}, volumes={"/usr/share/ca-certificates": "certificates"}) == []


def test_an_update_of_node_with_the_same_abi(tmp_path: Path) -> None:
    old, new = {HEADER: ABI_108, **NODE}, {HEADER: ABI_108 + b"// 18.20\n", **NODE}
    assert judge(tmp_path, old, new, {"app/a.node": b"node_register_module_v108"}, "node") == []


RPM = "usr/lib/sysimage/rpm/rpmdb.sqlite"


@pytest.mark.parametrize(
    ("needs", "verdict"),
    [
        ("libx.so.1", "impaired"),
        ("libx = 1-1", "impaired"),
        ("liby = 1-1", "partly"),  # another release, as in updates
        ("liby", ""),
    ],
)
def test_relations_of_rpm_packages(tmp_path: Path, needs: str, verdict: str) -> None:
    old = [InstalledPackage("libx", "1-1", {"Provides": "libx.so.1"}), InstalledPackage("liby", "1-1")]
    new = [InstalledPackage("libx", "2-1", {"Provides": "libx.so.2"}), InstalledPackage("liby", "1-2")]
    own = {RPM: rpm_database([*old, InstalledPackage("app", "1-1", {"Requires": needs})])}
    reasons = judge(tmp_path, {RPM: rpm_database(old)}, {RPM: rpm_database(new)}, own)
    relations = [(reason.code, reason.subject, reason.verdict.value) for reason in reasons]
    assert relations == [("relation", "app", verdict)] * bool(verdict)


@pytest.mark.parametrize("path", ["var/lib/rpm/Packages", "usr/lib/sysimage/rpm/Packages.db", RPM])
def test_a_database_that_cannot_be_read_is_not_checked(tmp_path: Path, path: str) -> None:
    """Berkeley DB, ndb, and a damaged SQLite database."""
    reasons = judge(tmp_path, {path: b"old"}, {path: b"new"}, {path: b"own"})
    assert [(reason.code, reason.subject, reason.verdict.value) for reason in reasons] == [
        ("unreadable", path, "not-checked")
    ]
    shutil.rmtree(tmp_path / "own")
    for name in ("old", "new"):
        shutil.rmtree(tmp_path / name)
    assert judge(tmp_path, {path: b"old"}, {path: b"new"}, {"app/x": b""}) == []
