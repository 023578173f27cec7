"""Random versions of a base and applications on it, reproducible from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from baseimg_core.disk.store.links import LINKED
from tests.functional.lab import layer
from tests.support import images
from tests.support.images import Member, file, hardlink, symlink

DIRECTORIES = ("usr/lib", "usr/share/doc", "srv", "var/lib/data", "opt/tool")
_FILES = 60
_CHANGES = 8
#: Each version changes part of the library; some change part of the archive, which is large enough to be linked.
_LIBRARY, _ARCHIVE = "usr/lib/library.so", "opt/tool/archive"
_LIBRARY_BYTES = 256 << 10
_FIXED = (_LIBRARY, _ARCHIVE)
_HARDLINK = hardlink("", "").type


def _parents(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:depth]) for depth in range(1, len(names))]


class RandomBase:
    """A base whose content changes from version to version."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._number = 0
        #: The content of the newest version above its lowest layer, by path.
        self.members: dict[str, Member] = {}
        self._low = images.busybox_members()
        for _ in range(_FILES):
            self._add()
        self.members[_LIBRARY] = file(_LIBRARY, rng.randbytes(_LIBRARY_BYTES), 0o755)
        self.members[_ARCHIVE] = file(_ARCHIVE, bytes(LINKED + 1))
        #: The layers of the newest version, bottom first.
        self.layers = self._rebuilt()

    def next_version(self) -> None:
        """Change the content at random; pack it as a rebuilt image or as one more layer."""
        before = dict(self.members)
        for _ in range(self._rng.randint(1, _CHANGES)):
            self._rng.choice((self._add, self._modify, self._modify, self._remove, self._replace))()
        self._change_part(_LIBRARY)
        if self._rng.random() < 0.2:
            self._change_part(_ARCHIVE)
        if self._rng.random() < 0.1:
            self._low = [*self._low, file(f"lib/low{len(self._low)}", self._bytes(100))]
            self.layers = self._rebuilt()
        elif self._rng.random() < 0.3 and len(self.layers) < 10:
            self.layers = [*self.layers, self._update(before)]
        else:
            self.layers = self._rebuilt()

    def application(self, name: str) -> bytes:
        """Return an application's layer: new files, overrides, whiteouts, and files next to the base's."""
        members = [file(f"opt/{name}/run", name.encode(), 0o755)]
        for path in self._rng.sample(sorted(self.members), 4):
            kind = self._rng.choice(("override", "remove", "beside"))
            if kind == "override":
                members.append(file(path, self._bytes(50), 0o640))
            elif kind == "remove":
                members.append(images.whiteout(path))
            else:
                members.append(file(f"{path}.{name}", self._bytes(50)))
        return layer(*members)

    def _rebuilt(self) -> list[bytes]:
        return [layer(*self._low), layer(*self._packed(self.members))]

    def _update(self, before: dict[str, Member]) -> bytes:
        """
        Return a layer with the difference to the previous version.

        It holds all paths of a changed hard link: the first path decides the content.
        """
        # a file that replaces a directory hides the entries below it
        removed = [images.whiteout(path) for path in sorted(before.keys() - self.members.keys()) if self._fits(path)]
        changed = {path: member for path, member in self.members.items() if before.get(path) != member}
        linked = {member.target for member in self.members.values() if member.path in changed and member.target}
        for path, member in self.members.items():
            if path in linked or member.target in linked or member.target in changed:
                changed[path] = member
        return layer(*removed, *self._packed(changed))

    def _fits(self, path: str) -> bool:
        """Return True if the path does not exist and no parent of it is a file."""
        return not any(parent in self.members for parent in [path, *_parents(path)]) and not self._is_directory(path)

    def _is_directory(self, path: str) -> bool:
        return any(other.startswith(f"{path}/") for other in self.members)

    @staticmethod
    def _packed(members: dict[str, Member]) -> list[Member]:
        """Return the members with the target of each hard link before the link."""
        return sorted(members.values(), key=lambda member: (member.type == _HARDLINK, member.path))

    def _bytes(self, size: int) -> bytes:
        return self._rng.randbytes(self._rng.randint(0, size))

    def _new_path(self) -> str:
        self._number += 1
        parent = self._rng.choice(DIRECTORIES)
        below = f"d{self._rng.randint(0, 5)}/" if self._rng.random() < 0.4 else ""
        return f"{parent}/{below}f{self._number}"

    def _plain_files(self) -> list[str]:
        regular = file("").type
        return sorted(path for path, member in self.members.items() if member.type == regular and path not in _FIXED)

    def _add(self) -> None:
        path = self._new_path()
        if not self._fits(path):
            return
        files = self._plain_files()
        makers: list[Callable[[], Member]] = [
            lambda: file(path, self._bytes(3000), self._rng.choice((0o644, 0o755, 0o600, 0o4755))),
            lambda: file(path, self._bytes(3000), uid=self._rng.choice((0, 1000)), mtime=1_600_000_000 + self._number),
            lambda: file(path, self._bytes(100), xattrs={"user.test": self._bytes(20)}),
            lambda: symlink(path, self._rng.choice(["/nowhere", f"f{self._number - 1}", "../lib"])),
            lambda: hardlink(path, self._rng.choice(files)) if files else file(path),
            lambda: images.fifo(path),
        ]
        self.members[path] = self._rng.choice(makers)()

    def _modify(self) -> None:
        if not (files := self._plain_files()):
            return
        path = self._rng.choice(files)
        member = self.members[path]
        change = self._rng.choice(("content", "same size and time", "mode", "owner"))
        if change == "content":
            self.members[path] = replace(member, content=self._bytes(3000), mtime=member.mtime + 60)
        elif change == "same size and time":
            self.members[path] = replace(member, content=self._rng.randbytes(len(member.content)))
        elif change == "mode":
            self.members[path] = replace(member, mode=member.mode ^ 0o111)
        else:
            self.members[path] = replace(member, uid=1000 - member.uid)

    def _remove(self) -> None:
        path = self._rng.choice(sorted(self.members))
        if path not in _FIXED:
            self._drop(path)

    def _drop(self, path: str) -> None:
        del self.members[path]
        for other in [member.path for member in self.members.values() if member.target == path]:
            if self.members[other].type == _HARDLINK:
                del self.members[other]

    def _replace(self) -> None:
        """Replace a file by a directory with a file, or a directory by a file."""
        path = self._rng.choice(sorted(self.members))
        if path in _FIXED:
            return
        parent = path.rpartition("/")[0]
        if parent in DIRECTORIES or parent.rpartition("/")[0] not in DIRECTORIES:
            self._drop(path)
            self.members[f"{path}/in"] = file(f"{path}/in", self._bytes(100))
        else:
            for below in [other for other in self.members if other.startswith(f"{parent}/")]:
                if below in self.members:
                    self._drop(below)
            self.members[parent] = file(parent, self._bytes(100))

    def _change_part(self, path: str) -> None:
        content = self.members[path].content
        place = self._rng.randrange(len(content) - 1000)
        content = content[:place] + self._rng.randbytes(1000) + content[place + 1000 :]
        self.members[path] = replace(self.members[path], content=content)
