"""Judge whether images and containers run on a new base and receive all of its changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ...display import counted
from ...model.impact import config as configs
from ...model.impact import derived, locales, runtimes, started
from ...model.impact.config import ProcessConfig
from ...model.impact.path_class import CODE, classify
from ...model.impact.runtimes import Runtime
from ...model.impact.verdict import Reason, Verdict, ranked
from ...model.impact.view import FileUnreadable
from ...model.stack import overlay
from ...model.stack.entry import Kind
from .change import BaseChange
from .managed import ManagedApplication
from .own import LayerFiles, own_files
from .relations import relation_reasons
from .start import StartedPrograms
from .texts import is_lost
from .users import account_reasons
from .view import LayeredView

_EXAMPLES = 3
_START = re.compile(rb"/(?:libc\.so|ld-linux|ld-musl)[^/]*$")  # every program needs these
_MAX_OF_A_KIND = 50  # reasons that are listed for each code


class Judge:
    """The judge of application images for one base change. Each layer is walked once."""

    def __init__(self, change: BaseChange, base_config: Mapping[str, Any]) -> None:
        """Create a judge; ``base_config`` is the base image's raw configuration, empty if unknown."""
        self._change, self._base_config = change, configs.parse(base_config)
        self._walked: dict[str, LayerFiles] = {}
        #: The programs that the judged images and containers start, and their libraries.
        self.started: set[bytes] = set()

    def reasons(
        self,
        own: Sequence[str],
        raw: Mapping[str, Any],
        arguments: Sequence[str] = (),
        volumes: Mapping[str, str] | None = None,
        mapped: Collection[bytes] = (),
        trials: Sequence[Sequence[str]] = (),
    ) -> list[Reason]:
        """
        Judge an image or a container.

        Args:
            own: The directories of the image's own layers, top first.
            raw: The image's raw configuration.
            arguments: The command of a container; empty for an image.
            volumes: The mounts of a container: sources by destination.
            mapped: Absolute paths of the files that its processes have loaded.
            trials: The commands of declared trials, which count as started.

        Returns:
            The reasons why it breaks or misses changes of the new base, worst first.

        Raises:
            LayerUnsupported: A layer disappeared during the scan.
        """
        config = configs.parse(raw)
        walked = [self._walk(layer) for layer in own]
        image = _Image(self._change, own, config, self._base_config, walked, volumes or {})
        reasons = [
            *image.started(arguments, trials),
            *image.loaded(mapped),
            *image.own_files(),
            *image.environment(),
            *image.accounts({*config.volumes, *(volumes or {})}),
        ]
        self.started |= image.started_files
        reasons += [*image.derived(), *image.ghosts(), *image.relations(), *image.managed(arguments, trials)]
        reasons += self._configuration(raw)
        reasons += self._volumes({**dict.fromkeys(config.volumes, ""), **(volumes or {})})
        return _bounded(ranked(reasons))

    def _walk(self, layer: str) -> LayerFiles:
        if not self._is_walk_needed:
            return LayerFiles()
        if layer not in self._walked:
            self._walked[layer] = own_files(layer, self._change.layers)
        return self._walked[layer]

    @cached_property
    def _is_walk_needed(self) -> bool:
        """True if a change of the new base can affect an application's own files."""
        losses = self._change.losses
        if losses.paths or losses.code or losses.runtimes or losses.hidden_sources or self._change.renumbered:
            return True
        if self._change.restricted or self._change.version_needs or losses.symbols or self._change.replaces_java:
            return True
        return any(map(derived.is_source, self._change.expected.paths))

    def _configuration(self, raw: Mapping[str, Any]) -> Iterator[Reason]:
        names = configs.inherited(self._change.config, raw)
        if names:
            listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            yield Reason(
                Verdict.PARTLY, "configuration", listed, "keeps the old base's value: configuration is never delivered"
            )

    def _volumes(self, volumes: Mapping[str, str]) -> Iterator[Reason]:
        for destination, source in sorted(volumes.items()):
            path = overlay_path(destination)
            expected = self._change.expected
            below = [name for name in (path, *expected.below(path)) if name in expected.by_path] if path else []
            hidden = [name for name in below if not expected.by_path[name].is_time]
            if hidden:
                name = f"the volume {source}" if source else "a volume"
                example = overlay.path_text(hidden[-1])
                text = f"{name} is mounted over {counted(len(hidden), 'changed path')} ({example}), which do not arrive"
                yield Reason(Verdict.PARTLY, "volume", destination, text)


def overlay_path(path: str) -> bytes:
    """Convert a container's absolute path to a relative path; empty for the root."""
    return b"/".join(part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part not in (b"", b"."))


class _Image:
    """One image, viewed over the old and the new base."""

    def __init__(
        self,
        change: BaseChange,
        own: Sequence[str],
        config: ProcessConfig,
        base_config: ProcessConfig,
        walked: Sequence[LayerFiles],
        volumes: Mapping[str, str],
    ) -> None:
        """
        Args:
            change: The change of the base.
            own: The directories of the image's own layers, top first.
            config: The configuration of the image.
            base_config: The configuration of the base.
            walked: The files of the own layers, top first.
            volumes: The mounts of a container: sources by destination.
        """
        self._change, self._layers, self._config, self._base_config = change, own, config, base_config
        self._walked = walked
        self._old, self._new = change.views(own)
        sources = [path for files in walked for path in files.sources]
        self._start = StartedPrograms(change, self._old, self._new, config, sources, volumes)
        self._has_own_command = (config.entrypoint, config.command) not in (
            ((), ()),
            (base_config.entrypoint, base_config.command),
        )

    @property
    def started_files(self) -> set[bytes]:
        """The started programs and their libraries, after :meth:`started`."""
        return self._start.files

    def started(self, arguments: Sequence[str], trials: Sequence[Sequence[str]]) -> Iterator[Reason]:
        """Yield the reasons for the programs that the image or container starts, and those of its declared trials."""
        for command in self._commands(arguments, trials):
            yield from self._start.command(command)
        yield from self._start.own_programs()

    def _commands(self, arguments: Sequence[str], trials: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        return [*([tuple(arguments)] if arguments else started.commands(self._config)), *trials]

    def loaded(self, paths: Collection[bytes]) -> Iterator[Reason]:
        """Yield the reasons for the application's own programs and libraries that a running process has loaded."""
        for path in sorted(path.lstrip(b"/") for path in paths) if self._change.losses.code else ():
            node = self._old.lookup(path)
            if node and node.own and path not in self._start.files:
                for reason in self._start.file(path):
                    yield replace(reason, text=f"{reason.text}; a running process has loaded it")
                self._start.files.add(path)

    def own_files(self) -> Iterator[Reason]:
        """Yield the reasons for files in the application's own layers."""
        losses = self._change.losses
        yield from self._hidden_trees()
        yield from self._modules()
        needs = self._change.version_needs or self._change.restricted or losses.symbols
        if not losses.paths and not losses.code and not needs:
            return
        for path in self._visible("programs"):
            if path not in self._start.files:
                every = not self._has_own_command and self._is_executable(path)
                yield from self._start.every(path) if every else self._start.own_needs(path)
        yield from self._base_needs()
        for path in self._visible("links"):
            if is_lost(self._old, self._new, path):
                node = self._new.lookup(path)
                target = overlay.path_text(node.target) if node else ""
                text = f"is a symlink to {target}, which is missing"
                yield Reason(Verdict.IMPAIRED, "missing-target", overlay.path_text(path), text)
        yield from self._texts()

    def environment(self) -> Iterator[Reason]:
        """Yield the reasons for variables that name paths missing from the new base."""
        for name, value in sorted(self._config.environment.items()):
            raw = value.encode("utf-8", "surrogateescape")
            named = {*started.paths_in(raw), *(part for part in raw.split(b":") if part.startswith(b"/"))}
            if name == "TZ":
                named.add(b"/usr/share/zoneinfo/" + raw.lstrip(b":"))
            lost = [overlay.path_text(path) for path in sorted(named) if is_lost(self._old, self._new, path)]
            if name == "LD_PRELOAD":
                names = raw.replace(b":", b" ").split()
                lost += [overlay.path_text(word) for word in names if self._start.texts.is_lost_library(word)]
            if lost:
                text = f"points to {', '.join(lost)}, which is missing"
                yield Reason(self._environment_verdict(name, lost), "environment", name, text)

        yield from self._locales()

    def _locales(self) -> Iterator[Reason]:
        for name, locale in sorted(locales.named(self._config.environment).items()):
            if _has_locale(self._old, locale) and not _has_locale(self._new, locale):
                text = f"names the locale {locale}, which is missing"
                yield Reason(Verdict.IMPAIRED, "environment", name, text)

    def _environment_verdict(self, name: str, lost: Sequence[str]) -> Verdict:
        """Return *breaks*, or *impaired* for a search path from which no started program is lost."""
        if name in ("TZ", "LD_PRELOAD"):  # the C library falls back to UTC, the loader ignores the library
            return Verdict.IMPAIRED
        if not name.endswith("PATH"):
            return Verdict.BREAKS
        directories = tuple(part.encode("utf-8", "surrogateescape").rstrip(b"/") + b"/" for part in lost)
        return (
            Verdict.BREAKS if any(place.startswith(directories) for place in self._start.missing) else Verdict.IMPAIRED
        )

    def accounts(self, volumes: Collection[str]) -> Iterator[Reason]:
        """Yield the reasons for renumbered accounts; ``volumes`` are the mount points of volumes."""
        yield from account_reasons(self._change, self._new, self._config, self._walked, volumes)

    def derived(self) -> Iterator[Reason]:
        """Yield the reasons for files that were generated from files of the old base."""
        own = list(self._visible("derived"))
        by_path = self._change.expected.by_path
        changed = [path for path in by_path if not by_path[path].is_time]
        for path, source, command in derived.derivations(own, changed) if own else ():
            text = f"was made from files of the old base ({overlay.path_text(source)} changed) by {command}"
            yield Reason(Verdict.PARTLY, "derived", overlay.path_text(path), text)
        hidden = self._change.losses.hidden_sources
        for files in self._walked if hidden else ():
            for path, source in files.compiled:
                node = self._new.lookup(source)
                if source in hidden and node and not node.own:
                    name = overlay.path_text(source)
                    text = (
                        f"was compiled from the old {name}; Python keeps using it: the new file has equal size and time"
                    )
                    yield Reason(Verdict.PARTLY, "derived", overlay.path_text(path), text)

    def ghosts(self) -> Iterator[Reason]:
        """
        Yield the reasons for whiteouts that become visible as names.

        Overlay hides a whiteout only in a merged directory. Without the base's directory, it is not merged.
        """
        for layer, files in zip(self._layers, self._walked, strict=True):
            for path in files.whiteouts:
                directory = overlay.split(path)[0]
                if self._is_alone(self._new, directory, layer) and not self._is_alone(self._old, directory, layer):
                    text = (
                        "is a ghost name: the image removed it, and the new base lacks its directory; ls and rm -r fail"
                    )
                    yield Reason(Verdict.PARTLY, "ghost", overlay.path_text(path), text)

    @staticmethod
    def _is_alone(layers: LayeredView, directory: bytes, layer: str) -> bool:
        node = layers.find(directory)
        place = overlay.join(layer.encode("utf-8", "surrogateescape"), directory)
        return node is not None and node.directories == (place,) and not node.has_base

    def relations(self) -> Iterator[Reason]:
        """Yield the reasons for package relations that the new base violates."""
        yield from relation_reasons(self._change, self._old, self._new)

    def managed(self, arguments: Sequence[str], trials: Sequence[Sequence[str]]) -> Iterator[Reason]:
        """Yield the reasons for the parts that run on .NET and Java; the arguments are those of :meth:`started`."""
        application = ManagedApplication(self._change, self._old, self._new, self._config, self._start.files)
        yield from application.frameworks(self._visible("texts"))
        yield from application.classes(self._visible("archives"), self._commands(arguments, trials))

    def _visible(self, kind: str, concerns: Callable[[bytes], bool] | None = None) -> Iterator[bytes]:
        """Yield the own files of one kind that no higher layer hides, and whose real path is of concern."""
        for layer, files in zip(self._layers, self._walked, strict=True):
            root = layer.encode("utf-8", "surrogateescape")
            for path in getattr(files, kind):
                real = overlay.join(root, path)
                if (concerns is None or concerns(real)) and self._old.realpath(path) == real:
                    yield path

    def _is_executable(self, path: bytes) -> bool:
        node = self._new.lookup(path)
        return node is not None and bool(node.mode & 0o111) and b".so" not in path.rpartition(b"/")[2]

    def _hidden_trees(self) -> Iterator[Reason]:
        """Yield the reasons for own directories that hide a symlink or file of the new base."""
        for path in sorted(self._change.losses.paths):
            own, base = self._new.find(path), self._change.new_view.find(path)
            if (
                own is None
                or not own.own
                or own.kind is not Kind.DIRECTORY
                or base is None
                or base.kind is Kind.DIRECTORY
            ):
                continue
            lost = [
                name
                for name in self._change.losses.paths
                if name.startswith(path + b"/") and is_lost(self._old, self._new, name)
            ]
            if lost:
                names = sorted(lost, key=lambda name: (_START.search(name) is None, classify(name, None), len(name)))
                is_code = any(classify(name, None) in CODE for name in lost)
                examples = ", ".join(overlay.path_text(name) for name in names[:_EXAMPLES])
                hidden = f"{counted(len(lost), 'path')} ({examples})"
                text = f"own directory where the new base has a {base.kind.value}: it hides {hidden}"
                yield Reason(
                    Verdict.IMPAIRED if is_code else Verdict.PARTLY, "hidden-tree", overlay.path_text(path), text
                )

    def _modules(self) -> Iterator[Reason]:
        lost = self._change.losses.runtimes | self._start.replaced
        named: set[tuple[bytes, Runtime]] = set()
        for files in self._walked if lost else ():
            named.update((path, runtime) for path, runtime in files.modules if runtime in lost)
        yield from self._addons()
        for path, runtime in sorted(named, key=lambda pair: pair[0]):
            is_started = runtime.language in self._start.languages
            text = f"holds modules for {runtime.language} {runtime.version}, which the new base does not have"
            yield Reason(Verdict.BREAKS if is_started else Verdict.IMPAIRED, "runtime", overlay.path_text(path), text)

    def _addons(self) -> Iterator[Reason]:
        """Yield the reasons for compiled modules of Node whose names do not contain their ABI."""
        lost = sorted(runtime.version for runtime in self._change.losses.runtimes if runtime.language == "node")
        verdict = Verdict.BREAKS if "node" in self._start.languages else Verdict.IMPAIRED
        for path in self._visible("addons") if lost else ():
            try:
                is_lost_addon = runtimes.is_lost_addon(self._new.content(path), self._change.losses.runtimes)
            except FileUnreadable as exc:
                yield Reason(Verdict.NOT_CHECKED, "unreadable", overlay.path_text(path), str(exc))
                continue
            if is_lost_addon:
                text = f"is a module for ABI {', '.join(lost)} of node, which the new base does not have"
                yield Reason(verdict, "runtime", overlay.path_text(path), text)

    def _base_needs(self) -> Iterator[Reason]:
        """Yield the reasons for files of the new base that need versions which an own library lacks."""
        needs = self._change.version_needs
        own = {path.rpartition(b"/")[2] for path in self._visible("programs")} & needs.keys() if needs else set()
        for path in sorted({path for name in own for path in needs[name]} - self._start.files):
            node = self._new.lookup(path)
            if node and not node.own:
                yield from self._start.own_needs(path)

    def _texts(self) -> Iterator[Reason]:
        for path in (*self._visible("texts", self._change.concerns), *self._visible("scripts", self._change.concerns)):
            if path in self._start.files:
                continue
            try:
                losses = list(self._start.texts.losses(path))
            except FileUnreadable:
                continue
            for loss in losses:
                yield Reason(Verdict.IMPAIRED, loss.code, overlay.path_text(path), loss.text)


def _has_locale(side: LayeredView, locale: str) -> bool:
    names = locales.spellings(locale)
    archive = side.content(locales.ARCHIVE, locales.ARCHIVE_NAMES)
    return any(side.lookup(overlay.join(locales.DIRECTORY, name)) or name + b"\0" in archive for name in names)


def _bounded(reasons: Sequence[Reason]) -> list[Reason]:
    counts: dict[str, int] = {}
    kept = []
    for reason in reasons:
        counts[reason.code] = counts.get(reason.code, 0) + 1
        if counts[reason.code] <= _MAX_OF_A_KIND:
            kept.append(reason)
    return kept
