"""A private Docker engine with userns-remap, whose ranges are nobody else's."""

from __future__ import annotations

from tests.support.engine import Engine

FIRST, COUNT = 100_000, 65_536
# only the daemon sees these files in /etc
BEFORE = 'for file in subuid subgid; do mount --bind "$1/ranges" "/etc/$file"; done; shift; exec "$@"'


class UsernsEngine(Engine):
    def _command(self) -> list[str]:
        self.run_dir.chmod(0o711)
        (self.run_dir / "ranges").write_text(f"nobody:{FIRST}:{COUNT}\n")
        return [*super()._command(), "--userns-remap=nobody:nogroup"]

    def _tied(self, *command: str) -> list[str]:
        return super()._tied("unshare", "--mount", "sh", "-c", BEFORE, "sh", str(self.run_dir), *command)
