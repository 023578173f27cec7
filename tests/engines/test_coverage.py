"""Coverage of the answer "base absent": every engine, namespace and snapshotter of the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.engine import detect
from tests.engines.node import BASE, Node
from tests.support.containerd import ContainerdEngine
from tests.support.engine import Engine
from tests.support.minion import Minion
from tests.support.podman import PodmanEngine

pytestmark = pytest.mark.functional
Listen = Callable[..., Minion]


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.cells(lambda cell: cell.kind == kind and cell.file_system == "here")


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Listen:
    """Return a function that makes a minion with these engines at the default addresses."""

    def listen(*engines: Engine, **pillar: Any) -> Minion:
        places: dict[str, tuple[str, ...]] = {"docker": (), "podman": (), "containerd": ()}
        for engine in engines:
            if isinstance(engine, ContainerdEngine):
                places["containerd"] = (str(engine.socket),)
            else:
                places["podman" if isinstance(engine, PodmanEngine) else "docker"] = (engine.url,)
        monkeypatch.setattr(detect, "_ADDRESSES", places)
        return Minion(tmp_path / "minion", pillar={"baseimg": pillar})

    return listen


def converged(minion: Minion, name: str = BASE) -> dict[str, Any]:
    done: dict[str, Any] = minion.states["baseimg.converged"](name=name, version="12.1")
    return done


def coverage(minion: Minion, name: str = BASE) -> dict[str, list[str]]:
    with pytest.raises(CommandExecutionError) as caught:
        minion.modules["baseimg.converge"](name, "12.1")
    assert caught.value.info["code"] == "base-absent"
    covered: dict[str, list[str]] = caught.value.info["coverage"]
    return covered


@only("podman")
class TestEngines:
    def test_a_base_in_another_engine_is_no_success(self, engine: Engine, node: Node, listen: Listen) -> None:
        node.load(BASE)
        minion = listen(engine, node.engine)
        done = converged(minion)
        assert done["result"] is False
        assert f"podman at {node.engine.url}" in done["comment"]
        assert coverage(minion) == {
            "examined": [f"docker at {engine.url}"],
            "elsewhere": [f"podman at {node.engine.url}"],
            "unexamined": [],
        }

    def test_a_base_in_none_of_them(self, engine: Engine, node: Node, listen: Listen) -> None:
        minion = listen(engine, node.engine)
        done = converged(minion)
        assert (done["result"], done.get("warnings", [])) == (True, [])
        examined = [f"docker at {engine.url}", f"podman at {node.engine.url}"]
        assert coverage(minion) == {"examined": examined, "elsewhere": [], "unexamined": []}

    def test_an_engine_that_is_refused(self, engine: Engine, node: Node, listen: Listen, tmp_path: Path) -> None:
        with PodmanEngine(tmp_path / "engine", "vfs", tree=node.cell.tree) as other:
            done = converged(listen(engine, other))
            assert done["result"] is True
            (warning,) = done["warnings"]
            assert f"podman at {other.url}" in warning
            assert "storage driver is 'vfs'" in warning


@only("containerd")
class TestContainerd:
    def test_a_mistyped_namespace(self, node: Node, listen: Listen) -> None:
        node.load(BASE)
        minion = listen(node.engine, engine={**node.cell.declared(node.engine), "namespace": "k8s.oi"})
        place = f"containerd at {node.engine.socket}"  # type: ignore[attr-defined]
        done = converged(minion)
        assert done["result"] is False
        assert f"{place}, namespace k8s.io" in done["comment"]
        assert coverage(minion)["examined"] == [f"{place}, namespace k8s.oi"]

    def test_another_snapshotter(self, node: Node, listen: Listen) -> None:
        assert isinstance(node.engine, ContainerdEngine)
        minion = listen(node.engine, engine=node.cell.declared(node.engine))
        node.load(BASE)
        archive = str(node.work / "native.tar")
        node.engine.ctr("images", "export", archive, BASE)
        node.engine.remove_all()
        assert converged(minion).get("warnings", []) == []
        node.engine.ctr("images", "import", "--snapshotter=native", archive)
        (warning,) = converged(minion, node.chain_id(BASE))["warnings"]
        assert "snapshotter native" in warning
