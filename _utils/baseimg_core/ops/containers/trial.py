"""Run trials: commands over the new content of a base, in throw-away containers of application images."""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...context import Context
from ...disk.containers.sandbox import Sandbox
from ...disk.impact import judgements
from ...disk.impact.view import BaseOnDisk, LayeredView
from ...disk.stack.directories import Stack
from ...engine.base import Image
from ...errors import ArgumentInvalid, TrialFailed
from ...model.containers import trial as trials
from ...model.containers.sandbox import UserUnknown
from ...model.containers.trial import Trial, TrialOutcome
from ...model.impact import config as configs
from ...model.impact import dependencies, started
from ...model.impact.view import FileUnreadable, file_at
from ...model.store.record import Generation, Record
from .. import bases
from ..bases import Base
from ..nest import Nest

_MISSING = "not found"  # printed by glibc's loader for a missing library
_OUTPUT = 500  # characters of the output in an error


def run_trials(context: Context, nest: Nest, generation: Generation) -> dict[str, list[str]]:
    """
    Run the declared trials of a base over a generation. Returning to pristine is never refused.

    A trial that passed when the generation was prepared is not repeated.

    Args:
        context: The context of the operation; ``protection`` has the declared trials.
        nest: The nest of the base. Its locks are held.
        generation: The generation to swap in.

    Returns:
        Keys of the passed trials by image ID, for :attr:`disk.impact.judgements.Judgements.passed`.

    Raises:
        TrialFailed: A trial failed.
        TrialUnavailable: This node cannot run trials.
    """
    base, record = nest.changing.base, nest.changing.record
    declared = context.protection.acceptance(base.reference, base.chain_id).trials
    if not declared or not generation.number:
        return {}
    unchanged = {name for kept in nest.kept(generation.chain_id) for name in kept.images}
    passed = dict(judgements.read(base.store.layout.judged).passed.get(generation.id, {}))
    for image in bases.images_on(context.engine, base.chain_id):
        if image.tags and base.reference not in image.tags and image.name not in unchanged:
            labels = image.config.get("Labels") or {}
            selected = {_key(trial): trial for trial in declared if trials.selects(trial, image.tags, labels)}
            known = passed.get(image.id, ())
            pending = [trial for key, trial in selected.items() if key not in known]
            _check_image(context, base, record, generation, image, pending)
            passed[image.id] = list(selected)
    return passed


def _key(trial: Trial) -> str:
    """Return a digest of a trial's declaration."""
    return hashlib.sha256(repr(trial).encode()).hexdigest()


def _check_image(
    context: Context, base: Base, record: Record, generation: Generation, image: Image, pending: Sequence[Trial]
) -> None:
    for trial in pending:
        outcome, failure = run(context, base, record, generation, image, trial)
        if failure:
            output = outcome.output[-_OUTPUT:].strip()
            raise TrialFailed(
                f"{base.reference} is not changed to {generation.version}: trial of {image.name}: "
                f"{shlex.join(trial.command) or 'the loader'} {failure}{output and f': {output}'}"
            )


def run(
    context: Context, base: Base, record: Record, generation: Generation, image: Image, trial: Trial
) -> tuple[TrialOutcome, str]:
    """
    Run one trial of an image over a generation.

    Args:
        context: The context of the operation. The base is locked.
        base: The base.
        record: The base's record.
        generation: The generation.
        image: An image on the base.
        trial: The trial.

    Returns:
        The outcome, and why the trial failed as a clause; empty if it passed.

    Raises:
        ArgumentInvalid: The image is not built on the base.
        TrialUnavailable: This node cannot run trials.
    """
    bases.check_owners(context.engine, "a trial")
    height = image.height(base.chain_id)
    if not height:
        raise ArgumentInvalid(f"{image.name} is not built on {base.reference}", "baseimg.impact lists its images")
    content = base.store.path(record, generation.number)
    layers = [*image.directories[: height - 1], content, *image.directories[height:]][::-1]
    view = LayeredView((), BaseOnDisk(Stack(layers)), {})
    place = base.store.layout.staging  # recovery removes it
    os.mkdir(place, 0o700)
    try:
        accounts = (_text(view, b"etc/passwd"), _text(view, b"etc/group"))
        name = f"baseimg-trial-{secrets.token_hex(8)}"
        sandbox = Sandbox(layers, image.config, accounts, place, name, lambda: _report(context, image))
        if not trial.command:
            return _list_libraries(view, sandbox, image, trial)
        outcome = sandbox.run(trial.command, trial.timeout, trial.memory << 20)
    except UserUnknown as exc:
        outcome = TrialOutcome(None, "", str(exc))
    finally:
        shutil.rmtree(place)
    return outcome, trials.failure(trial, outcome)


def _report(context: Context, image: Image) -> None:
    if context.progress:
        context.progress(f"trial of {image.name}", 0, 0)


def _text(view: LayeredView, path: bytes) -> str:
    resolved = file_at(view, path)
    return view.content(resolved).decode("utf-8", "replace") if resolved else ""


def _list_libraries(view: LayeredView, sandbox: Sandbox, image: Image, trial: Trial) -> tuple[TrialOutcome, str]:
    """Let the image's own dynamic loader list the libraries of each started program. Executes no program."""
    outcome, failure = TrialOutcome(0, ""), ""
    try:
        for program in _programs(view, image):
            if isinstance(program, str):
                return outcome, program
            loader, place = program
            command = (os.fsdecode(loader), "--list", os.fsdecode(place))
            loaded = sandbox.run(command, trial.timeout, trial.memory << 20)
            outcome = replace(loaded, output=outcome.output + loaded.output)
            if failure := _unloadable(trial, loaded):
                return outcome, f"{os.fsdecode(place)}: {failure}"
    except FileUnreadable as exc:
        failure = str(exc)
    return outcome, failure


def _unloadable(trial: Trial, loaded: TrialOutcome) -> str:
    """Return why the loader cannot load a program, in its own words; empty if it can."""
    lines = [line.strip() for line in loaded.output.splitlines() if line.strip()]
    missing = [line for line in lines if _MISSING in line]
    failure = trials.failure(Trial(timeout=trial.timeout), loaded)
    return next(iter(missing), "") or (lines[-1] if failure and loaded.exit_code and lines else failure)


def _programs(view: LayeredView, image: Image) -> Iterator[tuple[bytes, bytes] | str]:
    """Yield loader and path of each dynamic program that the image starts; a text for a missing program."""
    config = configs.parse(image.config)
    search = config.search_path
    words = (*config.entrypoint, *config.command)
    pending: list[tuple[bytes, str]] = [(os.fsencode(program), "") for program in started.programs(words)]
    for number, (name, script) in enumerate(pending):
        place = dependencies.find_program(view, name, search, os.fsencode(config.directory))
        resolved = file_at(view, place) if place else None
        if place is None or resolved is None:
            if script:
                yield f"{script}: its interpreter {os.fsdecode(name)} is missing"
            elif number == 0:
                yield f"{os.fsdecode(name)} is missing"
            continue
        elf = view.elf(resolved)
        if elf and elf.interpreter:
            yield elf.interpreter, place
        elif elf is None:
            interpreters: Sequence[bytes] = dependencies.interpreter_of(view, resolved, search) or ()
            pending += [(interpreter, os.fsdecode(place)) for interpreter in interpreters]
