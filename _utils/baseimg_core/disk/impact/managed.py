"""Applications for .NET and Java: frameworks, classes and options that do not fit the new base's runtime."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...model.impact import dependencies, dotnet, java, view
from ...model.impact.config import ProcessConfig
from ...model.impact.verdict import Reason, Verdict
from ...model.impact.view import FileUnreadable
from ...model.stack import overlay
from .change import BaseChange
from .view import LayeredView

_MAX_CLASSES = 50  # classes of an archive whose versions are read
_OF_OTHER_VERSIONS = "META-INF/versions/"


@dataclass(frozen=True, slots=True)
class ManagedApplication:
    """The parts of one image that run on .NET or Java."""

    #: The change of the base.
    change: BaseChange
    #: The image over the old base.
    old: LayeredView
    #: The image over the new base.
    new: LayeredView
    #: The configuration of the image.
    config: ProcessConfig
    #: The started programs, scripts and archives, as resolved paths.
    started: Collection[bytes]

    def frameworks(self, texts: Iterable[bytes]) -> Iterator[Reason]:
        """Yield the reasons for frameworks of .NET that the new base lacks; ``texts`` are own files."""
        if not any(map(dotnet.FRAMEWORK.fullmatch, self.change.losses.paths)):
            return
        for path in filter(lambda path: path.endswith(dotnet.SUFFIX), texts):
            stem = path.removesuffix(dotnet.SUFFIX)
            is_started = bool({stem, stem + b".dll"}.intersection(self.started))
            try:
                needed = dotnet.frameworks(self.new.text(path), self.config.environment)
            except (FileUnreadable, ValueError) as exc:
                yield Reason(Verdict.NOT_CHECKED, "unreadable", overlay.path_text(path), str(exc))
                continue
            for each in needed:
                before, after = (each.is_met(self._versions(side, each.name)) for side in (self.old, self.new))
                if before and not after:
                    verdict = Verdict.BREAKS if is_started else Verdict.IMPAIRED
                    text = f"needs {each.name} {each.version}, which the new base does not have"
                    yield Reason(verdict, "runtime", overlay.path_text(path), text)

    def _versions(self, side: LayeredView, framework: str) -> set[str]:
        roots = {*dotnet.ROOTS, self.config.environment.get("DOTNET_ROOT", "").encode("utf-8", "surrogateescape")}
        program = self._program(side, b"dotnet")
        roots.add(posixpath.dirname(program))
        places = (view.resolve(side, b"%s/shared/%s" % (root, framework.encode())) for root in roots)
        return {overlay.path_text(name) for place in places if place for name in side.names(place)}

    def _program(self, side: LayeredView, name: bytes) -> bytes:
        place = dependencies.find_program(side, name, self.config.search_path)
        return (view.file_at(side, place) if place else None) or b""

    def classes(self, archives: Iterable[bytes], commands: Iterable[Sequence[str]]) -> Iterator[Reason]:
        """
        Yield the reasons for classes that are too new for the new base's Java, and for options that stop it.

        Args:
            archives: The image's own archives of classes.
            commands: The commands that the image or container runs.
        """
        if not self.change.replaces_java:
            return
        before, after = (self._java(side) for side in (self.old, self.new))
        is_started = any(path.endswith(b"/bin/java") for path in self.started)
        verdict = Verdict.BREAKS if is_started else Verdict.IMPAIRED
        if before and 0 < after < before:
            for path in archives:
                if (needed := self._needed(path)) > after:
                    text = f"has classes for Java {needed}, and the new base has Java {after}"
                    yield Reason(verdict, "runtime", overlay.path_text(path), text)
        elif 0 < before < after:
            for subject, options in self._options(commands):
                for option in java.rejected_options(options, before, after):
                    text = f"has the option {option}, with which Java {after} of the new base does not start"
                    yield Reason(verdict, "runtime", subject, text)

    def _java(self, side: LayeredView) -> int:
        """Return the version of the Java that ``PATH`` finds; 0 if there is none, or if its home does not tell."""
        home = posixpath.dirname(posixpath.dirname(self._program(side, b"java")))
        places = [overlay.join(place, java.RELEASE) for place in (home, posixpath.dirname(home)) if place]
        return next(filter(None, (java.version(side.text(place)) for place in places)), 0)

    def _needed(self, path: bytes) -> int:
        """Return the highest version of Java that the first classes of an archive need; 0 if it has none."""
        try:
            with zipfile.ZipFile(self.new.realpath(path).decode("utf-8", "surrogateescape")) as archive:
                names = [
                    name
                    for name in archive.namelist()
                    if name.endswith(".class") and not name.startswith(_OF_OTHER_VERSIONS)
                ]
                return max((java.class_version(archive.open(name).read(8)) for name in names[:_MAX_CLASSES]), default=0)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
            return 0

    def _options(self, commands: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
        """Yield the texts that may hold options of Java, each with its name."""
        yield from self.config.environment.items()
        yield from ((command[0], " ".join(command)) for command in commands)
        for path in sorted(self.started):
            node = self.new.lookup(path)
            if node and node.own and not path.endswith(java.ARCHIVES):
                text = self.new.text(path)
                if b"\0" not in text:
                    yield overlay.path_text(path), text.decode("utf-8", "replace")
