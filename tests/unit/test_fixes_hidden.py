"""What hides a fix although the path of the fixed file shows the new content, and hand edits, on plain directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from baseimg_core.engine.base import Container
from baseimg_core.ops import bases
from baseimg_core.ops import fixes as ops_fixes
from baseimg_core.ops.containers import usage
from baseimg_core.ops.containers.usage import Usage, Use
from tests.support.nests import EPOCH, Fill, NestNode, files
from tests.unit.test_fixes import OS, answer, base, build, node, states  # noqa: F401

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
MODULE = "usr/lib/python3/req.py"
COMPILED = "usr/lib/python3/__pycache__/req.cpython-311.pyc"


def with_package(version: str, name: str, owned: str, **own: str) -> dict[str, str]:
    """Return the files of one version of the base, with one more package."""
    content = base(version, **own)
    content["var/lib/dpkg/status"] += f"\nPackage: {name}\nStatus: install ok installed\nVersion: {version}\n"
    return {**content, f"var/lib/dpkg/info/{name}.list": f"/.\n/{owned}\n"}


def pyc(flags: int, size: int, time: int = EPOCH) -> bytes:
    """Return a compiled module (PEP 552)."""
    return b"\xa7\r\r\n" + b"".join(number.to_bytes(4, "little") for number in (flags, time, size)) + b"code"


def test_an_edit_of_the_live_content_by_hand(node: NestNode) -> None:  # noqa: F811
    """The fix is gone at once, not after the next verify."""
    node.converge(OS, "2")
    live = Path(bases.locate(node.engine, OS).directory)
    (live / "usr/lib/libz.so").write_text("/usr/lib/libz.so 1")
    judged = states(answer(node))
    assert judged["corp/plain:1"] == {"zlib": "unknown"}
    assert judged["corp/own:1"] == {"openssl": "overridden", "zlib": "unknown"}
    (live / "usr/lib/libz.so").write_text("/usr/lib/libz.so 2")
    os.utime(live / "usr/lib/libz.so", (EPOCH, EPOCH))
    assert "corp/plain:1" not in states(answer(node))  # as before the edit, with another ctime
    (live / "usr/bin/openssl").unlink()
    assert states(answer(node))["corp/plain:1"] == {"openssl": "unknown"}


def test_a_removed_file_that_came_back_by_hand(node: NestNode) -> None:  # noqa: F811
    content = base("2")
    del content["usr/lib/libz.so"]
    node.version(OS, "3", [], files(content))
    node.converge(OS, "3")
    assert states(answer(node)).get("corp/plain:1") is None
    (Path(bases.locate(node.engine, OS).directory) / "usr/lib/libz.so").write_text("/usr/lib/libz.so 1")
    assert states(answer(node))["corp/plain:1"] == {"zlib": "unknown"}


def test_a_lost_index(node: NestNode) -> None:  # noqa: F811
    node.converge(OS, "2")
    store = bases.locate(node.engine, OS).store
    record = store.read()
    assert record
    os.unlink(store.layout.index(record.current))
    assert set(states(answer(node))["corp/plain:1"].values()) == {"unknown"}


def test_a_directory_in_place_of_the_symlink_of_a_merged_usr(node: NestNode) -> None:  # noqa: F811
    """dpkg names the library /lib/libssl.so.3, and an image shows its own file there."""
    for base_image in node.stacks[OS]:
        (base_image / "lib").symlink_to("usr/lib")
    node.image("corp/lib:1", OS, files({"lib/libssl.so.3": "/lib/libssl.so.3 1"}))
    node.image("corp/same:2", OS, files({"lib/libssl.so.3": "/lib/libssl.so.3 2"}))
    node.image("corp/modules:1", OS, files({"lib/modules/x": "x"}))
    node.version(OS, "2", [], files(base("2")), lambda root: (root.mkdir(), (root / "lib").symlink_to("usr/lib")))
    node.converge(OS, "2")
    judged = states(answer(node))
    assert judged["corp/lib:1"] == {"openssl": "split"}
    assert "corp/modules:1" not in judged
    assert "corp/same:2" not in judged


def test_certificates_that_are_generated_from_a_packages_files(node: NestNode) -> None:  # noqa: F811
    """No package owns the file with all certificates, and images with an authority of their own have a copy."""
    name, owned = "ca-certificates", "usr/share/ca-certificates/mozilla/Bad.crt"
    for stack in node.stacks[OS]:
        files(with_package("1", name, owned, **{BUNDLE: "bad", owned: "bad"}))(stack)
    node.image("corp/ca:1", OS, files({BUNDLE: "bad corp"}))
    content = with_package("2", name, owned, **{BUNDLE: "none", owned: "bad"})
    del content[owned]
    node.version(OS, "2", [], files(content))
    node.converge(OS, "2")
    assert states(answer(node))["corp/ca:1"] == {name: "split"}  # the removed file is gone
    assert name not in states(answer(node)).get("corp/plain:1", {})


@pytest.mark.parametrize(
    ("compiled", "hides"),
    [
        (pyc(0, 9), True),  # as of the old module, which has the same time and size
        (pyc(0, 8), False),
        (pyc(0, 9, EPOCH + 1), False),
        (pyc(1, 0), True),  # by hash, unchecked
        (pyc(3, 0), False),  # by hash, checked
        (b"short", False),
    ],
)
def test_modules_that_were_compiled_from_the_old_source(node: NestNode, compiled: bytes, hides: bool) -> None:  # noqa: F811
    for stack in node.stacks[OS]:
        files(with_package("1", "req", MODULE, **{MODULE: "VALUE = 1"}))(stack)
    node.image("corp/python:1", OS, lambda root: _write(root / COMPILED, compiled))
    node.version(OS, "2", [], files(with_package("2", "req", MODULE, **{MODULE: "VALUE = 2"})))
    node.converge(OS, "2")
    assert ("req" in states(answer(node)).get("corp/python:1", {})) is hides
    own = node.root / "own"
    _write(own / COMPILED, compiled)
    node.engine.running = [Container(id="1", name="c", image_id="corp/plain:1", pid=0, state="exited", upper=str(own))]
    assert ("req" in states(answer(node), "containers").get("c", {})) is hides


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_an_edit_of_older_content_that_a_container_has_mounted(
    node: NestNode,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An edit of one content says nothing of the other one."""
    node.converge(OS, "2")
    older = bases.locate(node.engine, OS).store
    node.fixes = {}
    build(node, "3", base("2", **{"etc/v": "3"}), "2")
    node.converge(OS, "3")
    container = Container(id="1", name="app", image_id="corp/plain:1", pid=os.getpid(), state="running")
    record = older.read()
    assert record
    number = next(each.number for each in record.generations.values() if each.version == "2")
    (tmp_path / "own").mkdir()
    listed = Usage([container], {"1"}, [Use("app", container, frozenset({number}))])
    monkeypatch.setattr(usage, "survey", lambda *_args, **_named: listed)
    monkeypatch.setattr(ops_fixes, "own_files", lambda *_: SimpleNamespace(directory=str(tmp_path / "own"), mounts=()))
    assert "zlib" not in states(answer(node), "containers")["app"]
    (Path(older.path(record, number)) / "usr/lib/libz.so").write_text("by hand")
    judged = answer(node)
    assert states(judged, "containers")["app"]["zlib"] == "unknown"
    assert "zlib" not in states(judged)["corp/plain:1"]


def whiteouts(*paths: str) -> Fill:
    """A layer that removes files."""

    def fill(root: Path) -> None:
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.mknod(root / path, stat.S_IFCHR, os.makedev(0, 0))

    return fill


def test_files_that_an_image_removed(node: NestNode) -> None:  # noqa: F811
    """It shows no old file. A file that only the fix brings, and configuration, are missed."""
    node.image("corp/slim:1", OS, whiteouts("usr/lib/libz.so", "usr/bin/openssl"))
    node.image("corp/linked:1", OS, files({"opt/lib/libz.so": "own"}))
    (node.stacks["corp/linked:1"][0] / "usr").symlink_to("opt")
    node.image("corp/closed:1", OS, lambda root: _opaque(root / "usr/share/rules"))
    node.image("corp/defaults:1", OS, whiteouts("etc/v"))
    for image, owned in (("new", "usr/share/rules/new"), ("v", "etc/v")):
        content = with_package("2", image, owned, **{"usr/share/rules/new": "rule"})
        node.version(OS, image, [], files(content))
        node.converge(OS, image)
        judged = states(answer(node))
        assert "corp/slim:1" not in judged
        assert judged["corp/linked:1"]["zlib"] == "overridden"
        assert (judged.get("corp/closed:1") == {"new": "overridden"}) is (image == "new")
        node.rollback(OS, "pristine")
    assert judged["corp/defaults:1"] == {"/etc/v": "overridden", "v": "overridden"}


def _opaque(path: Path) -> None:
    path.mkdir(parents=True)
    os.setxattr(path, "trusted.overlay.opaque", b"y")
