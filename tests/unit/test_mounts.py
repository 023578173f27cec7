"""Lines of mountinfo: every form in which an overlay names its layers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baseimg_core.engine import mounts
from tests.support import mounts as support

LINE = b"812 700 0:61 / /merged rw,relatime master:1 - overlay overlay rw,%b,upperdir=/up,workdir=/work"


@pytest.mark.parametrize(
    ("options", "lower"),
    [
        (b"lowerdir=/a:/b", (b"/a", b"/b")),
        (b"lowerdir=l/AB:l/CD", (b"l/AB", b"l/CD")),
        # fsconfig(2), Linux 6.8: one option for each layer, in which a colon stands for itself
        (b"lowerdir+=/a:1,lowerdir+=/b", (b"/a:1", b"/b")),
        (b"lowerdir+=/a,datadir+=/data", (b"/a", b"/data")),
        (b"lowerdir=/a::/data", (b"/a", b"/data")),
        (rb"lowerdir=/a\:1:/b", (b"/a:1", b"/b")),
        # mountinfo escapes a blank, a comma and a backslash
        (rb"lowerdir=/a\040b:/c\054d:/e\134:f", (b"/a b", b"/c,d", b"/e:f")),
    ],
)
def test_the_layers_of_an_overlay(options: bytes, lower: tuple[bytes, ...]) -> None:
    mount = mounts.parse(LINE % options, 1, "mnt:[1]")
    assert (mount.lower, mount.options[b"upperdir"], mount.point) == (lower, b"/up", b"/merged")


@pytest.mark.parametrize("white", ["\r", "\v", "\f", "\x1c", " ", "\t", "\n", "\\"], ids=range(8))
def test_a_mount_point_with_white_space(white: str, tmp_path: Path) -> None:
    """The kernel escapes a part of them. A user with a namespace can mount so, and operations read all mounts."""
    point = os.fsencode(tmp_path / f"q{white}1 1 0:1 / /y")
    os.makedirs(point)
    support.mount(b"", point, b"tmpfs")  # an empty source is an empty field
    try:
        (mount,) = (mount for mount in mounts.read_mounts(os.getpid()) if mount.point == point)
        assert (mount.kind, mount.root) == ("tmpfs", b"/")
    finally:
        support.unmount(point)
