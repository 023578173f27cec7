"""
Fleets that there are not: what nodes would answer, how a rollout went, what it means for images.

Answers and record agree, because both come from one history of each node: the rollout halted in its third wave.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from typing import Any

from baseimg_core.model.rollout import fleet, record, waves
from baseimg_core.model.rollout.policy import DEFAULTS

BASE, OLD, NEW = "corp/base:12.0", "12.0", "12.1"
NOW = "2026-03-03T04:30:00Z"
_START = datetime.datetime(2026, 3, 3, 2, 0, tzinfo=datetime.timezone.utc)
_HALF, _REST = 2, 3
_WAVES = (("canary", 0.005), ("first", 0.1), ("half", 0.5), ("rest", 1.0))
_SECONDS = ((0, 540), (1140, 2300), (2900, 4520))  # when the waves began and ended
_THRESHOLD = 99
_FAILED = (
    f"{BASE} {NEW}: shop-web is unhealthy, output of its health check: GET /healthz returned 503 "
    f"(connection refused to db:5432), 120 s after it was started. The base shows {OLD} again; "
    "restarted on it: shop-web"
)


@dataclass(frozen=True)
class History:
    """What happened to one node; its number gives its place in the rollout."""

    number: int
    wave: int
    state: str
    code: str = ""
    message: str = ""


def at(seconds: float) -> str:
    return (_START + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def names(count: int) -> list[str]:
    return [f"web-{number:04d}.fra1" for number in range(count)]


def status(version: str, declared: str | None = NEW, **more: Any) -> dict[str, Any]:
    """What `baseimg.status` returns of one base, in short."""
    return {
        "base": BASE,
        "path": "/var/lib/docker/overlay2/1f/diff",
        "version": version,
        "declared": declared,
        "interrupted": False,
        "running": "",
        "restarting": [],
        "legacy": "",
        "generations": [{"number": 1, "current": True, "damaged": False, "activated": at(0)}],
        "images": ["shop-web:4.2", "billing:1.9"],
        "holds": [],
        "containers": {"current": [], "outdated": [], "unknown": []},
        **more,
    }


def histories(count: int) -> list[History]:
    """
    Nodes in the order of the rollout. Silent ones were found by the preparation; the others are ready until their turn.

    Once too many of a wave are bad, no other node starts, and those in flight end.
    """
    result: list[History] = []
    stop = count
    for number in range(count):
        wave = next(index for index, (_, share) in enumerate(_WAVES) if number < max(1, share * count))
        if number % 333 == 27:
            result.append(History(number, wave, record.UNREACHABLE, "node-silent", "does not answer"))
        elif wave == _REST or number >= stop:
            result.append(History(number, wave, record.READY))
        elif wave == _HALF and number % 71 == 5:
            result.append(History(number, wave, record.FAILED, "gate-failed", _FAILED))
            if _is_lost(result, count):
                stop = min(stop, number + max(1, count // 40))
        else:
            result.append(History(number, wave, record.UPDATED))
    return result


def _is_lost(earlier: list[History], count: int) -> bool:
    """Whether the third wave cannot reach its threshold any more, with the silent ones that are still to come."""
    first, last = int(max(1, 0.1 * count)), int(0.5 * count)
    bad = sum(history.state == record.FAILED for history in earlier)
    bad += sum(number % 333 == 27 for number in range(first, last))
    return (last - first - bad) * 100 < _THRESHOLD * (last - first)


def observed_fleet(count: int) -> dict[str, Any]:
    """What `baseimg.fleet` collects."""
    return fleet.collect(names(count), answers(count))


def answers(count: int) -> dict[str, Any]:
    """What nodes answer: besides the rollout, some contents were damaged and some engines are down."""
    by_node: dict[str, Any] = {}
    for history, node in zip(histories(count), names(count), strict=True):
        if history.state == record.UNREACHABLE:
            continue
        updated = history.state == record.UPDATED
        outdated = ["shop-web"] if updated and history.number % 9 == 1 else []
        item = status(NEW if updated else OLD, containers={"current": [], "outdated": outdated, "unknown": []})
        if history.number % 401 == 11:
            item["generations"][0]["damaged"] = True
        by_node[node] = {"bases": [item]}
        if history.number % 500 == 42:
            by_node[node] = "ERROR: [engine-unreachable] no answer from the engine at unix:///var/run/docker.sock"
    return by_node


def rollout(count: int) -> dict[str, Any]:
    """The rollout's record."""
    node_histories = histories(count)
    turns = [
        [history.number for history in node_histories if history.wave == wave and _ended(history)] for wave in range(3)
    ]
    nodes = {
        node: record.RolloutNode(
            wave=history.wave,
            state=history.state,
            from_version=OLD,
            to_version=NEW,
            code=history.code,
            message=history.message,
            ended=_end(history, turns[history.wave]) if _ended(history) else "",
        )
        for history, node in zip(node_histories, names(count), strict=True)
    }
    states = (record.PASSED, record.PASSED, record.FAILED, record.PENDING)
    wave_records = [
        record.WaveRecord(name, _THRESHOLD, state, at(_SECONDS[index][0]), at(_SECONDS[index][1]))
        if index < _REST
        else record.WaveRecord(name, _THRESHOLD, state)
        for index, ((name, _), state) in enumerate(zip(_WAVES, states, strict=True))
    ]
    halted = record.Rollout(
        id="20260303T020000-1f3a",
        base=BASE,
        version=NEW,
        by="ops",
        created=at(0),
        policy=dict(DEFAULTS),
        waves=wave_records,
        nodes=nodes,
        state=record.HALTED,
        updated=at(_SECONDS[_HALF][1]),
    )
    halted.reason = waves.why_failed(halted, _HALF)
    data: dict[str, Any] = json.loads(json.dumps(halted.as_dict()))
    return data


def _ended(history: History) -> bool:
    return history.state in (record.UPDATED, record.FAILED)


def _end(history: History, turns: list[int]) -> str:
    """When a node ended: those of a wave one after the other."""
    began, ended = _SECONDS[history.wave]
    return at(began + (ended - began) * (turns.index(history.number) + 1) / len(turns))


def impacts(images: int = 12) -> list[dict[str, Any]]:
    """What `baseimg.impact` tells on two nodes."""
    paths = [
        ("/usr/lib/x86_64-linux-gnu/libssl.so.3", "libraries", "own file"),
        ("/usr/bin/openssl", "programs", "own file"),
        ("/etc/ssl/certs/ca-certificates.crt", "certificates", "opaque directory above"),
        ("/var/lib/dpkg/status", "package databases", "own file"),
    ]
    image_verdicts = []
    for number in range(images):
        verdict = "blocked" if number == 0 else "partly" if number % 4 == 1 else "effective"
        covered = paths if verdict == "blocked" else paths[3:] if verdict == "partly" else []
        counts: dict[str, list[int]] = {}
        for _, what, _ in covered:
            counts[what] = [1, {"libraries": 6, "programs": 4}.get(what, 2)]
        image_verdicts.append(
            {
                "image": f"registry.corp.example/shop/service-{number}:4.{number}",
                "verdict": verdict,
                "covered": counts,
                "shadowed": [{"path": path, "what": what, "reason": reason} for path, what, reason in covered],
                "warnings": ["its own package database still lists as installed: libssl1.1"] if number == 5 else [],
                "containers": [f"service-{number}-{copy}" for copy in range(number % 4)],
            }
        )
    packages = {
        "manager": "dpkg",
        "changed": {
            "libssl3": ["3.0.11-1~deb12u2", "3.0.14-1~deb12u1"],
            "openssl": ["3.0.11-1~deb12u2", "3.0.14-1~deb12u1"],
            "openjdk-17-jre-headless": ["17.0.11+9-1~deb12u1", "17.0.12+7-2~deb12u1"],
        },
        "added": {"ca-certificates-java": "20230710~deb12u1"},
        "removed": {"libssl1.1": "1.1.1w-0+deb11u1"},
        "unknown": "",
    }
    impact = {"base": BASE, "version": OLD, "to": NEW, "images": image_verdicts, "packages": packages}
    return [{"node": node, "impact": impact} for node in names(2)]
