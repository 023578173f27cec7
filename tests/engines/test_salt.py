"""Each installed Salt release: sync, apply and roll back with its `salt-call`, on each local engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines import conftest
from tests.engines.cells import Cell, here
from tests.engines.node import APP, BASE, NEW, Node
from tests.support.minion import REPO, Minion

pytestmark = pytest.mark.functional

# conftest.py does not collect this file if the variable is not set
SALTS = sorted(Path(os.environ.get("BASEIMG_SALTS", "/nonexistent")).glob("*/bin/salt-call"))


class Call:
    """`salt-call --local` of one release, on a separate minion that syncs from this checkout."""

    def __init__(self, program: Path, root: Path, pillar: dict[str, Any]) -> None:
        self._program, self._conf = program, root / "conf"
        (root / "pillar").mkdir()
        (root / "pillar/top.sls").write_text(json.dumps({"base": {"*": ["all"]}}))
        (root / "pillar/all.sls").write_text(json.dumps(pillar))
        self._conf.mkdir()
        options = {
            "root_dir": str(root),
            "id": "minion",
            "file_client": "local",
            "file_roots": {"base": [str(REPO / "salt")]},
            "pillar_roots": {"base": [str(root / "pillar")]},
            "fileserver_list_cache_time": 0,
            "enable_fqdns_grains": False,
        }
        (self._conf / "minion").write_text(json.dumps(options))

    def __call__(self, function: str, *arguments: str) -> Any:
        command = [str(self._program), "--local", f"--config-dir={self._conf}", "--out=json", "--retcode-passthrough"]
        done = subprocess.run([*command, function, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["local"]


@pytest.mark.parametrize("program", SALTS, ids=lambda program: program.parent.parent.name)
@pytest.mark.parametrize("cell", here(), ids=str)
def test_the_whole_way(cell: Cell, program: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with cell.engine(tmp_path) as engine:
        node = Node(
            cell,
            engine,
            Minion(tmp_path / "minion", pillar={"baseimg": {"engine": cell.declared(engine)}}),
            tmp_path,
            request.node.nodeid,
        )
        node.load()
        bases = {BASE: {"version": "12.1", "bundles": {"12.1": {"source": node.bundle()}}}}
        call = Call(program, tmp_path, {"baseimg": {"engine": cell.declared(engine), "bases": bases}})
        conftest.CELLS[request.node.callspec.id] = {
            "kind": cell.kind,
            "suite": cell.suite,
            "version": node.call("engines")[0]["version"],
            "file_system": cell.named(engine.root),
            "salt": call("test.version"),
        }
        assert "modules.baseimg" in call("saltutil.sync_all")["modules"]
        assert call("baseimg.engines")[0]["supported"] is True
        node.start("running")
        (state,) = [
            state_result for state_result in call("state.apply", "baseimg").values() if BASE in state_result["name"]
        ]
        assert state["result"] is True
        assert state["changes"]
        assert call("baseimg.status", BASE)["bases"][0]["version"] == "12.1"
        assert (node.version(), node.version_in("running")) == ("12.1", "12.0")
        assert call("baseimg.verify", BASE, "deep=True")[0]["pristine"] == "proven"
        (state,) = [
            state_result for state_result in call("state.apply", "baseimg").values() if BASE in state_result["name"]
        ]
        assert (state["result"], state["changes"]) == (True, {})
        call("baseimg.build", BASE, NEW, str(tmp_path / "again.tar"))
        assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "bundle.tar").read_bytes()
        assert call("baseimg.rollback", BASE)["to"] == "12.0"
        assert node.version(APP) == "12.0"
