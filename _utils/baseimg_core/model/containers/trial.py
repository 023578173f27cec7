"""
Trials: commands that must succeed over the new content of a base before the content is swapped in.

A trial runs in a throw-away container of an application image, without network and host mounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..policy import validation
from ..policy.validation import wrong
from . import policy
from .policy import Selector, Selectors

AUTO = "auto"
TIMEOUT = 60.0  # seconds
MEMORY = 512  # MB
_KEYS = frozenset({"match", "command", "expect", "timeout", "memory"})
_EXPECTED = "auto, a mapping with command and more, or a list of these mappings"


@dataclass(frozen=True, slots=True)
class Trial:
    """One declared trial."""

    #: The words of the command; empty to run the dynamic loader over the programs that the image starts.
    command: tuple[str, ...] = ()
    #: Selectors of images, by reference and by label.
    match: Selectors = (Selector("*"),)
    #: The exit code that passes; or a text that the output must contain, with exit code 0.
    expect: int | str = 0
    #: Seconds after which the command is killed.
    timeout: float = TIMEOUT
    #: Memory of the command and its files, in MB.
    memory: int = MEMORY


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """The outcome of a command in a throw-away container."""

    #: The exit code; ``None`` if the command did not start or was killed at its timeout.
    exit_code: int | None
    #: The last part of stdout and stderr.
    output: str
    #: Why the command did not start; empty if it started.
    error: str = ""


@dataclass(frozen=True, slots=True)
class ImageName:
    """A reference and the labels of an image, for selectors."""

    #: The reference.
    name: str
    #: The labels.
    labels: Mapping[str, str]


def parse(raw: object, key: str = "trial") -> tuple[Trial, ...]:
    """
    Parse and validate declared trials.

    Args:
        raw: ``auto``, a mapping with ``command``, a list of mappings, or ``None``.
        key: The pillar key, for errors.

    Returns:
        The trials in the declared order; empty for ``None``.

    Raises:
        ArgumentInvalid: A key or a value is wrong.
    """
    if raw is None:
        return ()
    if raw == AUTO:
        return (Trial(),)
    if isinstance(raw, (list, tuple)):
        return tuple(_trial(trial, f"{key}:{number}") for number, trial in enumerate(raw))
    return (_trial(raw, key),)


def _trial(raw: object, key: str) -> Trial:
    given = validation.fields(raw, _KEYS, key, _EXPECTED)
    if "command" not in given:
        raise wrong(key, raw, "a command: auto, a command line, or a list of words")
    command, expect = given["command"], given.get("expect", 0)
    if isinstance(expect, bool) or not (isinstance(expect, str) or (isinstance(expect, int) and 0 <= expect < 256)):
        raise wrong(f"{key}:expect", expect, "an exit code, 0 to 255, or a text in the output")
    return Trial(
        command=() if command == AUTO else policy.command_words(command, f"{key}:command"),
        match=policy.selectors(given.get("match"), f"{key}:match") or Trial().match,
        expect=expect,
        timeout=policy.number(given, "timeout", 1, TIMEOUT, key, "seconds, 1 or more"),
        memory=int(policy.number(given, "memory", 16, MEMORY, key, "MB, 16 or more", int)),
    )


def selects(trial: Trial, tags: tuple[str, ...], labels: Mapping[str, str]) -> bool:
    """
    True if a trial applies to an image with these references and labels.

    Args:
        trial: The trial.
        tags: The references of the image.
        labels: The labels of the image.
    """
    return any(policy.is_selected(trial.match, ImageName(tag, labels)) for tag in tags or ("",))


def failure(trial: Trial, outcome: TrialOutcome) -> str:
    """
    Compare an outcome with the expectation of a trial.

    Args:
        trial: The trial.
        outcome: The outcome of its command.

    Returns:
        Why the trial failed, as a clause; empty if it passed.
    """
    if outcome.error:
        return f"did not start: {outcome.error}"
    if outcome.exit_code is None:
        return f"was killed after {trial.timeout:g} seconds"
    if isinstance(trial.expect, str):
        if outcome.exit_code == 0 and trial.expect not in outcome.output:
            return f"printed no {trial.expect!r}"
        expected = 0
    else:
        expected = trial.expect
    return "" if outcome.exit_code == expected else f"exited with {outcome.exit_code}, expected {expected}"
