"""Cached answers of ``baseimg.fixes`` on the master: Salt's mine and grains, and whether they are fresh."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Container, Mapping
from datetime import datetime
from typing import Any, Protocol

from ..errors import ArgumentInvalid
from ..linux import files
from ..linux.oserrors import translate_os_errors

_AHEAD = 300  # seconds that a node's clock may be ahead of the master's
_FUNCTION = "baseimg.fixes"
_DATA = "__data__"  # Salt wraps mine data that have an access list


class Cache(Protocol):
    """Salt's cache (``salt.cache``)."""

    def fetch(self, bank: str, key: str) -> Any:
        """Return the data of a key; empty if there are none."""


class CachedAnswers:
    """Answers in the mine, read one by one, because those of thousands of nodes need too much memory."""

    def __init__(self, cache: Cache, now: float) -> None:
        """
        Args:
            cache: Salt's cache on this master.
            now: The present time in seconds since the epoch.
        """
        self._cache, self._now = cache, now

    def read(self, node: str, max_age: float) -> tuple[object, float] | None:
        """
        Return the answer of a node and its age in seconds; ``None`` without a fresh one.

        An answer is also stale if the node's cached grains show another version of a base than the answer.

        Args:
            node: The name of the node.
            max_age: The greatest age in seconds.
        """
        answer = self._fetch(node, "mine", "mine").get(_FUNCTION)
        if isinstance(answer, Mapping) and _DATA in answer:
            answer = answer[_DATA]
        seconds = age(answer, self._now)
        if seconds > max_age or not agrees(answer, self._fetch(node, "grains", "data").get("baseimg")):
            return None
        return answer, seconds

    def _fetch(self, node: str, bank: str, key: str) -> Mapping[str, Any]:
        """Return cached data of a node: Salt 3008 has one bank for each kind, older releases one for each node."""
        data = self._cache.fetch(bank, node)
        if not data:
            data = self._cache.fetch(f"minions/{node}", key)
            data = data.get("grains") if key == "data" and isinstance(data, Mapping) else data
        return data if isinstance(data, Mapping) else {}


def age(answer: object, now: float) -> float:
    """
    Return the age of an answer in seconds; infinity for something else, and for an answer from the future.

    Args:
        answer: The cached answer.
        now: The present time in seconds since the epoch.
    """
    at = answer.get("at") if isinstance(answer, Mapping) else None
    try:
        seconds = now - datetime.fromisoformat(str(at).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return math.inf
    return max(seconds, 0.0) if seconds > -_AHEAD else math.inf


def agrees(answer: object, grain: object) -> bool:
    """
    False if a grain shows another version of a base than an answer: the answer is older than the last change.

    Args:
        answer: The cached answer.
        grain: The cached grain ``baseimg`` of the same node; ``None`` without one.
    """
    live = grain.get("bases") if isinstance(grain, Mapping) else None
    answered = answer.get("bases") if isinstance(answer, Mapping) else None
    if not isinstance(live, Mapping) or not isinstance(answered, list):
        return True
    versions = {base.get("base"): base.get("version") for base in answered if isinstance(base, Mapping)}
    return all(
        isinstance(base, Mapping) and versions.get(_reference(name, versions), "") == base.get("version")
        for name, base in live.items()
    )


def _reference(name: str, known: Container[object]) -> str:
    """Return the reference of a base in a grain, which adds the chain ID if two bases have one reference."""
    return name if name in known else name.rpartition("@")[0]


class VexStates:
    """The state of the last VEX document of each ID, which the next document needs. One file for each ID."""

    def __init__(self, cachedir: str, identity: str) -> None:
        """
        Args:
            cachedir: The master's cache.
            identity: The ID of the document.
        """
        self._home = os.path.join(cachedir, "baseimg", "vex")
        self._path = os.path.join(self._home, hashlib.sha256(identity.encode()).hexdigest() + ".json")

    def read(self) -> Mapping[str, Any] | None:
        """
        Return the state of the last document; ``None`` if there is none.

        Raises:
            ArgumentInvalid: The state is damaged. No document version may be used twice.
        """
        try:
            state = json.loads(files.read_regular(self._path))
            texts = {key: str(state[key]) for key in ("timestamp", "last_updated")}
            return {**state, **texts, "version": int(state["version"]), "statements": dict(state["statements"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArgumentInvalid(f"{self._path} is damaged: {exc}", "remove the file, and give another id") from exc

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the state."""
        with translate_os_errors(self._path):
            files.make_directories(self._home)
            files.save(self._path, json.dumps(state).encode())
