"""The policy of a rollout: defaults, every kind of wave, and mistakes that name the key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.rollout import policy as rollout_policy
from baseimg_core.model.rollout.gates import ServiceGate
from baseimg_core.model.rollout.hooks import Hook
from baseimg_core.model.rollout.policy import DEFAULTS, FailureDomain, RolloutPolicy, Share, Wave
from baseimg_core.model.rollout.targets import Target
from baseimg_core.model.rollout.windows import Window, closed_groups

EVERY_DAY = frozenset(range(7))


def parsed(**keys: Any) -> RolloutPolicy:
    return rollout_policy.parse(rollout_policy.merged(keys))


class TestSound:
    def test_defaults(self) -> None:
        assert parsed() == RolloutPolicy(
            target=Target("*"),
            exclude=(),
            unreachable="wait",
            refused=Share(0),
            waves=(Wave("rest", None, 100),),
            is_by_group=False,
            max_unavailable=Share(25, percent=True),
            min_available=Share(0),
            group_by="",
            prepare="stage",
            prepare_at_once=Share(50),
            saltenv="",
            require=(),
            soak=0,
            gates=(),
            gate_interval=30,
            before_node=None,
            after_node=None,
            on_failure="halt",
            window=None,
            windows={},
            timeout=900,
            keep_records=50,
        )
        assert rollout_policy.merged(None, {}) == dict(DEFAULTS)

    def test_later_places_count_more(self) -> None:
        merged = rollout_policy.merged({"soak": 5, "canary": 1}, None, {"soak": 7})
        assert (merged["soak"], merged["canary"]) == (7, 1)

    def test_every_kind_of_wave(self) -> None:
        policy = parsed(
            canary={"tgt": "role:canary", "tgt_type": "grain"},
            waves=[
                2,
                "10%",
                "web*",
                {"tgt": ["a", "b"], "tgt_type": "list"},
                {"name": "east", "count": "50%", "success_threshold": "95%"},
            ],
            success_threshold=90,
        )
        assert policy.waves == (
            Wave("canary", Target("role:canary", "grain"), 90),
            Wave("wave 1", Share(2), 90),
            Wave("wave 2", Share(10, percent=True), 90),
            Wave("wave 3", Target("web*"), 90),
            Wave("wave 4", Target(("a", "b"), "list"), 90),
            Wave("east", Share(50, percent=True), 95),
            Wave("rest", None, 90),
        )

    def test_failure_domains(self) -> None:
        policy = parsed(group_by="rack", waves=[{"group": "r1"}, 1], windows={"r2": {"from": "01:00", "to": "02:00"}})
        assert policy.waves[:2] == (Wave("group r1", FailureDomain("r1"), 100), Wave("wave 2", Share(1), 100))
        assert policy.windows == {"r2": Window(EVERY_DAY, 60, 120, "UTC")}
        each = parsed(group_by="rack", waves="groups", canary=1)
        assert each.is_by_group
        assert [wave.name for wave in each.waves] == ["canary", "rest"]

    def test_hooks(self) -> None:
        hook = {"function": "haproxy.disable_server", "tgt": "lb*", "arg": ["{node}", "web", 3]}
        policy = parsed(before_node=hook, after_node={**hook, "function": "haproxy.enable_server", "timeout": 5})
        assert policy.before_node == Hook("haproxy.disable_server", Target("lb*"), ("{node}", "web", 3), 60)
        assert policy.after_node
        assert policy.after_node.timeout == 5
        assert policy.before_node
        assert policy.before_node.arguments_for("node7") == ("node7", "web", 3)

    def test_gates(self) -> None:
        policy = parsed(
            gate=[
                {"url": "https://shop/health", "match": "^ok", "timeout": 3},
                {"command": "check-shop"},
                {"function": "http.query", "tgt": "role:lb", "tgt_type": "grain", "arg": ["http://shop"]},
            ],
            exclude="db*",
        )
        assert policy.gates == (
            ServiceGate("url", "https://shop/health", "^ok", timeout=3),
            ServiceGate("command", "check-shop"),
            ServiceGate("function", "http.query", target=Target("role:lb", "grain"), arguments=("http://shop",)),
        )
        assert policy.exclude == (Target("db*"),)

    def test_a_policy_of_an_older_release_has_the_defaults(self) -> None:
        old = {key: value for key, value in rollout_policy.merged().items() if key not in ("gate", "refused")}
        assert rollout_policy.parse(old) == parsed()

    @pytest.mark.parametrize(("share", "total", "number"), [(3, 100, 3), ("10%", 5, 1), ("25%", 8, 2), ("100%", 7, 7)])
    def test_shares_are_rounded_up(self, share: object, total: int, number: int) -> None:
        assert parsed(max_unavailable=share).max_unavailable.of(total) == number


class TestWindow:
    @staticmethod
    def window(**keys: Any) -> Window:
        parsed_window = parsed(window={"from": "22:00", "to": "04:30", **keys}).window
        assert parsed_window
        return parsed_window

    def test_defaults(self) -> None:
        assert self.window() == Window(EVERY_DAY, 22 * 60, 4 * 60 + 30, "UTC")

    @pytest.mark.parametrize(
        ("weekday", "minute", "is_open"),
        [
            (4, 22 * 60, True),
            (4, 21 * 60 + 59, False),
            (5, 4 * 60 + 29, True),  # the night of Friday, although the calendar says Saturday
            (5, 4 * 60 + 30, False),
            (5, 23 * 60, False),
            (4, 60, False),  # the night of Thursday
        ],
    )
    def test_over_midnight_it_belongs_to_the_day_on_which_it_opens(
        self, weekday: int, minute: int, is_open: bool
    ) -> None:
        assert self.window(days=["fri"]).open_at(weekday, minute) is is_open

    def test_within_a_day(self) -> None:
        window = self.window(**{"from": "09:00", "to": "17:00"})
        assert [window.open_at(0, hour * 60) for hour in (8, 9, 16, 17)] == [False, True, True, False]

    def test_sunday_night(self) -> None:
        assert self.window(days=["sun"]).open_at(0, 60)

    def test_no_node_starts_within_the_cutoff(self) -> None:
        window = self.window(days=["fri"], cutoff=1800)
        open_at = [window.open_at(4, 23 * 60), window.open_at(5, 3 * 60 + 59), window.open_at(5, 4 * 60)]
        assert open_at == [True, True, False]
        all_day = self.window(**{"from": "06:00", "to": "06:00"}, cutoff=3600)
        assert all(all_day.open_at(3, minute) for minute in range(0, 1440, 30))

    def test_failure_domains_have_windows_of_their_own(self) -> None:
        night, day = self.window(), self.window(**{"from": "09:00", "to": "17:00", "timezone": "Asia/Tokyo"})
        times = {"UTC": (0, 23 * 60), "Asia/Tokyo": (1, 8 * 60)}
        assert closed_groups(night, {"tyo": day}, ["fra", "tyo"], times.__getitem__) == ["tyo"]
        assert closed_groups(None, {"tyo": day}, ["fra", "tyo"], times.__getitem__) == ["tyo"]
        assert closed_groups(day, {"tyo": night}, ["fra", "tyo"], times.__getitem__) == ["fra"]

    def test_the_same_time_twice_is_a_whole_day(self) -> None:
        window = self.window(days=["mon"], **{"from": "06:00", "to": "06:00"})
        assert [window.open_at(0, 300), window.open_at(0, 400), window.open_at(1, 300)] == [False, True, True]


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"canaries": 1}, "rollout:canaries"),
        ({"window": {"from": "22:00", "to": "04:00", "days": [["mon"]]}}, "rollout:window:days"),
        ({"canary": 0}, "rollout:canary"),
        ({"canary": True}, "rollout:canary"),
        ({"canary": 0.5}, "rollout:canary"),
        ({"waves": "10%"}, "rollout:waves"),
        ({"waves": ["0%"]}, "rollout:wave:1"),
        ({"waves": [1, {"tgt": "*", "count": 1}]}, "rollout:wave:2"),
        ({"waves": [{"success_threshold": 5}]}, "rollout:wave:1"),
        ({"waves": [{"count": 1, "success_threshold": 0}]}, "rollout:wave:1:success_threshold"),
        ({"waves": [{"tgt": "*", "tgt_type": "grains"}]}, "rollout:wave:1:tgt_type"),
        ({"waves": [{"count": 1, "name": "rest"}]}, "rollout:waves"),
        ({"success_threshold": 101}, "rollout:success_threshold"),
        ({"max_unavailable": "110%"}, "rollout:max_unavailable"),
        ({"max_unavailable": 0}, "rollout:max_unavailable"),
        ({"soak": -1}, "rollout:soak"),
        ({"soak": "5m"}, "rollout:soak"),
        ({"timeout": 0}, "rollout:timeout"),
        ({"on_failure": "ignore"}, "rollout:on_failure"),
        ({"target": {"tgt_type": "grain"}}, "rollout:target:tgt"),
        ({"target": {"tgt": ["a", 1], "tgt_type": "list"}}, "rollout:target:tgt"),
        ({"window": {"from": 2200, "to": "04:00"}}, "rollout:window:from"),
        ({"window": {"from": "22:00"}}, "rollout:window:to"),
        ({"window": {"from": "22:00", "to": "24:00"}}, "rollout:window:to"),
        ({"window": {"from": "22:00", "to": "04:00", "days": ["friday"]}}, "rollout:window:days"),
        ({"window": "night"}, "rollout:window"),
        ({"window": {"from": "22:00", "to": "04:00", "cutoff": 6 * 3600}}, "rollout:window:cutoff"),
        ({"windows": {"r1": {"from": "22:00", "to": "04:00"}}}, "rollout:group_by"),
        ({"windows": {"r1": None}, "group_by": "rack"}, "rollout:windows:r1:from"),
        ({"windows": [1], "group_by": "rack"}, "rollout:windows"),
        ({"waves": "groups"}, "rollout:group_by"),
        ({"waves": [{"group": "r1"}]}, "rollout:group_by"),
        ({"waves": [{"group": "r1", "count": 1}], "group_by": "rack"}, "rollout:wave:1"),
        ({"before_node": {"tgt": "lb"}}, "rollout:before_node:function"),
        ({"after_node": {"function": "x.y"}}, "rollout:after_node:tgt"),
        ({"after_node": {"function": "x.y", "tgt": "lb", "arg": "{node}"}}, "rollout:after_node:arg"),
        ({"unreachable": "ignore"}, "rollout:unreachable"),
        ({"refused": -1}, "rollout:refused"),
        ({"exclude": 3}, "rollout:exclude"),
        ({"group_by": ""}, "rollout:group_by"),
        ({"keep_records": 0}, "rollout:keep_records"),
        ({"gate_interval": 0}, "rollout:gate_interval"),
        ({"require": "CVE-2024-5535"}, "rollout:require"),
        ({"require": [""]}, "rollout:require:0"),
        ({"gate": "https://x"}, "rollout:gate"),
        ({"gate": [{}]}, "rollout:gate:1"),
        ({"gate": [{"command": "x", "url": "http://x"}]}, "rollout:gate:1"),
        ({"gate": [{"command": "x"}, {"url": "file:///etc/passwd"}]}, "rollout:gate:2:url"),
        ({"gate": [{"function": "test.ping"}]}, "rollout:gate:1"),
        ({"gate": [{"command": "x", "tgt": "*"}]}, "rollout:gate:1"),
        ({"gate": [{"command": "x", "match": "("}]}, "rollout:gate:1:match"),
    ],
)
def test_mistakes_name_the_key(keys: dict[str, Any], key: str) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        rollout_policy.merged(keys)
    assert caught.value.message.startswith(f"{key} is ")
    assert ", expected " in caught.value.message


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"canarry": 1}, "did you mean canary?"),
        ({"group_by": 3}, "write it in quotes, '3'"),
        ({"gate": [{"command": "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret"}]}, "is a private key, which"),
    ],
)
def test_mistakes_read_as_those_in_pillar(keys: dict[str, Any], hint: str) -> None:
    with pytest.raises(ArgumentInvalid, match=re.escape(hint)) as caught:
        rollout_policy.merged(keys)
    assert "secret" not in caught.value.message
