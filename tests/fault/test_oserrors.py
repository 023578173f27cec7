"""System call errors: every operation ends in a typed error and leaves the old or the new base."""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import gzip
import os
import resource
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.disk.bundle import tar
from baseimg_core.disk.containers.journal import Journal
from baseimg_core.disk.store import generations
from baseimg_core.errors import BaseimgError, BundleInvalid, SourceUnreadable, SpaceExhausted, StorageFailed
from baseimg_core.linux import syscalls
from baseimg_core.linux.files import remove_any, remove_tree
from baseimg_core.linux.oserrors import translate_os_errors
from baseimg_core.model.policy.image_policy import DeclaredBundles
from baseimg_core.model.policy.pillar import Source
from baseimg_core.ops import adopt, bases, build, converge, hold, impact, import_legacy, prune, rollback, verify
from baseimg_core.ops.containers import give_up
from tests.support import legacy
from tests.support.fs import MIB, loop_fs, shut_down
from tests.support.kernel import differences
from tests.support.mounts import MS_RDONLY, MS_REMOUNT, mount
from tests.support.plain import BASE, Node
from tests.support.trace import traced

pytestmark = pytest.mark.fault


def entry_point(work: Callable[[], Any]) -> Any:
    """Run an operation as the entry points in ``_modules`` do."""
    with translate_os_errors("a file of this node", "use"):
        return work()


def code_of(work: Callable[[], Any]) -> str:
    """Run an operation; return the code of its typed error, empty without an error."""
    try:
        entry_point(work)
    except BaseimgError as exc:
        return exc.code
    return ""


def status(node: Node) -> dict[str, Any]:
    return bases.status(node.engine, bases.locate(node.engine, BASE))


def verify_deep(node: Node) -> dict[str, Any]:
    return verify.verify(node.engine, bases.locate(node.engine, BASE), True)


@dataclass(frozen=True)
class Operation:
    """An operation on a node that has converged to the versions in ``before``."""

    before: tuple[str, ...]
    run: Callable[[Node], Any]
    #: The live version afterwards.
    after: str
    #: Prepares the node before the operation; changes ``views`` if it changes the live content.
    prepare: Callable[[Node], object] = lambda _node: None


def add_images(node: Node) -> None:
    """Add two images whose layers the engine knows as packed."""
    layers = {"other": {"etc/version": "1", "usr/lib/tool": "tool"}, "more": {"etc/version": "2", "usr/lib/new": "new"}}
    node.engine.add("corp/other:1", "other")
    node.engine.add("corp/other:2", *layers)
    for layer, files in layers.items():
        node._write(layer, files)
        node.engine.remember(layer)


def archive(node: Node) -> str:
    """Return the path of an archive of the old scripts; it has a third version."""
    path = node.root / "BASE-12.3-diff.tar.gz"
    if not path.exists():
        (target,) = node._version("12.3", {"etc/version": "12.3"})
        legacy.pack(str(node.stack[0]), [str(target), str(node.stack[0])], path)
    return str(path)


def update_as_the_old_scripts(node: Node) -> None:
    legacy.update(node.root / "layers", Path(archive(node)), "12.3", str(node.stack[0]), "12.0")
    node.views["12.0"] = node.view()  # an adoption does not change the live content


def import_archive(node: Node) -> dict[str, Any]:
    return import_legacy.import_legacy(node.engine, archive(node), BASE, str(node.root / "imported.tar"))


def build_bundle(node: Node) -> dict[str, Any]:
    return build.build(node.engine, "corp/other:1", "corp/other:2", str(node.root / "built.tar"))


def put_hold(node: Node) -> None:
    hold.hold(node.context, BASE, "12.2", "broken")


def note_restart(node: Node) -> None:
    """Note a container in the journal, as a restart does before it stops the container."""
    noted = Journal()
    noted.note([["1"]], {"1": "shop"}, {})
    noted.save(bases.locate(node.engine, BASE).store.layout.restarting)


def judge(node: Node) -> dict[str, Any]:
    return impact.impact(node.context, BASE, DeclaredBundles(node.bundles, "12.1"))


OPERATIONS = {
    "plan": Operation((), lambda node: node.plan("12.1"), "12.0"),
    "first converge": Operation((), lambda node: node.converge("12.1"), "12.1"),
    "second converge": Operation(("12.1",), lambda node: node.converge("12.2"), "12.2"),
    "repair": Operation(("12.1",), lambda node: node.converge("12.1", repair=True), "12.1"),
    "rollback": Operation(("12.1",), lambda node: rollback.roll_back(node.context, BASE, "pristine"), "12.0"),
    "prune": Operation(
        ("12.1", "12.2", "12.0", "12.2"), lambda node: prune.prune(node.context, BASE, 0, False), "12.2"
    ),
    "pin": Operation(("12.1",), lambda node: prune.pin(node.context, BASE, "12.1", True), "12.1"),
    "apply": Operation((), lambda node: converge.apply(node.context, node.bundles["12.1"]), "12.1"),
    "adopt": Operation((), lambda node: adopt.adopt(node.context), "12.0", update_as_the_old_scripts),
    "build": Operation((), build_bundle, "12.0", add_images),
    "import_legacy": Operation((), import_archive, "12.0", archive),
    "impact": Operation((), judge, "12.0"),
    "hold": Operation(("12.1",), lambda node: hold.hold(node.context, BASE, "12.2", "broken"), "12.1"),
    "unhold": Operation(("12.1",), lambda node: hold.unhold(node.context, BASE), "12.1", put_hold),
    "give_up": Operation(("12.1",), lambda node: give_up.give_up(node.context, BASE, "shop"), "12.1", note_restart),
    "status": Operation(("12.1",), status, "12.1"),
    "verify": Operation(("12.1",), verify_deep, "12.1"),
}

READING = (errno.EIO, errno.EACCES, errno.EMFILE)
WRITING = (errno.EROFS, errno.ENOSPC, errno.EIO)
# function -> module, attribute and errno values: those of its manual page that a correct program can meet
CALLS: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "open()": (builtins, "open", (*READING, errno.EROFS, errno.ENOSPC)),
    **{f"os.{name}": (os, name, READING) for name in ("listdir", "scandir", "stat", "lstat", "readlink", "listxattr")},
    **{
        f"os.{name}": (os, name, WRITING)
        for name in ("mkdir", "makedirs", "rename", "unlink", "rmdir", "fsync", "write", "link", "symlink", "mknod")
    },
    **{f"os.{name}": (os, name, WRITING) for name in ("setxattr", "utime", "fchmod", "chmod", "chown")},
    "os.open": (os, "open", (*READING, errno.EROFS, errno.ENFILE)),
    "os.read": (os, "read", (errno.EIO,)),
    "os.statvfs": (os, "statvfs", (errno.EIO,)),
    "exchange": (syscalls, "exchange", (errno.EIO, errno.ENOSPC, errno.EROFS)),
    "syncfs": (syscalls, "sync_filesystem", (errno.EIO, errno.ENOSPC)),
    "clone": (syscalls, "clone", (errno.EIO, errno.ENOSPC)),
}
CODES = {errno.ENOSPC: "space-exhausted", errno.EMFILE: "open-files-exhausted", errno.ENFILE: "open-files-exhausted"}


class Fault:
    """Fails one call of a function with an errno, if the core makes that call; counts the calls."""

    def __init__(self, owner: Any, name: str, error: int, position: int) -> None:
        self.calls = 0
        self._owner, self._name, self._error, self._position = owner, name, error, position
        self._real = getattr(owner, name)

    def __enter__(self) -> Fault:
        setattr(self._owner, self._name, self._call)
        return self

    def __exit__(self, *_exc: object) -> None:
        setattr(self._owner, self._name, self._real)

    def _call(self, *arguments: Any, **named: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("baseimg_core"):
            self.calls += 1
            if self.calls == self._position:
                path = next((argument for argument in arguments if isinstance(argument, str | bytes)), None)
                raise OSError(self._error, os.strerror(self._error), path)
        return self._real(*arguments, **named)


@contextlib.contextmanager
def prepared(root: Path, operation: Operation) -> Iterator[Node]:
    node = Node(root)
    for version in operation.before:
        node.converge(version)
    operation.prepare(node)
    yield node
    shutil.rmtree(root)


@functools.cache
def count_calls(name: str) -> dict[str, int]:
    """Return how often an operation calls each function of :data:`CALLS`."""
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        node = stack.enter_context(prepared(Path(root) / "node", OPERATIONS[name]))
        faults = {call: Fault(owner, function, 0, 0) for call, (owner, function, _errors) in CALLS.items()}
        for fault in faults.values():
            stack.enter_context(fault)
        OPERATIONS[name].run(node)
    return {call: fault.calls for call, fault in faults.items()}


def check_call(root: Path, name: str, call: str, whole: bool) -> None:
    """
    Fail calls of one function during one operation.

    Args:
        root: A directory for the nodes.
        name: A key of :data:`OPERATIONS`.
        call: A key of :data:`CALLS`.
        whole: Fail the first, the middle and the last call, each with every error; else one call with one error.
    """
    operation = OPERATIONS[name]
    owner, function, errors = CALLS[call]
    calls = count_calls(name)[call]
    middle = (calls + 1) // 2
    for position in sorted({1, middle, calls} if whole else {middle}) if calls else ():
        for error in errors if whole else errors[:1]:
            with prepared(root / "node", operation) as node:
                _check(node, operation, Fault(owner, function, error, position), error)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_under_an_error_of_every_call(tmp_path: Path, name: str, call: str) -> None:
    check_call(tmp_path, name, call, whole=False)


def _check(node: Node, operation: Operation, fault: Fault, error: int) -> None:
    where = f"call {fault._position} of {fault._name}: {errno.errorcode[error]}"
    with fault:
        code = code_of(lambda: operation.run(node))
    assert not code.endswith("-exhausted") or code == CODES[error], where
    view = node.view()
    before = operation.before[-1] if operation.before else "12.0"
    assert not all(differences(view, node.views[version]) for version in (before, operation.after)), where
    entry_point(lambda: operation.run(node))
    assert differences(node.view(), node.views[operation.after]) == [], where
    assert status(node)["interrupted"] is False, where


def test_a_read_only_file_system() -> None:
    with loop_fs("ext4", 32 * MIB) as root:
        node = Node(root / "node")
        for version in ("12.2", "12.0", "12.1"):
            node.converge(version)
        mount(b"", os.fsencode(root), b"", MS_REMOUNT | MS_RDONLY)
        for operation in (
            lambda: node.converge("12.2"),
            lambda: rollback.roll_back(node.context, BASE, "pristine"),
            lambda: prune.prune(node.context, BASE, 0, False),
        ):
            with pytest.raises(BaseimgError, match="Read-only file system") as caught:
                entry_point(operation)
            assert caught.value.code == "destination-unwritable"
        assert entry_point(lambda: status(node))["version"] == "12.1"
        assert entry_point(lambda: verify_deep(node))["ok"]
        mount(b"", os.fsencode(root), b"", MS_REMOUNT)
        node.converge("12.2")
        assert differences(node.view(), node.views["12.2"]) == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_hardly_any_open_files(tmp_path: Path, name: str) -> None:
    operation = OPERATIONS[name]
    with prepared(tmp_path / "node", operation) as node:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for more in (0, 1, 2, 3, 5, 8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + more, hard))
            try:
                code_of(lambda: operation.run(node))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        entry_point(lambda: operation.run(node))
        assert differences(node.view(), node.views[operation.after]) == []


@pytest.mark.parametrize("point", [point for point in generations.POINTS if point.startswith(("stage.", "swap."))])
def test_the_engine_removes_the_layer(tmp_path: Path, point: str) -> None:
    """Removal ends in a typed error, and no file of baseimg stays at the layer's place."""
    node = Node(tmp_path)

    def trace(reached: str) -> None:
        if reached == point:
            shutil.rmtree(node.layer)

    with traced(trace), pytest.raises(BaseimgError) as caught:
        entry_point(lambda: node.converge("12.1"))
    assert caught.value.code == "layer-removed"
    assert not node.layer.exists()


def test_a_symlink_as_staging(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.converge("12.1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (node.layer / "baseimg/staging").symlink_to(tmp_path / "elsewhere")
    entry_point(lambda: node.converge("12.2"))
    assert differences(node.view(), node.views["12.2"]) == []
    assert (tmp_path / "elsewhere/file").exists()


@pytest.mark.parametrize("target", ["nowhere", "7"])
def test_a_dangling_symlink_among_the_generations(tmp_path: Path, target: str) -> None:
    node = Node(tmp_path)
    node.converge("12.1")
    (node.layer / "baseimg/generations/7").symlink_to(target)
    assert entry_point(lambda: status(node))["version"] == "12.1"
    entry_point(lambda: node.converge("12.2"))
    assert differences(node.view(), node.views["12.2"]) == []


ODD: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "directory": lambda path: (path.mkdir(), (path / "file").touch()),
    "dangling symlink": lambda path: path.symlink_to("/nowhere/file"),
    "endless device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
}
OWN = [
    f"{name}{end}" for name in ("holds.json", "lifetimes.json", "starts.json", "judged.json") for end in ("", ".new")
]
OWN += ["state.json.new", "state.json.spare", "lifetimes.json.spare", "history.jsonl", "history.jsonl.new", "lock"]
OWN += ["restarting.json.new"]


@pytest.mark.parametrize("kind", ODD)
def test_no_file_of_our_own_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    """No operation blocks on a FIFO or reads a device without an end, and the next change replaces what it needs."""
    node = Node(tmp_path)
    node.converge("12.1")
    home = node.layer / "baseimg"
    for name in OWN:
        remove_any(str(home / name))
        ODD[kind](home / name)
    for operation in (status, verify_deep, lambda node: prune.prune(node.context, BASE, 0, False)):
        code_of(lambda operation=operation: operation(node))
    for name in ("holds.json", "lifetimes.json"):  # errors name these: what a hold blocks is not guessed
        remove_any(str(home / name))
    node.converge("12.2")
    assert differences(node.view(), node.views["12.2"]) == []
    rollback.roll_back(node.context, BASE, "pristine")
    assert differences(node.view(), node.views["12.0"]) == []


@pytest.mark.parametrize("kind", ODD)
def test_a_record_that_is_no_regular_file_is_repaired(tmp_path: Path, kind: str) -> None:
    node = Node(tmp_path)
    node.converge("12.1")
    state = node.layer / "baseimg/state.json"
    state.unlink()
    ODD[kind](state)
    assert code_of(lambda: status(node)) == "record-invalid"
    for version in ("12.1", "12.2"):
        node.converge(version, repair=True)
        assert differences(node.view(), node.views[version]) == []
    assert state.is_file()


class Unrecorded(Node):
    """A node whose bundles have no view digests."""

    views_in_bundles = False


def test_directories_nested_over_a_thousand_levels(tmp_path: Path) -> None:
    """The nesting exceeds the interpreter's recursion limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        node = Unrecorded(tmp_path)
        node.engine.forget(node.layer.name)  # the engine's checksum would not cover the directories below
        deep = "/".join(["d"] * 1200)
        for level in range(1, 1201):
            (node.layer / "diff" / "/".join(["d"] * level)).mkdir()
        node.converge("12.1")
        assert entry_point(lambda: verify_deep(node))["version"] == "12.1"
        node.converge("12.2")
        prune.prune(node.context, BASE, 0, False)
        prune.prune(node.context, BASE, 0, True)
        assert os.path.isdir(node.layer / "diff" / deep)
    finally:
        remove_tree(str(tmp_path / "layers"))  # pytest's own removal recurses
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


REPLACED: dict[str, Callable[[Path], object]] = {
    "a file by a symlink": lambda root: (root / "etc/version").symlink_to("/etc/passwd"),
    "a file by a dangling symlink": lambda root: (root / "etc/version").symlink_to("/nowhere"),
    "a file by a directory": lambda root: (root / "etc/version").mkdir(),
    "a file by a FIFO": lambda root: os.mkfifo(root / "etc/version"),
    "a directory by a file": lambda root: (root / "etc").write_text("x"),
    "a directory by a symlink": lambda root: (root / "etc").symlink_to("/etc"),
}


@pytest.mark.parametrize("what", REPLACED)
@pytest.mark.parametrize("live", ["12.0", "12.1"])
def test_verify_and_repair_after_a_replacement(tmp_path: Path, what: str, live: str) -> None:
    """A replacement in the pristine content makes it damaged, whether it is live or not."""
    node = Node(tmp_path)
    node.converge("12.1")
    if live == "12.0":
        node.converge("12.0")
    pristine = node.layer / "diff" if live == "12.0" else node.layer / "baseimg/generations/0"
    path = pristine / ("etc/version" if what.startswith("a file") else "etc")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    REPLACED[what](pristine)
    assert entry_point(lambda: verify_deep(node))["pristine"] == "damaged"
    (node.layer / "baseimg/state.json").write_text("damaged")
    with contextlib.suppress(BaseimgError):
        entry_point(lambda: node.converge("12.1", repair=True))


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.write_bytes(b""),
        lambda record: record.write_bytes(b"no gzip"),
        lambda record: record.write_bytes(record.read_bytes()[:-30]),
        lambda record: record.write_bytes(gzip.compress(b'{"type": 1}\n[]\n')),
        lambda record: record.write_bytes(gzip.compress(b'{"type": 1, "size": 3, "name": 5}\n')),
        lambda record: record.write_bytes(gzip.compress(b'{"type": 2, "payload": 5}\n')),
        lambda record: record.write_bytes(gzip.compress(b'{"type": 2, "payload": "AA"}\n')),
    ],
    ids=["empty", "no gzip", "truncated", "a list", "a number as name", "a number as payload", "no base64"],
)
def test_a_damaged_record_of_the_engine_proves_nothing(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    node = Node(tmp_path)
    node.converge("12.1")
    damage(tmp_path / "records/top")
    assert entry_point(lambda: verify_deep(node))["pristine"] == "unproven"
    (node.layer / "baseimg/state.json").write_text("damaged")
    with pytest.raises(BaseimgError) as caught:
        entry_point(lambda: node.converge("12.1", repair=True))
    assert caught.value.code == "record-invalid"


class Large(Node):
    """A node whose bundles are larger than the reader's buffers."""

    def _version(self, version: str, files: dict[str, str]) -> list[Path]:
        (root,) = super()._version(version, files)
        (root / "large").write_bytes(os.urandom(4 * MIB))
        os.utime(root / "large", (0, 0))
        return [root]


def test_an_unreadable_bundle_is_not_a_staging_error(tmp_path: Path) -> None:
    """The bundle's disk fails while the bundle is unpacked to another disk."""
    node = Large(tmp_path / "node")
    with loop_fs("ext4", 32 * MIB) as root:
        path = root / "bundle.tar"
        shutil.copy(node.bundles["12.1"].source, path)

        def trace(point: str) -> None:
            if point == "stage.begun":
                shut_down(root, flush=False)

        with traced(trace), pytest.raises((StorageFailed, SourceUnreadable)) as caught:
            entry_point(lambda: converge.apply(node.context, Source(str(path))))
    assert str(path) in caught.value.message
    assert "staging" not in caught.value.message
    assert os.listdir(node.layer) == ["diff"]


def test_inodes_are_named_if_they_are_exhausted() -> None:
    with loop_fs("ext4", 8 * MIB) as root:
        with contextlib.suppress(OSError):
            for number in range(1 << 20):
                (root / str(number)).touch()
        with pytest.raises(SpaceExhausted, match="no inodes left"), translate_os_errors(str(root / "new" / "file")):
            (root / "new").mkdir()


@pytest.mark.parametrize("time", [b".5", b"-", b"-.5", b"1.x", b".", b"1e3", b" 1"])
def test_times_that_are_none(time: bytes) -> None:
    with pytest.raises(BundleInvalid):
        tar._time(time, b"")


def test_pax_records_parse_in_linear_time() -> None:
    """A mebibyte of the smallest records once took half a minute: each record copied the rest."""
    records = b"".join(b"10 %x=\n" % number for number in range(0x10000, 0x28000))
    before = time.process_time()
    assert len(tar._records(records)) == 0x18000
    assert time.process_time() - before < 3


@pytest.mark.parametrize("mask", [0, 0o777])
def test_own_files_have_the_same_modes_under_every_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        node = Node(tmp_path / "node")
        os.umask(mask)
        node.converge("12.1")
    finally:
        os.umask(before)
    home = node.layer / "baseimg"
    paths = [home, *(path for path in home.rglob("*") if "generations/" not in str(path))]
    modes = {str(path.relative_to(node.layer)): oct(path.stat().st_mode & 0o7777) for path in paths}
    assert modes == {name: "0o700" if (node.layer / name).is_dir() else "0o600" for name in modes}


def test_the_lock_file_follows_no_symlink(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.converge("12.1")
    victim = tmp_path / "victim"
    victim.write_text("content")
    for name in ("lock", "state.json.new", "history.jsonl.new"):
        path = node.layer / "baseimg" / name
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    node.converge("12.2")
    assert victim.read_text() == "content"
