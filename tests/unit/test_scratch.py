"""Scratch directories: deleted at the end, and those of killed processes by the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from baseimg_core.linux.scratch import scratch_directory

HOLD = """
import sys
from baseimg_core.linux.scratch import scratch_directory
with scratch_directory(sys.argv[1]) as path:
    open(path + "/layer", "w").close()
    print(path, flush=True)
    sys.stdin.read()
"""


def test_of_killed_and_of_running_processes(tmp_path: Path) -> None:
    for name in ("baseimg-0.2.0", "baseimg-rpm-1"):  # not ours to delete
        (tmp_path / name).mkdir()
    (tmp_path / "baseimg-spool-link").symlink_to(tmp_path / "baseimg-0.2.0")
    others = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, env={"PYTHONPATH": "_utils"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        held = Path(process.stdout.readline().strip())
        with scratch_directory(str(tmp_path)) as own:
            assert Path(own).parent == tmp_path
            assert (held / "layer").exists()
        assert sorted(tmp_path.iterdir()) == sorted([*others, held])
        process.kill()
    assert held.exists()
    with scratch_directory(str(tmp_path)):
        assert not held.exists()
    assert sorted(tmp_path.iterdir()) == others
