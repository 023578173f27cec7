"""Declared trials, their outcomes, and the runtime configuration of a disposable container."""

from __future__ import annotations

from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.containers import sandbox, trial
from baseimg_core.model.containers.policy import Selector
from baseimg_core.model.containers.sandbox import User
from baseimg_core.model.containers.trial import Trial, TrialOutcome

PASSWD = """root:x:0:0:root:/root:/bin/sh
svc:x:999:998::/srv:/bin/sh
1000:x:5:6::/named:/bin/sh
damaged:x:
letters:x:a:b:::
"""
GROUP = "root:x:0:\nsvc:x:998:\nextra:x:55:other,svc\nmore:x:56:svc\nbad:x:no:svc\n"


class TestDeclaration:
    def test_nothing(self) -> None:
        assert trial.parse(None) == ()

    def test_the_loader(self) -> None:
        assert trial.parse("auto") == (Trial(),)
        assert trial.parse({"command": "auto", "match": "corp/*"}) == (Trial(match=(Selector("corp/*"),)),)

    def test_commands(self) -> None:
        given = [{"command": "a b", "expect": "ok", "timeout": 5, "memory": 64}, {"command": ["a", "b"], "expect": 2}]
        assert trial.parse(given) == (
            Trial(("/bin/sh", "-c", "a b"), expect="ok", timeout=5, memory=64),
            Trial(("a", "b"), expect=2),
        )

    @pytest.mark.parametrize(
        ("raw", "key"),
        [
            ("yes", "trial"),
            ({}, "trial"),
            ({"command": ""}, "trial:command"),
            ({"command": [1]}, "trial:command"),
            ({"command": "a", "expect": 256}, "trial:expect"),
            ({"command": "a", "expect": True}, "trial:expect"),
            ({"command": "a", "expect": -1}, "trial:expect"),
            ({"command": "a", "timeout": 0}, "trial:timeout"),
            ({"command": "a", "memory": 1}, "trial:memory"),
            ({"command": "a", "memory": 64.5}, "trial:memory"),
            ({"command": "a", "match": 5}, "trial:match"),
            ([{"command": "a"}, {"comand": "b"}], "trial:1:comand"),
        ],
    )
    def test_a_mistake_names_its_key(self, raw: object, key: str) -> None:
        with pytest.raises(ArgumentInvalid) as caught:
            trial.parse(raw)
        assert caught.value.message.startswith(f"{key} is ")

    def test_selectors_match_references_and_labels(self) -> None:
        (by_name,) = trial.parse({"command": "a", "match": "corp/shop:*"})
        assert trial.selects(by_name, ("corp/other:1", "corp/shop:1"), {})
        assert not trial.selects(by_name, ("corp/other:1",), {})
        (by_label,) = trial.parse({"command": "a", "match": "label=tier=web"})
        assert trial.selects(by_label, ("corp/other:1",), {"tier": "web"})
        assert not trial.selects(by_label, ("corp/other:1",), {"tier": "db"})


class TestOutcome:
    @pytest.mark.parametrize(
        ("expect", "outcome", "failure"),
        [
            (0, TrialOutcome(0, ""), ""),
            (3, TrialOutcome(3, ""), ""),
            (3, TrialOutcome(0, ""), "exited with 0, expected 3"),
            ("ok", TrialOutcome(0, "all ok\n"), ""),
            ("ok", TrialOutcome(0, "fine"), "printed no 'ok'"),
            ("ok", TrialOutcome(1, "ok"), "exited with 1, expected 0"),
            (0, TrialOutcome(None, ""), "was killed after 60 seconds"),
            (0, TrialOutcome(None, "", "no such file"), "did not start: no such file"),
        ],
    )
    def test_failure(self, expect: int | str, outcome: TrialOutcome, failure: str) -> None:
        assert trial.failure(Trial(("a",), expect=expect), outcome) == failure


class TestUser:
    @pytest.mark.parametrize(
        ("name", "user"),
        [
            ("", User(0, 0, (0,), "/root")),
            ("root", User(0, 0, (0,), "/root")),
            ("svc", User(999, 998, (998, 55, 56), "/srv")),
            ("999", User(999, 998, (998, 55, 56), "/srv")),
            ("svc:extra", User(999, 55, (55,), "/srv")),
            ("svc:7", User(999, 7, (7,), "/srv")),
            ("4000", User(4000, 0, (0,), "/")),
            ("4000:svc", User(4000, 998, (998,), "/")),
            ("1000", User(5, 6, (6,), "/named")),  # a numeric name is looked up as a name first
        ],
    )
    def test_names_and_numbers(self, name: str, user: User) -> None:
        assert sandbox.user(name, PASSWD, GROUP) == user

    @pytest.mark.parametrize(
        ("name", "missing"), [("nobody", "user nobody"), ("svc:none", "group none"), ("damaged", "user")]
    )
    def test_unknown_names(self, name: str, missing: str) -> None:
        with pytest.raises(sandbox.UserUnknown, match=missing):
            sandbox.user(name, PASSWD, GROUP)


class TestConfiguration:
    def configured(self, config: dict[str, Any], user: User, bounding: int = -1) -> dict[str, Any]:
        return sandbox.oci_config(["a"], config, user, 1 << 20, "trial-1", bounding)

    def test_the_images_process(self) -> None:
        process = self.configured({"Env": ["PATH=/x"], "WorkingDir": "/w"}, User(5, 6, (7,), "/h"))["process"]
        assert process["args"] == ["a"]
        assert process["env"] == ["PATH=/x", "HOME=/h"]
        assert process["cwd"] == "/w"
        assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [7]}
        assert process["noNewPrivileges"] is True

    def test_capabilities(self) -> None:
        root = self.configured({}, User(0, 0))["process"]["capabilities"]
        assert len(root["bounding"]) == len(root["effective"]) == 14
        assert self.configured({}, User(5, 5))["process"]["capabilities"]["effective"] == []
        assert self.configured({}, User(0, 0), 0b11)["process"]["capabilities"]["bounding"] == [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
        ]

    def test_nothing_of_the_host(self) -> None:
        config = self.configured({}, User(0, 0))
        assert {"pid", "network", "ipc", "uts", "mount"} == {
            namespace["type"] for namespace in config["linux"]["namespaces"]
        }
        assert not [mount for mount in config["mounts"] if mount["type"] == "bind"]
        assert config["linux"]["resources"]["memory"] == {"limit": 1 << 20}
        assert config["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
