"""Required fixes: refuse a change whose fixes do not reach every image, and a live content that lacks one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..context import Context
from ..engine.base import Image
from ..errors import FixMissing
from ..model.fixes.effect import State
from ..model.packages.advisories import is_advisory
from ..model.packages.difference import Packages, combine
from . import verdicts
from .bases import Base
from .effects import LiveEffects
from .verdicts import ImageJudge

_EXAMPLES = 3  # paths of one image in an error
_REFUSED = 5  # fixes and images in an error


def check_change(context: Context, base: Base, judge: ImageJudge, images: Iterable[Image]) -> None:
    """
    Refuse a change that lacks a required fix, or whose fix does not reach an image that is started.

    A fix of the live content that the change keeps also counts.

    Args:
        context: The context of the operation; ``protection`` has the required packages, paths and advisories.
        base: The base.
        judge: The judge of the change.
        images: The images that change.

    Raises:
        FixMissing: The message names each fix and image.
    """
    names = context.protection.acceptance(base.reference, base.chain_id).require
    if not names:
        return
    used = context.engine.used_images()
    started = [image for image in images if verdicts.is_started(image, base, used)]
    live = LiveEffects(context, base)
    missing: list[str] = []
    for name in names:
        paths = judge.paths_of(name)
        kept = _kept(live, judge, name)
        if not paths and not kept:
            missing.append(f"{name} is not changed by the bundle")
        for image in started:
            hidden = judge.hidden(image, paths) if paths else []
            reasons = [", ".join(hidden[:_EXAMPLES])] if hidden else list(_unreached(live, image, kept))
            missing += [f"{name} does not reach {image.name}: {reason}" for reason in reasons[:1]]
    _raise_if_any(f"{base.reference} is not changed", missing)


def check_live(context: Context, base: Base, names: Sequence[str]) -> None:
    """
    Refuse a live content that lacks a required fix, or whose fix does not reach an image that is started.

    Paths are not checked: only a change says what is new at them.

    Args:
        context: The context of the operation.
        base: The base.
        names: The required packages, paths and advisories.

    Raises:
        FixMissing: The message names each fix and image.
    """
    live = LiveEffects(context, base)
    missing: list[str] = []
    for name in names:
        if name.startswith("/"):
            continue
        packages = _fixing(live.packages, name)
        if not packages:
            missing.append(f"{name} is not fixed in it{f': {live.unknown}' if live.unknown else ''}")
        for image in live.started:
            reasons = list(_unreached(live, image, packages))
            missing += [f"{name} does not reach {image.name}: {reason}" for reason in reasons[:1]]
    _raise_if_any(f"{base.reference} shows {live.record.live.version}", missing)


def _kept(live: LiveEffects, judge: ImageJudge, name: str) -> set[str]:
    """Return the packages that fix something in the live content, and in the content after a change from it."""
    if name.startswith("/") or not live.is_at(judge.changes.start):
        return set()
    steps = [live.packages, judge.changes.packages]
    return _fixing(live.packages, name) & _fixing(combine(steps), name)


def _fixing(packages: Packages | None, name: str) -> set[str]:
    """Return the updated packages that fix an advisory; for the name of a package, itself if it is updated."""
    if packages is None:
        return set()
    if is_advisory(name):
        return set(packages.fixing(name))
    return {name} & (packages.changed.keys() | packages.added.keys())


def _unreached(live: LiveEffects, image: Image, packages: Iterable[str]) -> Iterable[str]:
    """Yield a reason for each package whose update is not in effect in an image."""
    effects = live.of_image(image) if packages else {}
    for package in sorted(packages):
        each = effects[package]
        if each.state is not State.IN_EFFECT:
            yield ", ".join((each.reason, *each.paths[:_EXAMPLES]))


def _raise_if_any(what: str, missing: Sequence[str]) -> None:
    if missing:
        more = f" and {len(missing) - _REFUSED} more" if len(missing) > _REFUSED else ""
        raise FixMissing(f"{what}: {'; '.join(missing[:_REFUSED])}{more}")
