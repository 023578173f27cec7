"""Whether an update is in effect in an image or a container, judged by the files that its package owns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..packages.difference import Packages
from ..stack import overlay

PATHS = 5  # listed for one package of an image
# these files contain no fix, and many images remove them
_DOCUMENTATION = (b"usr/share/doc/", b"usr/share/man/", b"usr/share/info/", b"usr/share/locale/", b"usr/share/lintian/")


class State(Enum):
    """The state of a fix in an image or a container, worst first."""

    NOT_HERE = "not here"
    OVERRIDDEN = "overridden"
    MASKED = "masked"
    SPLIT = "split"
    UNKNOWN = "unknown"
    AFTER_RESTART = "after restart"
    IN_EFFECT_LIVE = "in effect live"
    IN_EFFECT = "in effect"

    @property
    def rank(self) -> int:
        """The position, worst first."""
        return list(State).index(self)


@dataclass(frozen=True, slots=True)
class Effect:
    """The state of one package's update, and why."""

    #: The state.
    state: State
    #: The reason; empty for *in effect*.
    reason: str = ""
    #: The first files that hide the update, as text.
    paths: tuple[str, ...] = ()
    #: The number of files that hide the update.
    hidden: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without empty fields."""
        data = {"state": self.state.value, "reason": self.reason, "paths": list(self.paths), "hidden": self.hidden}
        return {key: value for key, value in data.items() if value}


def state_of(text: object) -> State:
    """Return the state with this name; *unknown* for names that this release does not know."""
    return next((state for state in State if state.value == text), State.UNKNOWN)


IN_EFFECT = Effect(State.IN_EFFECT)


def unknown(reason: str) -> Effect:
    """Return the effect of an update that cannot be judged."""
    return Effect(State.UNKNOWN, reason)


def decisive(paths: Iterable[bytes]) -> set[bytes]:
    """Return the files that can carry a fix: all except documentation."""
    return {path for path in paths if not path.startswith(_DOCUMENTATION)}


def of_files(owned: Collection[bytes], hidden: Mapping[bytes, str]) -> Effect:
    """
    Judge an update by the files of its package.

    Args:
        owned: The changed files of the package that can carry a fix.
        hidden: The paths that an image hides, with the base whose layers hide them; empty for the image's own layers
            and volumes.
    """
    own = sorted(path for path in owned if path in hidden)
    if not own:
        return IN_EFFECT
    paths = tuple(overlay.path_text(path) for path in own[:PATHS])
    masking = {hidden[path] for path in own}
    if "" not in masking:
        reason = f"the image shows the files of {', '.join(sorted(masking))}, which is declared at its own version"
        return Effect(State.MASKED, reason, paths, len(own))
    if len(own) == len(owned):
        return Effect(State.OVERRIDDEN, "the image has its own files of the package", paths, len(own))
    return Effect(State.SPLIT, f"{len(own)} of {len(owned)} files are the image's own", paths, len(own))


def after_restart(effect: Effect, mounted: str) -> Effect:
    """Return the effect in a container that has older content mounted; ``mounted`` is its version."""
    if effect.state is not State.IN_EFFECT:
        return effect
    return Effect(State.AFTER_RESTART, f"the container runs on {mounted}")


def outdated_files(paths: Collection[bytes]) -> Effect:
    """Return the effect in a container on the live content that has files of other content mounted over it."""
    texts = tuple(overlay.path_text(path) for path in sorted(paths)[:PATHS])
    return Effect(State.AFTER_RESTART, "files of another version are mounted into the container", texts, len(paths))


def in_effect_live(paths: Collection[bytes]) -> Effect:
    """Return the effect in a container on older content that has every file of the update mounted."""
    texts = tuple(overlay.path_text(path) for path in sorted(paths)[:PATHS])
    return Effect(State.IN_EFFECT_LIVE, "its files are mounted into the container", texts)


def updates(packages: Packages) -> dict[str, dict[str, Any]]:
    """
    Return the updates of a package difference as plain data.

    Returns:
        By package, or absolute path of a file outside of packages: ``from`` and ``to`` (versions; empty if added or
        removed, or for a path), ``advisories`` (ID → ``changelog`` or ``operator``) and ``unread`` (why more may be
        fixed).
    """
    versions = {name: ("", version) for name, version in packages.added.items()}
    versions.update({name: (version, "") for name, version in packages.removed.items()})
    versions.update(packages.changed)
    versions.update({name: ("", "") for name in (*packages.fixes, *packages.unread) if name not in versions})
    return {
        name: {
            "from": old,
            "to": new,
            "advisories": {advisory: packages.source(name, advisory) for advisory in packages.fixes.get(name, ())},
            **({"unread": packages.unread[name]} if name in packages.unread else {}),
        }
        for name, (old, new) in sorted(versions.items())
    }
