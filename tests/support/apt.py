"""
The Debian mirrors that this machine's apt is configured to use.

Read from apt's configuration alone: lists that are missing, incomplete or old change nothing.
``python -m tests.support.apt SUITE`` prints the mirror of a release.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# A mirror that lags, and a machine whose clock is ahead, are no reason to fail.
UPDATE = ("--option=Acquire::Check-Valid-Until=false", "update")
COMPONENT = "main"
# Releases that Debian's mirrors also offer under these names.
ALIASES = ("stable", "testing", "unstable", "sid")
INDEX = re.compile(r"'(\S+/)dists/(\S+)/([^/\s]+)/binary-[^/\s]+/Packages")
MIRROR_LIST = "mirror+file:"


@dataclass(frozen=True)
class Source:
    """One ``deb`` line of a sources.list."""

    mirror: str
    suite: str
    component: str = COMPONENT

    def __str__(self) -> str:
        return f"deb {self.mirror} {self.suite} {self.component}"


class MirrorMissing(Exception):
    """This machine's apt is configured for no mirror of Debian."""


def sources(suite: str) -> list[Source]:
    """
    The release first, then its stable updates and its security updates, as far as apt is configured for them.

    The mirrors of the machine's own release serve every other release, too. Raises MirrorMissing.
    """
    configured = _configured()
    names = (suite, platform.freedesktop_os_release().get("VERSION_CODENAME", suite), *ALIASES)
    pockets = ("",) if suite in ("unstable", "sid") else ("", "-updates", "-security")
    # Others offer packages under a release's name, too, but no updates of the release, and not in Debian's directory.
    updated = {source.mirror for source in configured if source.suite.endswith("-updates")}
    configured.sort(key=lambda source: (source.mirror not in updated, not source.mirror.endswith("/debian/")))
    selected = []
    for pocket in pockets:
        mirrors = [source.mirror for name in names for source in configured if source.suite == name + pocket]
        selected += [Source(mirror, suite + pocket) for mirror in mirrors[:1]]
    if not selected or selected[0].suite != suite:
        raise MirrorMissing(f"this machine's apt has no mirror of Debian {suite}; add one to /etc/apt/sources.list.d")
    return selected


def _configured() -> list[Source]:
    """Every source of packages of the component, in no order."""
    # The lock belongs to whoever fetches lists, and nothing is fetched here.
    command = ["apt-get", "--option=Debug::NoLocking=true", "update", "--print-uris"]
    printed = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, check=True, capture_output=True, text=True)
    indexes = [Source(*match.groups()) for match in map(INDEX.match, printed.stdout.splitlines()) if match]
    return [
        Source(_resolved(source.mirror), source.suite)
        for source in dict.fromkeys(indexes)
        if source.component == COMPONENT
    ]


def _resolved(mirror: str) -> str:
    """The first mirror of a list of mirrors (apt-transport-mirror(1)); any other is returned as it is."""
    if not mirror.startswith(MIRROR_LIST):
        return mirror
    path = Path("/" + mirror.removeprefix(MIRROR_LIST).strip("/"))
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return next(words[0] for words in lines if words and not words[0].startswith("#")).rstrip("/") + "/"


if __name__ == "__main__":
    try:
        print(sources(sys.argv[1])[0].mirror)
    except MirrorMissing as error:
        sys.exit(f"apt: {error}")
