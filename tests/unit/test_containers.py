"""The container policy and the restart rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.disk.containers import journal
from baseimg_core.disk.containers.journal import Journal
from baseimg_core.errors import ArgumentInvalid, RecordInvalid
from baseimg_core.model.containers.plan import Restarts, plan_restarts
from baseimg_core.model.containers.policy import ContainerPolicy, Probe, Selector, parse

RESTART = ContainerPolicy("restart")
COMPOSE = "com.docker.compose."


@dataclass(frozen=True)
class FakeContainer:
    """A container, with the fields that the rules read."""

    id: str
    name: str = ""
    state: str = "running"
    auto_remove: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    shares: Sequence[str] = ()


def make_container(name: str, **more: Any) -> FakeContainer:
    return FakeContainer(name, name, **more)


def service(name: str, *needs: str, project: str = "shop", **more: Any) -> FakeContainer:
    labels = {COMPOSE + "project": project, COMPOSE + "service": name}
    labels[COMPOSE + "depends_on"] = ",".join(f"{need}:service_started:false" for need in needs)
    return make_container(more.pop("id", name), labels=labels, **more)


def names(plan: Restarts[FakeContainer]) -> list[list[list[str]]]:
    return [[[member.id for member in group] for group in batch] for batch in plan.batches]


def plan(
    *containers: FakeContainer, unknown: Sequence[str] = (), concerned: Sequence[str] | None = None, **policy: Any
) -> Any:
    ids = [container.id for container in containers] if concerned is None else concerned
    return plan_restarts(containers, ids, unknown, parse({"mode": "restart", **policy}))


class TestPolicy:
    @pytest.mark.parametrize("raw", [None, "keep", {}, {"mode": "keep"}])
    def test_the_default_touches_nothing(self, raw: object) -> None:
        assert parse(raw) == ContainerPolicy()
        assert not parse(raw).restarts

    def test_everything(self) -> None:
        parsed = parse(
            {
                "mode": "restart",
                "parallel": 3,
                "order": ["label=tier=db", "name=web-*"],
                "timeout": 30,
                "settle": 0.5,
                "only": "shop-*",
                "except": ["label=critical"],
                "probe": [{"match": "web-*", "url": "http://localhost/"}, {"command": "true"}, {"command": ["a", "b"]}],
                "on_failure": "halt",
            }
        )
        assert parsed == ContainerPolicy(
            "restart",
            3,
            (Selector("db", "tier"), Selector("web-*")),
            30,
            0.5,
            (Selector("shop-*"),),
            (Selector("*", "critical"),),
            (
                Probe((Selector("web-*"),), url="http://localhost/"),
                Probe(command=("/bin/sh", "-c", "true")),
                Probe(command=("a", "b")),
            ),
            "halt",
        )
        assert parse("restart") == RESTART

    @pytest.mark.parametrize(
        ("raw", "key", "given_value", "expected"),
        [
            ("restrat", "mode", "'restrat' (str)", "one of: keep, restart"),
            (["restart"], "", "(list)", "one of: keep, restart, or a mapping with mode and more"),
            ({"mode": True}, "mode", "'True' (bool)", "one of: keep, restart"),
            (
                {"modus": "keep"},
                "modus",
                "'keep' (str)",
                "only these keys: except, live, mode, on_failure, only, order",
            ),
            ({"parallel": 0}, "parallel", "'0' (int)", "a number of containers, 1 or more"),
            ({"parallel": 1.5}, "parallel", "'1.5' (float)", "a number of containers, 1 or more"),
            ({"parallel": True}, "parallel", "'True' (bool)", "a number of containers, 1 or more"),
            ({"parallel": "2"}, "parallel", "'2' (str)", "a number of containers, 1 or more"),
            ({"timeout": 0}, "timeout", "'0' (int)", "seconds, 1 to 86400"),
            ({"timeout": "1m"}, "timeout", "'1m' (str)", "seconds, 1 to 86400"),
            ({"timeout": float("nan")}, "timeout", "'nan' (float)", "seconds, 1 to 86400"),
            ({"settle": -1}, "settle", "'-1' (int)", "seconds, 0 to 86400"),
            ({"settle": 20, "timeout": 10}, "settle", "'20' (int)", "no more than the timeout, 10"),
            ({"timeout": 5}, "timeout", "'5' (int)", "at least settle, which is 10 by default"),
            ({"only": 5}, "only", "'5' (int)", "a name pattern such as 'shop-*', 'label=KEY'"),
            ({"only": [""]}, "only", "'' (str)", "a name pattern"),
            ({"except": {"a": "b"}}, "except", "a mapping with a", "a name pattern"),
            ({"order": ["label="]}, "order", "'label=' (str)", "a name pattern"),
            ({"order": ["tier=db"]}, "order", "'tier=db' (str)", "'label=KEY=VALUE'"),
            ({"probe": {}}, "probe", "an empty mapping", "either command or url"),
            (
                {"probe": {"url": "http://a/", "command": "a"}},
                "probe",
                "a mapping with url, command",
                "either command or url",
            ),
            ({"probe": "true"}, "probe", "'true' (str)", "a mapping with command or url"),
            ({"probe": [{"url": "a"}]}, "probe:0:url", "'a' (str)", "http://… or https://…"),
            ({"probe": {"url": "file:///etc/shadow"}}, "probe:url", "'file:", "http://… or https://…"),
            ({"probe": {"command": []}}, "probe:command", "'[]' (list)", "a command line, or a list of words"),
            ({"probe": {"command": [1]}}, "probe:command", "'[1]' (list)", "a command line, or a list of words"),
            ({"on_failure": "ignore"}, "on_failure", "'ignore' (str)", "one of: rollback, halt"),
        ],
    )
    def test_a_mistake(self, raw: object, key: str, given_value: str, expected: str) -> None:
        with pytest.raises(ArgumentInvalid) as failure:
            parse(raw, "at")
        named, _is, rest = failure.value.message.partition(" is ")
        assert named == "at" + (f":{key}" if key else "")
        assert given_value in rest
        assert expected in rest

    def test_selectors(self) -> None:
        web = make_container("shop-web", labels={"tier": "web", "empty": ""})
        chosen = ("shop-*", "name=shop-w?b", "label=tier", "label=tier=web", "label=tier=w*", "label=empty")
        for selector in chosen:
            assert parse({"only": selector}).selects(web), selector
            assert not parse({"except": selector}).selects(web), selector
        for selector in ("shop", "web", "SHOP-*", "label=tier=db", "label=other"):
            assert not parse({"only": selector}).selects(web), selector

    def test_the_first_probe_that_matches(self) -> None:
        policy = parse({"probe": [{"match": "db-*", "command": ["db"]}, {"match": "db-1", "command": ["other"]}]})
        assert policy.probe(make_container("db-1")) == Probe((Selector("db-*"),), ("db",))
        assert policy.probe(make_container("web")) is None


class TestRules:
    def test_one_after_the_other_by_name(self) -> None:
        assert names(plan(make_container("b"), make_container("a"))) == [[["a"]], [["b"]]]

    def test_only_what_is_concerned(self) -> None:
        decided = plan(make_container("a"), make_container("b"), concerned=["b"])
        assert (names(decided), decided.left) == ([[["b"]]], {})

    def test_order_then_dependencies(self) -> None:
        given = [
            service("web", "api"),
            service("api", "db"),
            service("db"),
            make_container("first", labels={"x": "1"}),
            make_container("z"),
        ]
        assert names(plan(*given, order=["label=x=1"], parallel=9)) == [
            [["first"]],
            [["db"], ["z"]],
            [["api"]],
            [["web"]],
        ]
        # a dependency starts first, whatever `order` says
        assert names(plan(*given, order=["name=web"]))[-1] == [["web"]]

    def test_services_of_another_project_are_no_dependencies(self) -> None:
        assert names(plan(service("a", "b"), service("b", project="other"))) == [[["a"]], [["b"]]]

    def test_a_dependency_in_between_that_is_not_restarted(self) -> None:
        given = [service("a", "b"), service("b", "c"), service("c")]
        assert names(plan(*given, concerned=["a", "c"])) == [[["c"]], [["a"]]]

    def test_a_circle_is_cut(self) -> None:
        assert names(plan(service("a", "b"), service("b", "a"), service("c", "a"))) == [[["a"]], [["b"]], [["c"]]]

    def test_who_shares_a_network_is_restarted_with_its_owner(self) -> None:
        given = [
            make_container("a", shares=["owner"]),
            make_container("owner"),
            make_container("b", shares=["a"]),
            make_container("c"),
            make_container("d", shares=["owner"]),
        ]
        assert names(plan(*given, concerned=["owner", "c"])) == [[["c"]], [["owner", "a", "b", "d"]]]
        assert names(plan(*given, concerned=["a"])) == [[["a", "b"]]]
        assert names(plan(*given, concerned=["owner"], only=["owner"])) == [[["owner", "a", "b", "d"]]]

    @pytest.mark.parametrize(
        "stays", [{"auto_remove": True}, {"state": "paused"}, {"labels": {"com.docker.swarm.service.id": "x"}}]
    )
    def test_nor_is_the_owner_where_one_of_them_must_stay(self, stays: dict[str, Any]) -> None:
        decided = plan(make_container("owner"), make_container("a", shares=["owner"], **stays))
        assert names(decided) == []
        assert decided.left["owner"].startswith("a shares its network or processes")

    def test_nor_where_one_of_them_is_excluded(self) -> None:
        given = [make_container("owner"), make_container("a", shares=["owner"])]
        assert names(plan(*given, **{"except": ["a"]})) == []
        assert names(plan(*given, only=["owner"])) == [[["owner", "a"]]]

    def test_who_shares_but_does_not_run_is_no_obstacle(self) -> None:
        decided = plan(
            make_container("owner"),
            make_container("a", shares=["owner"], state="exited", auto_remove=True),
            concerned=["owner"],
        )
        assert names(decided) == [[["owner"]]]

    @pytest.mark.parametrize(
        "owner", [[], [make_container("owner", state="exited")], [make_container("owner", state="restarting")]]
    )
    def test_who_could_not_start_again_stays(self, owner: list[FakeContainer]) -> None:
        decided = plan(make_container("a", shares=["owner"]), *owner, concerned=["a"])
        assert (names(decided), "could not start again" in decided.left["a"]) == ([], True)

    @pytest.mark.parametrize(
        ("container", "word"),
        [
            (make_container("a", state="created"), "its next start"),
            (make_container("a", state="exited"), "its next start"),
            (make_container("a", state="dead"), "its next start"),
            (make_container("a", state="exited", shares=["gone"]), "its next start"),
            (make_container("a", state="paused"), "paused"),
            (make_container("a", state="restarting"), "restart loop"),
            (make_container("a", auto_remove=True), "--rm"),
            (
                make_container("a", auto_remove=True, labels={"PODMAN_SYSTEMD_UNIT": "a.service"}),
                "systemctl restart a.service",
            ),
            (make_container("a", labels={"com.docker.swarm.service.id": "x"}), "service update --force x"),
            (make_container("b"), "except"),
        ],
    )
    def test_who_is_left_alone_and_why(self, container: FakeContainer, word: str) -> None:
        decided = plan(container, **{"except": ["b"]})
        assert names(decided) == []
        assert word in decided.left[container.id]

    def test_who_runs_on_nobody_knows_what(self) -> None:
        assert "unknown" in plan(make_container("a"), unknown=["a"]).left["a"]


IDS = "abcdefgh"
STATES = ("running",) * 6 + ("paused", "exited", "created", "restarting")


@st.composite
def nodes(draw: st.DrawFn) -> list[FakeContainer]:
    """Draw containers that share with or depend on earlier ones only: real engines have no cycles."""
    containers: list[FakeContainer] = []
    for position, key in enumerate(draw(st.permutations(IDS))):
        before = [other.id for other in containers]
        sharers = st.lists(st.sampled_from(before), max_size=2, unique=True) if before else st.just([])
        labels = {COMPOSE + "project": "p", COMPOSE + "service": key}
        labels[COMPOSE + "depends_on"] = ",".join(f"{need}:service_started:false" for need in draw(sharers))
        labels |= draw(st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])))
        if draw(st.integers(0, 9)) == 0:
            labels["com.docker.swarm.service.id"] = "s"
        shares = draw(sharers) if draw(st.booleans()) and position else []
        state, removed = draw(st.sampled_from(STATES)), draw(st.integers(0, 9)) == 0
        containers.append(FakeContainer(key, key, state, removed, labels, shares))
    return containers


SELECTED = st.lists(st.sampled_from(["a", "b*", "label=x", "label=y=1", "[c-f]"]), max_size=2)
POLICIES = st.builds(
    lambda parallel, order, only, excluded: parse(
        {"mode": "restart", "parallel": parallel, "order": order, "only": only, "except": excluded}
    ),
    *(st.integers(1, 4), SELECTED, SELECTED, SELECTED),
)


def home(plan: Restarts[FakeContainer]) -> dict[str, int]:
    return {key: number for number, batch in enumerate(names(plan)) for group in batch for key in group}


class TestLaws:
    """Rules that hold for every node and every policy."""

    @given(nodes(), st.sets(st.sampled_from(IDS)), st.sets(st.sampled_from(IDS), max_size=1), POLICIES)
    def test_every_container_has_one_fate(
        self, node: list[FakeContainer], concerned: set[str], unknown: set[str], policy: ContainerPolicy
    ) -> None:
        decided = plan_restarts(node, concerned, unknown & concerned, policy)
        planned = [container.id for container in decided.containers]
        assert len(planned) == len(set(planned))
        assert set(planned) | set(decided.left) >= concerned
        assert set(planned) & set(decided.left) == set()
        assert set(decided.left) <= concerned
        assert all(decided.left.values())

    @given(nodes(), st.sets(st.sampled_from(IDS)), POLICIES)
    def test_nobody_is_touched_who_must_not_be(
        self, node: list[FakeContainer], concerned: set[str], policy: ContainerPolicy
    ) -> None:
        decided = plan_restarts(node, concerned, [], policy)
        for container in decided.containers:
            assert container.state == "running"
            assert not container.auto_remove
            assert "com.docker.swarm.service.id" not in container.labels
            assert not policy.excludes(container)
            assert container.id in concerned or set(container.shares) & home(decided).keys()

    @given(nodes(), st.sets(st.sampled_from(IDS)), POLICIES)
    def test_nobody_loses_its_network(
        self, node: list[FakeContainer], concerned: set[str], policy: ContainerPolicy
    ) -> None:
        """A container restarts after its namespace owner, in the same group, and only if the owner runs."""
        decided = plan_restarts(node, concerned, [], policy)
        known = {container.id: container for container in node}
        groups = [group for batch in names(decided) for group in batch]
        for container in node:
            for owner in container.shares:
                (group,) = [group for group in groups if owner in group] or [None]
                if group and container.state in ("running", "paused"):
                    assert container.id in group
                    assert group.index(owner) < group.index(container.id)
                if container.id in home(decided):
                    assert known[owner].state in ("running", "paused")

    @given(nodes(), st.sets(st.sampled_from(IDS)), POLICIES)
    def test_batches_are_no_larger_than_allowed(
        self, node: list[FakeContainer], concerned: set[str], policy: ContainerPolicy
    ) -> None:
        for batch in plan_restarts(node, concerned, [], policy).batches:
            assert len(batch) == 1 or sum(map(len, batch)) <= policy.parallel
            assert all(batch)

    @given(nodes(), st.sets(st.sampled_from(IDS)), POLICIES)
    def test_dependencies_come_first_and_then_the_order(
        self, node: list[FakeContainer], concerned: set[str], policy: ContainerPolicy
    ) -> None:
        alone = [
            FakeContainer(
                make_container.id,
                make_container.name,
                make_container.state,
                make_container.auto_remove,
                make_container.labels,
            )
            for make_container in node
        ]
        decided = plan_restarts(alone, concerned, [], policy)
        place = home(decided)
        for container in decided.containers:
            needs = {part.partition(":")[0] for part in container.labels[COMPOSE + "depends_on"].split(",")}
            assert all(place[need] < place[container.id] for need in needs & place.keys())
        free = [
            make_container for make_container in decided.containers if not make_container.labels[COMPOSE + "depends_on"]
        ]
        if len(free) == len(decided.containers):
            ranks = [policy.rank(make_container) for make_container in decided.containers]
            assert ranks == sorted(ranks)

    @given(nodes(), st.sets(st.sampled_from(IDS)), POLICIES, st.randoms())
    def test_the_order_in_which_the_engine_lists_them_does_not_matter(
        self, node: list[FakeContainer], concerned: set[str], policy: ContainerPolicy, random: Any
    ) -> None:
        decided = plan_restarts(node, concerned, [], policy)
        random.shuffle(node)
        again = plan_restarts(node, concerned, [], policy)
        assert (again.batches, again.left) == (decided.batches, decided.left)


class TestJournal:
    def test_a_round_trip_and_none_when_nothing_is_noted(self, tmp_path: Path) -> None:
        path = str(tmp_path / "restarting.json")
        noted = Journal(2, 0)
        noted.note([["1", "2"], ["3"]], {"1": "one", "2": "two", "3": "three"}, {"1": ["2026", 5]})
        noted.passed.append("3")
        noted.save(path)
        assert journal.read(path) == noted
        assert noted.pending == ["1", "2"]
        noted.note([["2"]], {"2": "two"}, {})
        assert noted.batches == [[["1"], ["3"]], [["2"]]]
        noted.forget(["1", "2", "3"])
        assert noted == Journal(2, 0)
        noted.save(path)
        assert list(tmp_path.iterdir()) == []
        assert journal.read(path) == Journal()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"format": 2}',
            '{"format": 1, "more": 1}',
            '{"format": 1, "names": {"1": "one"}}',
            '{"format": 1, "passed": ["1"]}',
            '{"format": 1, "batches": 5}',
            "[" * 100_000,
        ],
        ids=range(9),
    )
    def test_a_damaged_one_is_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "restarting.json"
        path.write_text(text)
        with pytest.raises(RecordInvalid) as caught:
            journal.read(str(path))
        assert str(path) in caught.value.message

    def test_it_is_plain_json(self, tmp_path: Path) -> None:
        path = tmp_path / "restarting.json"
        noted = Journal(1)
        noted.note([["1"]], {"1": "one"}, {"1": ["2026-01-01T00:00:00Z", 5]})
        noted.save(str(path))
        assert json.loads(path.read_text()) == {
            "format": 1,
            "way_back": 1,
            "previous": None,
            "batches": [[["1"]]],
            "names": {"1": "one"},
            "passed": [],
            "runs": {"1": ["2026-01-01T00:00:00Z", 5]},
        }
