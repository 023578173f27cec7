"""
Image configuration that containers inherit, and its difference between two versions of a base.

OCI image spec, config.md, ``config``; ``Healthcheck``, ``Shell`` and ``OnBuild`` are Docker's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import BundleInvalid
from .dependencies import DEFAULT_PATH

FIELDS = (
    "Env",
    "User",
    "WorkingDir",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "StopSignal",
    "ExposedPorts",
    "Healthcheck",
    "Shell",
    "OnBuild",
    "Labels",
)
_MAX_TEXT = 4096  # characters of a name or a value in a manifest
_MAX_CHANGES = 512
_MAX_JSON = 1 << 18  # bytes
# a child image has its own labels, and no program reads those of its base
_UNIMPORTANT = ("Labels.",)
# Docker's alone: copies between formats drop them
_DOCKER = ("Healthcheck", "Shell", "OnBuild")


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """The part of an image's configuration that applies to processes in its containers."""

    #: Environment variables by name.
    environment: Mapping[str, str]
    #: The words of the entry point.
    entrypoint: tuple[str, ...] = ()
    #: The words of the command.
    command: tuple[str, ...] = ()
    #: ``USER`` or ``USER:GROUP``; empty for root.
    user: str = ""
    #: ``WorkingDir``: relative paths of a command start here.
    directory: str = "/"
    #: Declared mount points, sorted.
    volumes: tuple[str, ...] = ()
    #: The health check in Docker's form: ``CMD`` or ``CMD-SHELL``, then the words of the command.
    health: tuple[str, ...] = ()

    @property
    def search_path(self) -> bytes:
        """The value of ``PATH``, or the default one: where :func:`dependencies.find_program` looks."""
        return self.environment.get("PATH", "").encode("utf-8", "surrogateescape") or DEFAULT_PATH


def parse(raw: Mapping[str, Any]) -> ProcessConfig:
    """Parse an image's raw configuration. Fields of an unexpected type count as absent."""
    health = raw.get("Healthcheck")
    volumes = raw.get("Volumes")
    return ProcessConfig(
        environment=dict(text.partition("=")[::2] for text in _texts(raw.get("Env"))),
        entrypoint=_words(raw.get("Entrypoint")),
        command=_words(raw.get("Cmd")),
        user=str(raw.get("User") or ""),
        directory=str(raw.get("WorkingDir") or "/"),
        volumes=tuple(sorted(volumes)) if isinstance(volumes, Mapping) else (),
        health=_texts(health.get("Test")) if isinstance(health, Mapping) else (),
    )


def _words(value: object) -> tuple[str, ...]:
    return ("/bin/sh", "-c", value) if isinstance(value, str) and value else _texts(value)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """
    Compare two configurations.

    Args:
        old: The raw configuration of the old version.
        new: The raw configuration of the new version.

    Returns:
        The old and the new value by name (``Env.PATH``, ``User``); ``""`` for an absent value. If the difference does
        not fit into a manifest, labels are dropped first, then the last names.
    """
    before, after = _flat(old), _flat(new)
    names = sorted(before.keys() | after.keys())
    pairs = {name: (before.get(name, ""), after.get(name, "")) for name in names}
    changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if _fits(changed):
        return changed
    # drop labels first: they may hold whole documents, and no program reads them
    changed = {name: pair for name, pair in changed.items() if not name.startswith(_UNIMPORTANT)}
    while not _fits(changed):
        changed.popitem()
    return changed


def _fits(changes: Mapping[str, Sequence[str]]) -> bool:
    return len(changes) <= _MAX_CHANGES and len(json.dumps(changes)) <= _MAX_JSON


def combine(steps: Sequence[Mapping[str, tuple[str, str]] | None]) -> dict[str, tuple[str, str]] | None:
    """
    Combine the differences of consecutive bundles.

    Returns:
        Old and new values by name; ``None`` if a bundle does not record its difference.
    """
    combined: dict[str, tuple[str, str]] = {}
    for step in steps:
        if step is None:
            return None
        for name, (old, new) in step.items():
            combined[name] = (combined.get(name, (old, ""))[0], new)
    return {name: pair for name, pair in combined.items() if pair[0] != pair[1]}


def parse_difference(raw: object) -> dict[str, tuple[str, str]] | None:
    """
    Parse and validate a manifest's ``config``.

    Returns:
        Old and new values by name; ``None`` if the manifest has no ``config``.

    Raises:
        BundleInvalid: A field is malformed or too large.
    """
    if raw is None:
        return None
    if not isinstance(raw, dict) or not all(map(_is_change, raw.items())) or not _fits(raw):
        raise BundleInvalid(
            f"manifest field config is {str(raw)[:80]!r}, expected up to {_MAX_CHANGES} names, each with an old and a "
            "new text"
        )
    return {name: (old, new) for name, (old, new) in raw.items()}


def _is_change(item: tuple[str, object]) -> bool:
    name, pair = item
    return _is_text(name) and isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT and (value.isprintable() or not value)


def without_docker_fields(changes: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the difference without the fields that an image has in Docker's format alone."""
    return {name: pair for name, pair in changes.items() if name.partition(".")[0] not in _DOCKER}


def as_dict(changes: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Return a difference as plain data, in its JSON form."""
    return {name: list(pair) for name, pair in changes.items()}


def inherited(changes: Mapping[str, tuple[str, str]], image: Mapping[str, Any]) -> list[str]:
    """
    List the changes that an image lacks because it inherited the old value at build time.

    Args:
        changes: The difference of the base's configuration.
        image: The image's raw configuration.

    Returns:
        The names in ``changes``, without labels, whose old value the image still has.
    """
    own = _flat(image)
    return [
        name for name, (old, _) in changes.items() if own.get(name, "") == old and not name.startswith(_UNIMPORTANT)
    ]


def _flat(raw: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name in FIELDS:
        value = raw.get(name)
        if name == "Env":
            for text in _texts(value):
                key, _, content = text.partition("=")
                flat[f"Env.{key}"] = content
        elif isinstance(value, Mapping):
            flat.update({f"{name}.{key}": _display(content) or "yes" for key, content in value.items()})
        elif value:
            flat[name] = _display(value)
    return {_bounded(name): _bounded(value) for name, value in flat.items()}


def _display(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "" if value in (None, {}) else str(value)


def _bounded(text: str) -> str:
    """Make a text printable and short enough for the manifest's validation."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text[:_MAX_TEXT]
