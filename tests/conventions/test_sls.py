"""Salt's loader renders every SLS; the names, arguments and requisites of its states are valid."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.model.rollout import policy
from tests.support.minion import Minion
from tests.support.sources import REPO

BASE = "corp/base:12.0"
BUNDLE = "/srv/salt/baseimg/bundles/corp-base_12.0_12.1.tar"
DIGEST = "sha256:" + "1" * 64
# No test here may reach the machine's own engine.
NO_ENGINE = "unix:///nonexistent/docker.sock"
EXAMPLE = {
    "baseimg": {
        "bases": {
            BASE: {
                "version": "12.10",
                "bundles": {"12.10": {"source": "salt://baseimg/bundles/b.tar", "hash": DIGEST}},
                "chain_id": DIGEST,
                "missing": "fail",
                "repair": True,
                "protect": ["corp/legacy:*", "*@x: y"],
                "accept": ["corp/old:*"],
                "keep": 2,
                "containers": {"mode": "restart", "except": ["label=critical"], "probe": {"url": "http://127.0.0.1/"}},
            },
            "host:5000/other:1": {"version": "true"},
        },
        "builds": {
            BUNDLE: {"source": "corp/base:12.0", "target": "corp/base:12.1"},
            "/srv/other.tar": {
                "source": "a:1",
                "target": "a:2",
                "version": "12.10",
                "compression": "gzip",
                "key": "/k",
            },
        },
    },
    "rollout": {
        "base": BASE,
        "from": "12.0",
        "nodes": ["node1", "node2", "node3", "node4"],
        "batch": 2,
        "check": "true",
    },
}
SALT = sorted((REPO / "salt").rglob("*.sls"))
NAMES = [".".join(path.relative_to(REPO / "salt").with_suffix("").parts).removesuffix(".init") for path in SALT]
PILLARS = {"empty": {}, "nothing declared": {"baseimg": {}}, "example": EXAMPLE}


@pytest.fixture(scope="module")
def minion(tmp_path_factory: pytest.TempPathFactory) -> Minion:
    return Minion(tmp_path_factory.mktemp("minion"), NO_ENGINE)


def show(minion: Minion, name: str, pillar: dict[str, Any]) -> Any:
    minion.configure(pillar=pillar)
    return minion.modules["state.show_sls"](name)


def test_every_sls_is_found() -> None:
    assert {"baseimg", "baseimg.build"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pillar", PILLARS.values(), ids=PILLARS.keys())
def test_renders(minion: Minion, name: str, pillar: dict[str, Any]) -> None:
    states = show(minion, name, pillar)
    assert isinstance(states, dict), states
    for identifier, state in states.items():
        assert state["__sls__"] == name, identifier
    if pillar is not EXAMPLE and name.startswith("baseimg"):
        assert states == {}


@pytest.fixture(scope="module")
def specs(minion: Minion) -> dict[str, Any]:
    """Return the arguments of our states; module-scoped, since Salt loads all of its states for them."""
    return minion.modules["sys.state_argspec"]("baseimg")  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_states_requisites_and_arguments_are_sound(minion: Minion, specs: dict[str, Any], name: str) -> None:
    minion.configure(pillar=EXAMPLE)
    chunks = minion.modules["state.show_low_sls"](name)
    assert chunks
    for chunk in chunks:
        assert isinstance(chunk, dict), chunk
        function = f"{chunk['state']}.{chunk['fun']}"
        assert function in minion.states
        if chunk["state"] == "baseimg":
            given = {key for key in chunk if not key.startswith("__")} - {"state", "fun", "order"}
            assert given <= set(specs[function]["args"])


def test_live_paths_reach_the_policy_for_containers(minion: Minion) -> None:
    declared = {"baseimg": {"bases": {BASE: {"version": "12.1", "live": ["/etc/services"]}}}}
    bases = _arguments(show(minion, "baseimg", declared))
    assert bases[BASE]["containers"] == {"mode": "keep", "live": ["/etc/services"]}


def _arguments(states: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name -> arguments of every state."""
    arguments_by_state = {}
    for state in states.values():
        arguments = {key: value for part in state["baseimg"] if isinstance(part, dict) for key, value in part.items()}
        arguments_by_state[arguments["name"]] = arguments
    return arguments_by_state


def test_pillar_reaches_the_states_unchanged(minion: Minion) -> None:
    bases = _arguments(show(minion, "baseimg", EXAMPLE))
    assert bases[BASE] == {"name": BASE, **EXAMPLE["baseimg"]["bases"][BASE], "order": bases[BASE]["order"]}
    assert bases["host:5000/other:1"]["version"] == "true"
    assert bases["host:5000/other:1"]["missing"] == "ok"
    assert bases["host:5000/other:1"]["protect"] == []
    builds = _arguments(show(minion, "baseimg.build", EXAMPLE))
    assert builds[BUNDLE]["version"] is None
    assert builds[BUNDLE]["compression"] == "zstd"
    assert builds["/srv/other.tar"]["version"] == "12.10"
    assert (builds[BUNDLE]["key"], builds["/srv/other.tar"]["key"]) == (None, "/k")


@pytest.mark.parametrize("name", ["baseimg", "baseimg.build"])
@pytest.mark.parametrize(
    ("pillar", "key"),
    [
        ({"baseimg": {"bases": {BASE: {"version": 12.1}}}}, f"baseimg:bases:{BASE}:version"),
        ({"baseimg": {"builds": {BUNDLE: {"source": "a:1"}}}}, f"baseimg:builds:{BUNDLE}:target"),
        ({"baseimg": ["x"]}, "baseimg"),
    ],
)
def test_a_mistake_in_pillar_fails_one_state_and_no_other(
    minion: Minion, name: str, pillar: dict[str, Any], key: str
) -> None:
    (state,) = show(minion, name, pillar).values()
    given = _given(state["test"])
    assert given["name"] == given["comment"]
    assert "fail_without_changes" in state["test"]
    assert given["comment"].startswith(f"[argument-invalid] {key} is ")


def test_the_published_tree_has_no_top_file(tmp_path: Path) -> None:
    """A top.sls in the published tree would merge with the operator's, or replace it."""
    names = {path.name for path in (REPO / "salt").iterdir()}
    assert names == {"_beacons", "_engines", "_grains", "_modules", "_runners", "_states", "_utils", "baseimg", "orch"}
    own = tmp_path / "srv"
    own.mkdir()
    (own / "top.sls").write_text("base:\n  '*':\n    - site\n")
    for roots in ([str(own), str(REPO / "salt")], [str(REPO / "salt"), str(own)]):
        operator = Minion(tmp_path / "minion", NO_ENGINE, file_roots={"base": roots})
        assert operator.modules["state.show_top"]() == {"base": ["site"]}


class TestPillar:
    """The example in pillar/ works unchanged."""

    @pytest.fixture
    def example(self, tmp_path: Path) -> Minion:
        return Minion(tmp_path, NO_ENGINE, pillar_roots={"base": [str(REPO / "pillar")]})

    @pytest.mark.parametrize("path", sorted((REPO / "pillar").rglob("*.sls")), ids=lambda path: path.name)
    def test_renders(self, example: Minion, path: Path) -> None:
        assert isinstance(example.modules["slsutil.renderer"](str(path)), dict)

    def test_it_is_accepted(self, example: Minion) -> None:
        pillar = example.modules["pillar.items"]()
        assert BASE in pillar["baseimg"]["bases"]
        example.opts["pillar"] = pillar
        example.configure()
        assert example.modules["baseimg.declared"]()[BASE]["missing"] == "ok"
        assert set(_arguments(example.modules["state.show_sls"]("baseimg"))) == {BASE}

    def test_what_is_commented_out_is_sound_too(self, example: Minion) -> None:
        """The commented example shows every key; without the explanations after its values it is valid YAML."""
        lines = (REPO / "pillar/baseimg.sls").read_text().split("\n")
        start, end = (
            lines.index("# baseimg:"),
            next(number for number, line in enumerate(lines) if "If no bundle" in line),
        )
        text = "\n".join(_uncommented(line) for line in lines[start:end]).replace("sha256:…", DIGEST)
        pillar = example.modules["slsutil.deserialize"]("yaml", text)
        example.opts["pillar"] = pillar
        example.configure()
        for what in ("bases", "builds"):
            assert example.modules["baseimg.declared"](what)
        base = pillar["baseimg"]["bases"][BASE]
        assert set(base) == {
            *("version", "bundles", "chain_id", "missing", "repair", "containers", "live", "below", "keep"),
            *("protect", "accept", "impaired", "breaks", "ghosts", "require", "trial"),
        }
        assert set(policy.merged(pillar["baseimg"]["rollout"])) == set(pillar["baseimg"]["rollout"])
        (build,) = pillar["baseimg"]["builds"].values()
        assert set(build) == {"source", "target", "version", "compression", "key", "delta", "fixes"}


def _uncommented(line: str) -> str:
    text = line.removeprefix("#").removeprefix(" ")
    indent = len(text) - len(text.lstrip())
    if "  " not in text.lstrip() and text.lstrip()[:1].isupper():
        return ""
    return " " * indent + text.lstrip().split("  ")[0] if ":" in text else ""


@pytest.mark.parametrize("text", ["a b", "it's", 'say "x"', "a: b", "a #1", "- a", "{a}", "12", "[a, b]", "*a", "ä"])
def test_any_text_can_be_a_name(minion: Minion, text: str) -> None:
    """Names that YAML could parse as another type stay text."""
    pillar = {
        "baseimg": {
            "bases": {text: {"version": text}},
            "builds": {f"/srv/{text}.tar": {"source": text, "target": text}},
        }
    }
    assert _arguments(show(minion, "baseimg", pillar))[text]["version"] == text
    assert _arguments(show(minion, "baseimg.build", pillar))[f"/srv/{text}.tar"]["target"] == text


class TestMistakesInArguments:
    """Arguments given without pillar are checked too, before any request to an engine."""

    @pytest.mark.parametrize(
        ("function", "arguments", "key"),
        [
            ("converged", {"name": BASE, "version": 12.1}, f"{BASE}:version"),
            ("converged", {"name": BASE, "version": "1", "bundles": {"1": "x"}}, f"{BASE}:bundles:1"),
            ("converged", {"name": BASE, "version": "1", "chain_id": "x"}, f"{BASE}:chain_id"),
            ("converged", {"name": BASE, "version": "1", "missing": "x"}, "missing"),
            ("built", {"name": BUNDLE, "source": "", "target": "a:1"}, "image"),
        ],
    )
    @pytest.mark.parametrize("test", [False, True])
    def test_states(self, minion: Minion, function: str, arguments: dict[str, Any], key: str, test: bool) -> None:
        minion.configure(pillar={}, test=test)
        ret = minion.states[f"baseimg.{function}"](**arguments)
        minion.configure(test=False)
        assert ret["result"] is False
        assert ret["changes"] == {}
        assert ret["comment"].startswith(f"[argument-invalid] {key} is ")
        assert not ret["comment"].rstrip().endswith("--")

    @pytest.mark.parametrize("function", ["plan", "converge"])
    def test_functions(self, minion: Minion, function: str) -> None:
        with pytest.raises(CommandExecutionError) as failure:
            minion.modules[f"baseimg.{function}"](BASE, 12.1)
        assert failure.value.info["code"] == "argument-invalid"


def test_nothing_in_the_file_root_is_left_out_by_accident() -> None:
    names = {os.path.relpath(path, REPO / "salt") for path in SALT}
    assert all(name.startswith(("baseimg/", "orch/")) for name in names)


class TestOrchestration:
    def test_waves_follow_one_another(self, minion: Minion) -> None:
        states = show(minion, "orch.waves", EXAMPLE)
        waves = {name: _given(state["salt"]) for name, state in states.items()}
        assert {name: wave["tgt"] for name, wave in waves.items()} == {
            "baseimg wave 1": ["node1"],
            "baseimg canary is well": ["node1"],
            "baseimg wave 2": ["node2", "node3"],
            "baseimg wave 3": ["node4"],
        }
        assert all((wave["tgt_type"], wave["expect_minions"]) == ("list", True) for wave in waves.values())
        assert [list(wave.values()) for wave in waves["baseimg wave 2"]["require"]] == [
            ["baseimg wave 1"],
            ["baseimg canary is well"],
        ]

    @pytest.mark.parametrize("name", ["orch.waves", "orch.rollback"])
    def test_without_nodes_nothing_succeeds(self, minion: Minion, name: str) -> None:
        (state,) = show(minion, name, {}).values()
        assert "fail_without_changes" in state["test"]


def _given(state: list[Any]) -> dict[str, Any]:
    return {key: value for part in state if isinstance(part, dict) for key, value in part.items()}


class TestReactor:
    PATH = REPO / "reactor/baseimg.sls"

    @pytest.mark.parametrize("node", ["web1.example.com", "a: b", "x' *"])
    def test_asks_the_runner_about_the_node_of_the_event(self, minion: Minion, node: str) -> None:
        tag = f"salt/minion/{node}/start"
        (reaction,) = minion.modules["slsutil.renderer"](str(self.PATH), data={"id": node}, tag=tag).values()
        assert _given(_given(reaction["runner.baseimg.arrived"])["args"]) == {"tag": tag, "id": node}

    def test_notifies_a_web_hook(self, minion: Minion) -> None:
        data = {"id": "1", "base": "corp/base:12.0", "version": "12.1", "text": 'halted: it\'s "bad"'}
        path = str(REPO / "reactor/notify.sls")
        (reaction,) = minion.modules["slsutil.renderer"](path, data=data).values()
        query = _given(_given(reaction["runner.http.query"])["args"])
        assert (query["method"], query["url"]) == ("POST", "http://localhost:9095/rollouts")
        assert json.loads(query["data"]) == {
            "rollout": "1",
            **{key: data[key] for key in ("base", "version", "text")},
        }
