"""Small scenarios: a base, its target, and the paths that differ between the two."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.functional.lab import APP_LAYER, bare_layer
from tests.support.images import (
    EPOCH,
    Member,
    blockdev,
    chardev,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    symlink,
    whiteout,
)

LATER = EPOCH + 1000
# capabilities(7), "File capabilities": version 2 with the effective bit, permitted: CAP_NET_BIND_SERVICE, CAP_NET_RAW
BIND = {"security.capability": struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)}
RAW = {"security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)}
# acl(5) as an attribute: version 2, then tag, permissions, id: owner, user 7, group, mask, others
ACL = {
    "system.posix_acl_access": struct.pack("<I", 2)
    + b"".join(struct.pack("<HHI", *row) for row in [(1, 6, ~0 & 0xFFFFFFFF), (2, 4, 7), (4, 4, 0xFFFFFFFF)])
    + b"".join(struct.pack("<HHI", *row) for row in [(16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)])
}
LONG = "n" * 255
RAW_NAME = b"raw-\xff\xfe"


@dataclass(frozen=True)
class Case:
    """
    A base, its target, an application on the base, and the paths that the bundle must hold.

    ``changes`` lists every path in the bundle by its name in the file system, never as a whiteout: ``+`` added, ``~``
    modified, ``-`` removed. ``app`` holds the layers of the application above the base. Layers are bottom first.
    """

    what: str
    base: Sequence[bytes]
    target: Sequence[bytes]
    changes: set[str]
    app: Sequence[bytes] = field(default=(APP_LAYER,))


def above(
    what: str,
    base: Sequence[Sequence[Member]],
    more: Sequence[Sequence[Member]],
    changes: str | set[str],
    app: Sequence[Sequence[Member]] | None = None,
) -> Case:
    """Return a case whose target is built on the base."""
    old = [bare_layer(*members) for members in base]
    return _case(what, old, [*old, *(bare_layer(*members) for members in more)], changes, app)


def instead(
    what: str,
    base: Sequence[Sequence[Member]],
    target: Sequence[Sequence[Member]],
    changes: str | set[str],
    app: Sequence[Sequence[Member]] | None = None,
) -> Case:
    """Return a case with a rebuilt target, which shares only equal bottom layers with the base."""
    return _case(
        what, [bare_layer(*members) for members in base], [bare_layer(*members) for members in target], changes, app
    )


def _case(
    what: str,
    base: Sequence[bytes],
    target: Sequence[bytes],
    changes: str | set[str],
    app: Sequence[Sequence[Member]] | None,
) -> Case:
    expected = set(changes.split()) if isinstance(changes, str) else changes
    own = (APP_LAYER,) if app is None else [bare_layer(*members) for members in app]
    return Case(what, base, target, expected, own)


ROOT = [file("keep", b"keep"), directory("etc"), file("etc/keep", b"keep")]

NAMES = [
    above(
        "dot files in the root of a layer",
        [[*ROOT, file(".old", b"1"), file(".gone"), directory(".dir")]],
        [[file(".old", b"2"), whiteout(".gone"), file(".new"), file(".dir/.in")]],
        "~.old -.gone +.new +.dir/.in",
    ),
    above(
        "odd names",
        [[*ROOT, file("new\nline", b"1"), file(RAW_NAME, b"1"), file(LONG, b"1"), file("…/..data", b"1")]],
        [[file("new\nline", b"2"), file(RAW_NAME, b"2"), file(LONG, b"2"), file("…/..data", b"2"), file(" -- *\\")]],
        {r"~new\nline", r"~raw-\xff\xfe", f"~{LONG}", "~…/..data", "+ -- *\\"},
    ),
    above(
        "odd names that go, and that come",
        [[*ROOT, file("d/new\nline"), file(b"d/\xff"), file(f"d/{LONG[:251]}", b"1"), directory("d")]],
        [[whiteout("d/new\nline"), whiteout(b"d/\xff"), whiteout(f"d/{LONG[:251]}"), file(b"d/\xfe"), file("d/\n")]],
        {r"-d/new\nline", r"-d/\xff", f"-d/{LONG[:251]}", r"+d/\xfe", r"+d/\n"},
    ),
    instead(
        "a name of 255 bytes that goes",
        [[*ROOT, file(LONG), file("d/" + LONG)], [file("top")]],
        [[*ROOT, file("top"), directory("d")]],
        {f"-{LONG}", f"-d/{LONG}"},
    ),
    above(
        "names that sort between a directory and what is in it",
        [[*ROOT, file("a/x", b"1"), file("a-b", b"1"), file("a.d/x", b"1")]],
        [[file("a/x", b"2"), file("a-b", b"2"), file("a.d/x", b"2"), file("a", b"no", 0)][:3]],
        "~a/x ~a-b ~a.d/x",
    ),
    above(
        "symlinks and links with odd targets",
        [[*ROOT, symlink("s", "a"), symlink("t", "a")]],
        [[symlink("s", b"\xff\n" + b"x" * 300), symlink("t", "../" * 80 + "etc")]],
        "~s ~t",
    ),
    above(
        "a long path",
        [[*ROOT, file("/".join(["d" * 200] * 12) + "/f", b"1")]],
        [[file("/".join(["d" * 200] * 12) + "/f", b"2")]],
        {"~" + "/".join(["d" * 200] * 12) + "/f"},
    ),
    above(
        "a deep directory",
        [[*ROOT, file("d/" * 200 + "f", b"1"), file("d/" * 200 + "gone")], [file("top")]],
        [[file("d/" * 200 + "f", b"2"), whiteout("d/" * 200 + "gone")]],
        {"~" + "d/" * 200 + "f", "-" + "d/" * 200 + "gone"},
    ),
]

CONTENT = [
    above(
        "content",
        [[*ROOT, file("same-size", b"one"), file("empty"), file("emptied", b"x"), file("grown", b"x")]],
        [[file("same-size", b"two"), file("empty", b"x"), file("emptied"), file("grown", b"x" * 100_000)]],
        "~same-size ~empty ~emptied ~grown",
    ),
    above(
        "a large file that differs in its last byte",
        [[*ROOT, file("large", b"x" * (9 << 20) + b"1")]],
        [[file("large", b"x" * (9 << 20) + b"2")]],
        "~large",
    ),
    above(
        "what is written again but does not differ is not in the bundle",
        [
            [*ROOT, file("same", b"x", xattrs={"user.a": b"1"}), file("large", b"x" * (5 << 20)), symlink("s", "t")],
            [file("a"), hardlink("b", "a"), fifo("p"), chardev("c", 1, 3), directory("d", 0o700, mtime=LATER)],
        ],
        [
            [file("same", b"x", xattrs={"user.a": b"1"}), file("large", b"x" * (5 << 20)), symlink("s", "t")],
            [file("a"), hardlink("b", "a"), fifo("p"), chardev("c", 1, 3), directory("d", 0o700, mtime=LATER)],
            [file("really", b"new"), whiteout("keep")],
            [file("keep", b"keep")],
        ],
        "+really",
    ),
    instead(
        "of a tree that was made anew, only what differs",
        [[*ROOT, file("a"), hardlink("b", "a")], [file("c", b"1"), file("d/e", b"1")]],
        [[file("d/e", b"1"), file("c", b"2"), file("b"), hardlink("a", "b"), *ROOT]],
        "~c",
    ),
]

METADATA = [
    above(
        "modes with setuid, setgid and sticky bits",
        [[*ROOT, file("su", b"x", 0o755), file("plain", b"x", 0o4755), file("sg", b"x", 0o2755), directory("tmp")]],
        [
            [file("su", b"x", 0o4755), file("plain", b"x", 0o755), file("sg", b"x", 0o6711), directory("tmp", 0o1777)],
            [directory("var", 0o2775), file("zero", b"x", 0), directory("shut", 0), fifo("pipe", 0o622)],
        ],
        "~su ~plain ~sg ~tmp +var +zero +shut +pipe",
    ),
    above(
        "owners, large ones too, that keep setuid bits and capabilities",
        [
            [*ROOT, file("a", b"x"), directory("d"), symlink("s", "x"), fifo("p"), file("su", b"x", 0o4755)],
            [file("cap", b"x", 0o755, xattrs=BIND)],
        ],
        [
            [file("a", b"x", uid=1000, gid=50), directory("d", uid=70_000, gid=3_000_000), symlink("s", "x", uid=7)],
            [fifo("p", gid=4_294_967_294), file("su", b"x", 0o4755, uid=4_294_967_294, gid=2_147_483_648)],
            [file("cap", b"x", 0o755, uid=33, xattrs=BIND)],
        ],
        "~a ~d ~s ~p ~su ~cap",
    ),
    above(
        "times of everything, directories too",
        [
            [*ROOT, file("f", b"x"), symlink("s", "x"), fifo("p"), chardev("c", 1, 3), directory("d"), file("d/in")],
            [file("old", mtime=LATER), directory("empty"), file("far", b"x")],
        ],
        [
            [file("f", b"x", mtime=LATER), symlink("s", "x", mtime=LATER), fifo("p", mtime=LATER)],
            [chardev("c", 1, 3, mtime=LATER), directory("d", mtime=LATER), file("old", mtime=0)],
            [directory("empty", mtime=1), file("far", b"x", mtime=5_000_000_000)],
        ],
        "~f ~s ~p ~c ~d ~old ~empty ~far",
    ),
    above(
        "a directory keeps its time when something in it comes or goes",
        [[directory("d", mtime=5), file("d/gone"), file("d/changed", b"1"), directory("d/e", mtime=6)], [file("top")]],
        [
            [directory("d", mtime=5), whiteout("d/gone"), file("d/changed", b"2"), directory("d/e", mtime=6)],
            [directory("d", mtime=5), directory("d/e", mtime=6), file("d/e/new"), file("d/new")],
        ],
        "-d/gone ~d/changed +d/e/new +d/new",
    ),
    above(
        "fractions of a second do not differ",
        [[*ROOT, file("f", b"x", mtime=EPOCH + 0.25), file("g", b"x", mtime=EPOCH + 0.25)]],
        [[file("f", b"x", mtime=EPOCH + 0.75), file("g", b"x", mtime=LATER + 0.5)]],
        "~g",
    ),
    above(
        "extended attributes",
        [
            [*ROOT, file("new", b"x"), file("other", b"x", xattrs={"user.a": b"1"})],
            [file("less", b"x", xattrs={"user.a": b"1", "user.b": b"2"}), directory("d")],
            [file("none", b"x", xattrs={"user.a": b"1"}), directory("e", xattrs={"user.a": b"1"}), symlink("s", "t")],
        ],
        [
            [file("new", b"x", xattrs={"user.a": b"\x00\xff\n=", "user.empty": b"", "user.big": b"x" * 3000})],
            [file("other", b"x", xattrs={"user.a": b"2"}), file("less", b"x", xattrs={"user.b": b"2"})],
            [file("none", b"x"), directory("d", xattrs={"user.a": b"1"}), directory("e")],
            [Member("s", symlink("s", "t").type, mode=0o777, target="t", xattrs={"trusted.mark": b"1"})],
        ],
        "~new ~other ~less ~none ~d ~e ~s",
    ),
    above(
        "file capabilities and access control lists",
        [[*ROOT, file("ping", b"x", 0o755), file("server", b"x", 0o755, xattrs=BIND), file("lost", b"x", xattrs=RAW)]],
        [
            [file("ping", b"x", 0o755, xattrs=RAW), file("server", b"x", 0o755, xattrs=RAW), file("lost", b"x")],
            [file("both", b"x", 0o755, 5, 6, xattrs=RAW | {"user.a": b"1"}), file("acl", b"x", 0o640, xattrs=ACL)],
        ],
        "~ping ~server ~lost +both +acl",
    ),
    above(
        "metadata of a directory that only a lower layer has",
        [[*ROOT, directory("d", 0o711, 5, 6, 7, {"user.a": b"1"}), file("d/a", b"1"), file("d/b")], [file("top")]],
        [
            [directory("d", 0o711, 5, 6, 7, {"user.a": b"1"}), file("d/a", b"2")],
            [directory("d", 0o711, 5, 6, 7, {"user.a": b"1"}), whiteout("d/b")],
        ],
        "~d/a -d/b",
    ),
    above(
        "device numbers",
        [[*ROOT, chardev("null", 1, 3), blockdev("disk", 8, 0), chardev("big", 4000, 1_000_000)]],
        [[chardev("null", 1, 5), blockdev("disk", 8, 1), chardev("big", 4000, 1_000_001), blockdev("loop", 7, 0)]],
        "~null ~disk ~big +loop",
    ),
]

KINDS: dict[str, Callable[[str], list[Member]]] = {
    "file": lambda path: [file(path, b"content")],
    "directory": lambda path: [directory(path), file(f"{path}/in", b"x"), directory(f"{path}/deep/er")],
    "symlink": lambda path: [symlink(path, "etc")],
    "fifo": lambda path: [fifo(path)],
    "char": lambda path: [chardev(path, 1, 3)],
    "block": lambda path: [blockdev(path, 7, 0)],
}
PAIRS = [(old, new) for old in KINDS for new in KINDS if old != new]


def _all(which: int, prefix: str = "") -> list[Member]:
    """Return a path for every pair of types, with the type before (0) or after (1) the change."""
    return [member for pair in PAIRS for member in KINDS[pair[which]](prefix + "-to-".join(pair))]


def _every_type_changes(kept: Sequence[str] = ()) -> set[str]:
    """Return the changes for all pairs; ``kept`` names directory entries that a lower layer shows."""
    changes = {"~" + "-to-".join(pair) for pair in PAIRS}
    for old, new in PAIRS:
        if new == "directory":
            changes |= {f"+{old}-to-directory/{name}" for name in ("in", "deep", "deep/er") if name not in kept}
    return changes


LOWER_DIRECTORIES = [
    member for pair in PAIRS for member in [directory("-to-".join(pair)), file("-to-".join(pair) + "/lower", b"x")]
]
LOWER_FILES = [file("-to-".join(pair), b"lower") for pair in PAIRS]
COMING_BACK = {f"+{old}-to-directory/lower" for old in KINDS if old != "directory"}

TYPES = [
    above(
        "every type comes",
        [ROOT],
        [[m for k in KINDS for m in KINDS[k](k)]],
        {f"+{k}" for k in KINDS} | {"+directory/in", "+directory/deep", "+directory/deep/er"},
    ),
    above(
        "every type goes",
        [ROOT, [m for k in KINDS for m in KINDS[k](k)]],
        [[whiteout(k) for k in KINDS]],
        {f"-{k}" for k in KINDS},
    ),
    above(
        "every type goes from a lower layer",
        [[m for k in KINDS for m in KINDS[k](k)], ROOT],
        [[whiteout(k) for k in KINDS]],
        {f"-{k}" for k in KINDS},
    ),
    above("every change of type, in the top layer", [ROOT, _all(0)], [_all(1)], _every_type_changes()),
    above("every change of type, in a lower layer", [_all(0), ROOT], [_all(1)], _every_type_changes()),
    above("every change of type, in both", [_all(0), ROOT, _all(0)], [_all(1)], _every_type_changes()),
    above("every change of type, over directories", [LOWER_DIRECTORIES, _all(0)], [_all(1)], _every_type_changes()),
    above("every change of type, over files", [LOWER_FILES, _all(0)], [_all(1)], _every_type_changes()),
    instead("every change of type, made anew", [ROOT, _all(0)], [[*_all(1), *ROOT]], _every_type_changes()),
    instead(
        "every change of type, over shared directories",
        [LOWER_DIRECTORIES, _all(0)],
        [LOWER_DIRECTORIES, _all(1)],
        _every_type_changes() | COMING_BACK,
    ),
    instead(
        "every change of type, over shared files", [LOWER_FILES, _all(0)], [LOWER_FILES, _all(1)], _every_type_changes()
    ),
    above(
        "every change of type, deep below",
        [_all(0, "p/q/"), ROOT],
        [_all(1, "p/q/")],
        {change[0] + "p/q/" + change[1:] for change in _every_type_changes()},
    ),
    above(
        "a directory is moved and a symlink takes its place",
        [[file("bin/ls", b"ls"), file("lib/c", b"c")], [file("bin/cat", b"cat"), file("usr/bin/vi", b"vi")]],
        [
            [whiteout("bin"), whiteout("lib"), file("usr/bin/ls", b"ls"), file("usr/bin/cat", b"cat")],
            [symlink("bin", "usr/bin"), symlink("lib", "usr/lib"), file("usr/lib/c", b"c")],
        ],
        "~bin ~lib +usr/bin/ls +usr/bin/cat +usr/lib +usr/lib/c",
        app=[[file("bin/app", b"app"), file("usr/bin/app", b"app")]],
    ),
    above(
        "and back again",
        [[symlink("bin", "usr/bin"), file("usr/bin/ls", b"ls")], [symlink("lib", "usr/lib"), file("usr/lib/c", b"c")]],
        [[directory("bin"), file("bin/ls", b"ls"), directory("lib"), whiteout("usr")], [file("lib/c", b"c")]],
        "~bin ~lib +bin/ls +lib/c -usr",
        app=[[file("bin/app", b"app"), file("usr/bin/app", b"app")]],
    ),
]

LINKS = [
    above(
        "a group comes, over several directories",
        [ROOT],
        [[file("z", b"x"), hardlink("a", "z"), hardlink("d/b", "z"), hardlink("etc/c", "z")]],
        "+z +a +d +d/b +etc/c",
    ),
    above(
        "links to symlinks, fifos and devices",
        [[*ROOT, symlink("s", "t"), hardlink("s2", "s"), fifo("p"), hardlink("p2", "p")]],
        [
            [symlink("s", "u"), hardlink("s2", "s"), fifo("p", 0o600), hardlink("p2", "p")],
            [chardev("c", 1, 3), hardlink("c2", "c"), symlink("n", "m"), hardlink("n2", "n")],
        ],
        "~s ~s2 ~p ~p2 +c +c2 +n +n2",
    ),
    above(
        "content and metadata of a group",
        [[*ROOT, file("a", b"1"), hardlink("b", "a"), file("c", b"x"), hardlink("d", "c")]],
        [[file("a", b"2"), hardlink("b", "a"), file("c", b"x", 0o4755, 5, xattrs=BIND), hardlink("d", "c")]],
        "~a ~b ~c ~d",
    ),
    above(
        "a member goes",
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), hardlink("c", "a")], [file("top")]],
        [[whiteout("a")]],
        "-a",
    ),
    above(
        "a member of the top layer's group goes",
        [ROOT, [file("a", b"x"), hardlink("b", "a"), hardlink("c", "a"), file("d", b"x"), hardlink("e", "d")]],
        [[whiteout("a"), whiteout("d")]],
        "-a -d",
    ),
    above(
        "a member gets its own content, another becomes a symlink",
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), hardlink("c", "a"), hardlink("d", "a")]],
        [[file("a", b"y"), symlink("c", "b")]],
        "~a ~c",
    ),
    instead(
        "a member is made anew with the same content",
        [[*ROOT, file("a", b"x"), hardlink("b", "a")]],
        [[*ROOT, file("a", b"x"), file("b", b"x")]],
        "~a",
    ),
    instead(
        "equal files become one",
        [[*ROOT, file("a", b"x"), file("b", b"x"), file("c", b"x")]],
        [[*ROOT, file("a", b"x"), file("b", b"x"), hardlink("c", "b")]],
        "~b ~c",
    ),
    instead(
        "a file joins a group",
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), file("c", b"x")]],
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), hardlink("c", "a")]],
        "~a ~b ~c",
    ),
    instead(
        "groups exchange members",
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), file("c", b"x"), hardlink("d", "c")]],
        [[*ROOT, file("a", b"x"), hardlink("c", "a"), file("b", b"x"), hardlink("d", "b")]],
        "~a ~b ~c ~d",
    ),
    instead(
        "a group moves",
        [[*ROOT, file("a", b"x"), hardlink("b", "a")], [file("top")]],
        [[*ROOT, file("top"), file("c", b"x"), hardlink("d/e", "c")]],
        "-a -b +c +d +d/e",
    ),
    instead(
        "a removed member comes back",
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), hardlink("c", "a")], [whiteout("a")]],
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), hardlink("c", "a")]],
        "+a ~b ~c",
    ),
    instead(
        "a member that a higher layer had replaced joins its group in a lower layer again",
        [[*ROOT, file("a", b"x"), hardlink("b", "a")], [file("b", b"y")]],
        [[*ROOT, file("a", b"x"), hardlink("b", "a")], [file("top")]],
        "~a ~b +top",
    ),
    above(
        "a new group over removed members of an old one",
        [[*ROOT, file("a", b"x"), hardlink("b", "a"), hardlink("c", "a")]],
        [[whiteout("a"), whiteout("c")], [file("c", b"y"), hardlink("a", "c"), hardlink("n", "c")]],
        "~a ~c +n",
    ),
    above(
        "a group in a directory that goes and comes back",
        [[*ROOT, file("d/a", b"x"), hardlink("d/b", "d/a"), hardlink("out", "d/a")]],
        [[whiteout("d")], [file("d/a", b"x"), hardlink("d/c", "d/a")]],
        "~d/a -d/b +d/c",
    ),
]

OPAQUE = [[*ROOT, file("d/low", b"low"), file("d/e/low")], [directory("d"), opaque("d"), file("d/top", b"top")]]
OVER = [
    above("over an opaque directory", OPAQUE, [[file("d/new"), file("d/top", b"new")]], "+d/new ~d/top"),
    above("opaque over opaque", OPAQUE, [[directory("d"), opaque("d"), file("d/x")]], "-d/top +d/x"),
    above("opaque and empty over opaque", OPAQUE, [[directory("d", 0o700), opaque("d")]], "~d -d/top"),
    above("opaque over merged", [OPAQUE[0], [file("d/top")]], [[directory("d"), opaque("d"), file("d/x")]],
          "-d/top -d/low -d/e +d/x"),
    instead("what an opaque directory hid comes back", OPAQUE, [OPAQUE[0]], "-d/top +d/low +d/e +d/e/low"),
    instead("and something else with it", OPAQUE, [OPAQUE[0], [file("d/low", b"new"), file("d/x")]],
            "-d/top +d/low +d/e +d/e/low +d/x"),
    above("an opaque directory goes", OPAQUE, [[whiteout("d")]], "-d"),
    above("an opaque directory becomes a file", OPAQUE, [[file("d")]], "~d"),
    above("an opaque directory goes and comes back", OPAQUE, [[whiteout("d")], [file("d/low", b"low")]],
          "-d/top +d/low"),
    above(
        "opaque below opaque",
        [
            [file("d/e/1"), file("d/1")],
            [directory("d"), opaque("d"), directory("d/e"), opaque("d/e"), file("d/e/2")],
        ],
        [[directory("d/e"), opaque("d/e"), file("d/e/3"), file("d/1")]],
        "-d/e/2 +d/e/3 +d/1",
    ),
    above(
        "opaque in layers between",
        [[file("d/1"), file("d/e/1")], [directory("d"), opaque("d"), file("d/2")], [file("d/3")], [file("x")]],
        [[directory("d"), opaque("d"), file("d/3", b"3")], [file("d/e/4")]],
        "-d/2 ~d/3 +d/e +d/e/4",
    ),
    instead(
        "opaque with nothing below",
        [[*ROOT], [directory("d"), opaque("d"), file("d/a", b"1"), file("d/b")]],
        [[*ROOT], [directory("d"), opaque("d"), file("d/a", b"2")]],
        "~d/a -d/b",
    ),
    instead("the same without being opaque", OPAQUE, [[*ROOT, file("d/top", b"top"), file("new")]], "+new"),
]  # fmt: skip

REMOVED = [
    above("from the top layer", [ROOT, [file("a"), file("d/in")]], [[whiteout("a"), whiteout("d")]], "-a -d"),
    above("from a lower layer", [[*ROOT, file("a"), file("d/in")], [file("x")]], [[whiteout("a"), whiteout("d")]],
          "-a -d"),
    above("from both", [[file("a"), file("d/in")], ROOT, [file("a", b"2"), file("d/other")]],
          [[whiteout("a"), whiteout("d")]], "-a -d"),
    above("from a directory that only a lower layer has", [[file("p/q/a"), file("p/q/b")], ROOT],
          [[whiteout("p/q/a")]], "-p/q/a"),
    above("all that a directory has", [[file("d/a"), file("d/b/c")], ROOT, [file("d/e")]],
          [[whiteout("d/a"), whiteout("d/b"), whiteout("d/e")]], "-d/a -d/b -d/e"),
    above("what was removed comes back", [[*ROOT, file("a", b"x"), file("d/in", b"x")], [whiteout("a"), whiteout("d")]],
          [[file("a", b"x"), file("d/in", b"x")]], "+a +d +d/in"),
    above("what was removed comes back as something else",
          [[*ROOT, file("a"), file("d/in"), file("e/in")], [whiteout("a"), whiteout("d"), whiteout("e")]],
          [[file("a/in"), symlink("d", "etc"), file("e/other")]], "+a +a/in +d +e +e/other"),
    instead("a whiteout is missing", [[*ROOT, file("a"), file("d/in")], [whiteout("a"), whiteout("d"), file("b")]],
            [[*ROOT, file("a"), file("d/in")], [file("b")]], "+a +d +d/in"),
    instead("a whiteout is new", [[*ROOT, file("a"), file("d/in")], [file("b")]],
            [[*ROOT, file("a"), file("d/in")], [whiteout("a"), whiteout("d"), file("b")]], "-a -d"),
    above("removed, back, and removed again", [[*ROOT, file("a", b"1"), file("d/in")], [file("b")]],
          [[whiteout("a"), whiteout("d")], [file("a", b"2"), file("d/new")], [whiteout("a"), whiteout("d/new")]],
          "-a -d/in"),
    above("beside a whiteout that stays", [[*ROOT, file("d/a"), file("d/b")], [whiteout("d/a"), file("d/c")]],
          [[whiteout("d/b"), whiteout("d/c")]], "-d/b -d/c"),
    above("what is gone already", [[*ROOT, file("d/a"), file("b")], [whiteout("d/a")]],
          [[whiteout("d/a"), whiteout("b")]], "-b"),
    above("a removed directory becomes new with a part of it", [[*ROOT, file("d/a", b"x"), file("d/b"), file("d/c/e")]],
          [[whiteout("d")], [file("d/a", b"x"), directory("d/c")]], "-d/b -d/c/e"),
]  # fmt: skip

MANY = [[file("n", b"0"), file("sum", b"")], *([file("n", b"%d" % n), file(f"d/{n}", b"x")] for n in range(1, 40))]
STACKS = [
    above("a base of one layer", [ROOT], [[file("keep", b"2"), whiteout("etc/keep"), file("a")]],
          "~keep -etc/keep +a"),
    instead("a base of one layer, made anew", [ROOT], [[file("keep", b"2"), directory("etc"), file("a")]],
            "~keep -etc/keep +a"),
    above("an empty layer on top of the base", [ROOT, []], [[file("keep", b"2"), whiteout("etc/keep")]],
          "~keep -etc/keep"),
    above("empty layers in the target", [ROOT, [file("a")], []], [[], [file("a", b"2"), whiteout("keep")], []],
          "~a -keep"),
    above("a base that shows nothing", [[], []], [[file("a"), file("d/b")]], "+a +d +d/b"),
    instead("a target that shows nothing", [ROOT, [file("a")]], [[]], "-keep -etc -a"),
    above("a base of 40 layers", MANY,
          [[file("n", b"new"), whiteout("d/7"), whiteout("d/39"), directory("d/7"), file("d/7/in")]],
          "~n ~d/7 +d/7/in -d/39"),
    above("ten layers on top", [ROOT], MANY[:10], {"+n", "+sum", "+d", *(f"+d/{n}" for n in range(1, 10))}),
    instead("layers in place of others", [ROOT, *MANY[:8]], [ROOT, *MANY[:4], [file("x")], *MANY[4:8], [whiteout("d")]],
            "+x -d"),
    instead("a target that shares only lower layers", [ROOT, [file("a", b"1"), file("b")], [file("c")]],
            [ROOT, [file("a", b"2")], [file("c", b"2"), whiteout("keep")]], "~a -b ~c -keep"),
    instead("a target that shares nothing", [ROOT, [file("a", b"1"), file("d/b")]],
            [[file("etc/keep", b"keep"), file("a", b"2"), directory("d"), symlink("keep", "a")]], "~a -d/b ~keep"),
    instead("a target that the base is built on", [ROOT, [file("a"), whiteout("keep"), file("etc/keep", b"2")]],
            [ROOT], "-a +keep ~etc/keep"),
    instead("the base's layers in another order", [ROOT, [file("a", b"1")], [file("a", b"2"), file("b")]],
            [ROOT, [file("a", b"2"), file("b")], [file("a", b"1")]], "~a"),
]  # fmt: skip

CHANGING = [
    file("d/changed", b"1"), file("d/gone", b"1"), file("d/kept", b"1"), file("to-dir", b"1"), file("to-file/in", b"1"),
    file("to-link/in", b"1"), file("gone/in", b"1"),
]  # fmt: skip
CHANGED = [
    file("d/changed", b"2"), whiteout("d/gone"), file("d/new", b"2"), file("to-dir/in", b"2"), file("to-file", b"2"),
    symlink("to-link", "d"), whiteout("gone"),
]  # fmt: skip
CHANGES = "~d/changed -d/gone +d/new ~to-dir +to-dir/in ~to-file ~to-link -gone"
SHADOWS = [
    above("an application that adds to every directory", [ROOT, CHANGING], [CHANGED], CHANGES,
          app=[[file(f"{name}/own", b"a") for name in ("d", "to-file", "to-link", "gone", "to-dir")]]),
    above("an application with files of the same names", [CHANGING, ROOT], [CHANGED], CHANGES,
          app=[[file(name, b"a") for name in ("d/changed", "d/gone", "d/new", "to-dir", "to-file", "gone")]]),
    above("an application that removed the same paths", [CHANGING, ROOT, CHANGING], [CHANGED], CHANGES,
          app=[[whiteout(name) for name in ("d/changed", "d/gone", "to-dir", "to-file", "to-link", "gone")]]),
    above("an application with opaque directories", [ROOT, CHANGING], [CHANGED], CHANGES,
          app=[[m for name in ("d", "to-file", "gone", "to-dir") for m in (directory(name), opaque(name),
                file(f"{name}/own", b"a"))]]),
    above("an application in several layers", [ROOT, CHANGING], [CHANGED], CHANGES,
          app=[[whiteout("d")], [file("d/changed", b"a"), file("d/app"), hardlink("d/app2", "d/app")], [],
               [directory("gone", 0o700), chardev("to-dir", 1, 3), symlink("d/new", "app")]]),
]  # fmt: skip

CASES = [*NAMES, *CONTENT, *METADATA, *TYPES, *LINKS, *OVER, *REMOVED, *STACKS, *SHADOWS]
