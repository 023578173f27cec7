"""Fleets that there are not: what nodes would answer, how a rollout went, what it means for images."""

from __future__ import annotations

import datetime
from typing import Any

from baseimg_core.model.rollout import fleet

BASE, OLD, NEW = "corp/base:12.0", "12.0", "12.1"
NOW = "2026-03-03T04:30:00Z"
_BEGIN = datetime.datetime(2026, 3, 3, 2, 0, tzinfo=datetime.timezone.utc)
_WAVES = (("canary", 0.005), ("first", 0.1), ("half", 0.5), ("rest", 1.0))
REASON = "[health-gate] container shop-web is unhealthy: GET /healthz returned 503 (connection refused to db:5432)"


def at(seconds: float) -> str:
    return (_BEGIN + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


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
        "legacy": "",
        "generations": [{"number": 1, "current": True, "damaged": False, "activated": at(0)}],
        "images": ["shop-web:4.2", "billing:1.9"],
        "containers": {"current": [], "outdated": [], "unknown": []},
        **more,
    }


def seen(count: int) -> dict[str, Any]:
    """A fleet in the third of its four waves, with a few of everything that goes wrong."""
    nodes = names(count)
    answers: dict[str, Any] = {}
    for number, node in enumerate(nodes):
        if number % 333 == 7:
            continue
        updated = number < count * 0.42 and number % 97 != 5
        outdated = ["shop-web"] if updated and number % 9 == 1 else []
        item = status(NEW if updated else OLD, containers={"current": [], "outdated": outdated, "unknown": []})
        if number % 401 == 11:
            item["generations"][0]["damaged"] = True
        answers[node] = {"bases": [item]}
        if number % 500 == 42:
            answers[node] = "ERROR: [engine-unreachable] no answer from the engine at unix:///var/run/docker.sock"
    return fleet.collect(nodes, answers)


def rollout(count: int) -> dict[str, Any]:
    """Its record."""
    nodes: dict[str, dict[str, Any]] = {}
    for number, node in enumerate(names(count)):
        wave = next(index for index, (_, share) in enumerate(_WAVES) if number < max(1, share * count))
        state = "updated" if number < count * 0.42 else "ready" if number < count * 0.5 else "pending"
        code, message = "", ""
        if state == "updated" and number % 97 == 5:
            state, (code, message) = "failed", REASON[1:].split("] ")
        if number % 333 == 7:
            state, message = "unreachable", "did not answer within 60 seconds"
        ended = at(120 + 6000 * number / count) if state in ("updated", "failed") else ""
        nodes[node] = {"wave": wave, "state": state, "code": code, "message": message, "ended": ended}
    waves = [
        {"name": "canary", "state": "passed", "started": at(0), "ended": at(540)},
        {"name": "first", "state": "passed", "started": at(1140), "ended": at(2300)},
        {"name": "half", "state": "running", "started": at(2900), "ended": ""},
        {"name": "rest", "state": "pending", "started": "", "ended": ""},
    ]
    return {
        "format": 1,
        "id": "20260303T020000Z",
        "base": BASE,
        "version": NEW,
        "by": "ops",
        "created": at(0),
        "ended": "",
        "state": "halted",
        "reason": "wave half: 97.2 % of its nodes are updated, the threshold is 99 %",
        "waves": waves,
        "nodes": nodes,
    }


def impacts(images: int = 12) -> list[dict[str, Any]]:
    """What `baseimg.impact` tells on two nodes."""
    paths = [
        ("/usr/lib/x86_64-linux-gnu/libssl.so.3", "libraries", "its own file"),
        ("/usr/bin/openssl", "programs", "its own file"),
        ("/etc/ssl/certs/ca-certificates.crt", "certificates", "below an opaque directory"),
        ("/var/lib/dpkg/status", "package databases", "its own file"),
    ]
    found = []
    for number in range(images):
        verdict = "blocked" if number == 0 else "partly" if number % 4 == 1 else "effective"
        covered = paths if verdict == "blocked" else paths[3:] if verdict == "partly" else []
        counts: dict[str, list[int]] = {}
        for _, what, _ in covered:
            counts[what] = [1, {"libraries": 6, "programs": 4}.get(what, 2)]
        found.append(
            {
                "image": f"registry.corp.example/shop/service-{number}:4.{number}",
                "verdict": verdict,
                "covered": counts,
                "shadowed": [{"path": path, "what": what, "reason": reason} for path, what, reason in covered],
                "warnings": ["its own package database still has as installed: libssl1.1"] if number == 5 else [],
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
    one = {"base": BASE, "version": OLD, "to": NEW, "images": found, "packages": packages}
    return [{"node": node, "impact": one} for node in names(2)]
