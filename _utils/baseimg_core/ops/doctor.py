"""Check a node before it is needed: installation, engine, file system, space, clock, pillar, keys, registries."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import docker_sdk, zstd
from ..disk.bundle import signature as bundle_signature
from ..disk.store.generations import Store
from ..disk.store.layout import now
from ..engine import mounts
from ..engine.base import Engine
from ..engine.roots import default_layers_roots
from ..errors import BaseimgError, DependencyMissing, SignatureUnsupported
from ..linux import clock_sync, files, probe
from ..linux.oserrors import translate_os_errors
from ..model.diagnosis import FAILED, OK, WARNING, Check, is_ready
from ..model.policy import reference
from ..model.policy.pillar import Trust

PYTHON = (3, 10)  # setup.cfg, python_requires
SALT = 3006
_MEGABYTE = 1_000_000
_LEAST_FREE = 100 * _MEGABYTE  # bytes above the reserve: less is too little for any bundle
_LEAST_INODES = 10_000
_RESULT = "baseimg/doctor.json"  # below the minion's cache; the grain reads it


@dataclass(frozen=True, slots=True)
class MinionFacts:
    """The parts of a minion that the checks need. A call raises :class:`BaseimgError` for a finding."""

    #: The version of Salt.
    salt: str
    #: The version of baseimg.
    suite: str
    #: The minion's cache directory.
    cachedir: str
    #: The directory of the files that Salt synced.
    extension_modules: str
    #: ``file_roots`` by environment; empty if a master serves the files.
    file_roots: Mapping[str, Sequence[str]]
    #: The declared ``baseimg:layers_roots``; ``None`` without one.
    layers_roots: Sequence[str] | None
    #: Percentage of a file system that must stay free.
    reserve: Callable[[], int]
    #: Connects to the engine.
    connect: Callable[[], Engine]
    #: Validates pillar and returns the registries' sources of declared bundles.
    sources: Callable[[], list[str]]
    #: Parses the trusted keys.
    trust: Callable[[], Trust]
    #: Asks the registry for the manifest of one source.
    resolve: Callable[[str], object]


def examine(node: MinionFacts) -> list[Check]:
    """Run every check. A check that fails does not stop the others. Changes nothing but a scratch directory."""
    checks = [
        _python(),
        _salt(node.salt),
        _installations(node),
        _docker_sdk(),
        _zstd(),
        _signatures(),
        *check_top_files(node.file_roots),
    ]
    checks.append(_attempt("pillar", lambda: _pillar(node)))
    checks.append(_attempt("trusted keys", lambda: _keys(node.trust())))
    checks += _engine(node)
    checks += _clock(node)
    return checks + _registries(node)


def save(cachedir: str, checks: Iterable[Check]) -> bool:
    """Save whether the node is ready, for the grain. Return True if the answer changed."""
    path, ready = os.path.join(cachedir, _RESULT), is_ready(checks)
    before = None
    try:
        with open(path, "rb") as file:
            before = json.load(file)["ready"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never examined
    with translate_os_errors(path):
        files.make_directories(os.path.dirname(path))
        files.save(path, json.dumps({"ready": ready, "at": now()}).encode())
    return before is not ready


def _top_files(file_roots: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the top files of each environment that publishes our states and more than one top file."""
    conflicts = []
    for roots in file_roots.values():
        ours = any(os.path.exists(os.path.join(root, "baseimg", "init.sls")) for root in roots)
        tops = [path for root in roots if os.path.exists(path := os.path.join(root, "top.sls"))]
        if ours and len(tops) > 1:
            conflicts.append(tops)
    return conflicts


_COMMANDS = {
    "salt": "upgrade the package salt-minion to 3006 or newer",
    "clock": "timedatectl set-ntp true",
    "space": "salt-call baseimg.prune keep=0",
}


def _pip(package: str) -> str:
    """Return the command that installs a package into the Python that runs Salt."""
    return (
        f"salt-pip install '{package}'" if shutil.which("salt-pip") else f"{sys.executable} -m pip install '{package}'"
    )


def _attempt(subject: str, check: Callable[[], str], command: str = "") -> Check:
    """Run a check that returns its message. An error becomes a failure, with ``command`` or the error's hint."""
    try:
        with translate_os_errors(subject, "check"):
            return Check(subject, OK, check())
    except BaseimgError as exc:
        return Check(subject, FAILED, exc.message, exc.code, command or exc.hint)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON:
        least = ".".join(map(str, PYTHON))
        command = "upgrade the package salt-minion: it includes its own Python"
        return Check("Python", FAILED, f"{version}, {least} is the oldest that works", "python-old", command)
    return Check("Python", OK, version)


def _salt(version: str) -> Check:
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < SALT:
        return Check("Salt", FAILED, f"{version}, {SALT} is the oldest that works", "salt-old", _COMMANDS["salt"])
    return Check("Salt", OK, version)


def _installations(node: MinionFacts) -> Check:
    """Refuse files that were synced beside a pip installation: one of them is stale after the next upgrade."""
    synced = os.path.join(node.extension_modules, "utils", "baseimg_core")
    try:
        installed = importlib.metadata.version("baseimg")
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    if installed and os.path.isdir(synced):
        message = f"{synced} and the Python package baseimg {installed} are both installed"
        return Check("installation", FAILED, message, "version-mixed", f"{sys.executable} -m pip uninstall -y baseimg")
    return Check("installation", OK, f"baseimg {node.suite}")


def _docker_sdk() -> Check:
    try:
        docker_sdk.package()
    except DependencyMissing as exc:
        message = f"{exc.message}; containers cannot be restarted and images cannot be exported"
        return Check("docker SDK", WARNING, message, exc.code, _pip("docker>=7.1,<8"))
    return Check("docker SDK", OK, "installed")


def _zstd() -> Check:
    if not zstd.library():
        message = "zstandard is not installed; bundles are compressed with zstd by default"
        return Check("zstd", FAILED, message, "compression-unsupported", _pip("zstandard"))
    return Check("zstd", OK, "installed")


def _signatures() -> Check:
    if not bundle_signature.AVAILABLE:
        message = "cryptography is not installed; signed bundles cannot be verified"
        return Check("signatures", WARNING, message, "signature-unsupported", _pip("cryptography"))
    return Check("signatures", OK, "installed")


def check_top_files(file_roots: Mapping[str, Sequence[str]]) -> list[Check]:
    """
    Check that no second top file is published together with our states.

    Salt merges several ``top.sls`` of one environment, or takes one of them and silently drops the others.
    """
    conflicts = _top_files(file_roots)
    if not conflicts:
        return [Check("top.sls", OK, "no second top file")]
    return [
        Check(
            "top.sls",
            FAILED,
            f"published twice in one environment: {', '.join(tops)}; Salt may drop the states of one of them",
            "top-file-doubled",
            f"rm {tops[-1]}  # after its targets are in {tops[0]}",
        )
        for tops in conflicts
    ]


def _pillar(node: MinionFacts) -> str:
    node.sources()
    return "valid"


def _keys(trust: Trust) -> str:
    if not trust.keys:
        return "none declared"
    if not bundle_signature.AVAILABLE:
        raise SignatureUnsupported(
            "signatures are required, and the Python package cryptography is not installed", _pip("cryptography")
        )
    return f"{len(trust.keys)} valid: {', '.join(sorted(trust.keys))}"


def _engine(node: MinionFacts) -> list[Check]:
    """Check the engine, and what depends on the directory of its layers."""
    try:
        engine = node.connect()
    except BaseimgError as exc:
        command = "systemctl start docker" if exc.code == "engine-unreachable" else exc.hint
        return [Check("engine", FAILED, exc.message, exc.code, command)]
    root = engine.layers_root
    checks = [Check("engine", OK, f"{engine.storage} at {root}"), _attempt("overlay", _overlay), _namespace(root)]
    if os.path.isdir(root):
        checks += [_attempt("file system", lambda: _file_system(root)), _space(node, root)]
    return [*checks, _grain(node, root)]


def _overlay() -> str:
    mounts.check_host_overlays()
    return "metacopy is off"


def _namespace(root: str) -> Check:
    """Check that the minion sees the directories that the engine uses."""
    unit = "run the minion on the engine's machine, outside of a container, without PrivateMounts= in its unit"
    if not os.path.isdir(root):
        return Check("mount namespace", FAILED, f"{root} does not exist here", "layers-unseen", unit)
    try:
        own, host = os.readlink("/proc/self/ns/mnt"), os.readlink("/proc/1/ns/mnt")
        outside = f"/proc/1/root{root}"
        differs = own != host and os.path.isdir(outside) and not os.path.samefile(root, outside)
    except OSError as exc:
        return Check("mount namespace", WARNING, f"cannot be read: {exc.strerror}", "mounts-unreadable", unit)
    if differs:
        return Check("mount namespace", FAILED, f"{root} is another directory on the host", "layers-unseen", unit)
    if own != host:
        message = "not the host's: mounts that are made later on the host may be invisible"
        return Check("mount namespace", WARNING, message, "namespace-foreign", unit)
    return Check("mount namespace", OK, "the host's")


def _file_system(root: str) -> str:
    probe.check_features(root)
    reflink = "with reflink" if probe.probe(root).reflink else "without reflink: a new generation is a full copy"
    return f"exchange, trusted xattrs and syncfs work, {reflink}"


def _space(node: MinionFacts, root: str) -> Check:
    try:
        reserve = node.reserve()
    except BaseimgError as exc:
        return Check("space", FAILED, exc.message, exc.code, exc.hint)
    st = os.statvfs(root)
    free = max(st.f_bavail - st.f_blocks * reserve // 100, 0) * st.f_frsize
    message = f"{free / _MEGABYTE:.0f} MB free in {root} above the reserve of {reserve} %"
    if free < _LEAST_FREE:
        return Check("space", FAILED, message, "space-exhausted", _COMMANDS["space"])
    if st.f_files and st.f_favail < _LEAST_INODES:
        message = f"{st.f_favail} inodes free in {root}"
        return Check("space", FAILED, message, "space-exhausted", _COMMANDS["space"])
    return Check("space", OK, message)


def _grain(node: MinionFacts, root: str) -> Check:
    """Check that the grain reads the directory of the engine's layers."""
    roots = default_layers_roots() if node.layers_roots is None else node.layers_roots
    if os.path.realpath(root) in map(os.path.realpath, roots):
        return Check("grain", OK, f"reads {root}")
    # a file in minion.d replaces the key of the main file, and with it the trusted keys
    command = f"add 'layers_roots: [{root}]' below 'baseimg' in the minion's configuration, and restart the minion"
    return Check("grain", WARNING, f"does not read {root}; targeting by version misses it", "layers-unseen", command)


def _clock(node: MinionFacts) -> list[Check]:
    """Check the time service, and that no swap lies in the future."""
    newest = _newest_swap(node)
    if newest > now():
        return [
            Check(
                "clock",
                FAILED,
                f"a swap was recorded at {newest}, it is {now()} now",
                "clock-skewed",
                _COMMANDS["clock"],
            )
        ]
    if clock_sync.is_synchronised() is False:
        return [Check("clock", WARNING, "no time service keeps it", "clock-unsynchronised", _COMMANDS["clock"])]
    return [Check("clock", OK, now())]


def _newest_swap(node: MinionFacts) -> str:
    """Return the time of the newest swap on this node; empty without one."""
    times = [""]
    try:
        for layer in node.connect().layer_homes():
            record = Store(layer).read()
            times += [generation.activated for generation in record.generations.values()] if record else []
    except BaseimgError:
        pass  # the check of the engine reports it
    return max(times)


def _registries(node: MinionFacts) -> list[Check]:
    try:
        sources = node.sources()
    except BaseimgError:
        return []  # the check of pillar reports it
    if not sources:
        return [Check("registries", OK, "none declared")]
    return [_registry(node, source) for source in sources]


def _registry(node: MinionFacts, source: str) -> Check:
    def resolve() -> str:
        node.resolve(source)
        return f"has {source}"

    host = reference.parse(source).host
    check = _attempt("registry", resolve)
    return replace(check, command=f"docker login {host}") if check.code == "registry-denied" else check
