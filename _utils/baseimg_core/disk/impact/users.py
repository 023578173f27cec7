"""Accounts of an image whose numbers differ from those of the new base."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ...model.impact import accounts
from ...model.impact.accounts import RenumberedAccount
from ...model.impact.config import ProcessConfig
from ...model.impact.permissions import GROUP, PASSWD
from ...model.impact.verdict import Reason, Verdict
from ...model.stack import overlay
from .change import BaseChange
from .own import LayerFiles
from .view import LayeredView


def account_reasons(
    change: BaseChange, new: LayeredView, config: ProcessConfig, own: Sequence[LayerFiles], volumes: Collection[str]
) -> Iterator[Reason]:
    """
    Yield the reasons for renumbered accounts that an image runs as, or that own its files.

    Args:
        change: The change of the base.
        new: The image over the new base.
        config: Its configuration.
        own: The files of its own layers.
        volumes: The mount points of volumes, which may hold files of the old number.
    """
    user, _, group = config.user.partition(":")
    for renumbered in change.renumbered:
        is_account = renumbered.kind == "account"
        node = new.lookup(PASSWD if is_account else GROUP)
        runs_as = renumbered.name == (user if is_account else group)
        if node and node.own:
            yield from _own_number(change, new, renumbered, runs_as)
        elif node:
            owners = [files.users if is_account else files.groups for files in own]
            path = next((numbers[renumbered.old] for numbers in owners if renumbered.old in numbers), None)
            yield from _base_number(renumbered, runs_as, path, volumes)


def _base_number(
    change: RenumberedAccount, runs_as: bool, path: bytes | None, volumes: Collection[str]
) -> Iterator[Reason]:
    """Yield the reason for an account of the base; ``path`` is an own file of the old number."""
    files = f", and {overlay.path_text(path)} belongs to number {change.old}" if path is not None else ""
    if runs_as and (change.new is None or path is not None):
        yield Reason(Verdict.BREAKS, "account", change.name, f"the image runs as {change.text}{files}")
    elif path is not None and change.old:
        yield Reason(Verdict.IMPAIRED, "account", change.name, f"{change.text}{files}")
    elif runs_as and volumes:
        text = f"the image runs as {change.text}, and {min(volumes)} may hold files of number {change.old}"
        yield Reason(Verdict.IMPAIRED, "account", change.name, text)


def _own_number(change: BaseChange, new: LayeredView, renumbered: RenumberedAccount, runs_as: bool) -> Iterator[Reason]:
    """Yield the reason for an account that keeps its number in the image, while the base's files change theirs."""
    is_account = renumbered.kind == "account"
    numbers = accounts.parse(new.content(PASSWD if is_account else GROUP))
    if renumbered.new is None or numbers.get(renumbered.name) != renumbered.old:
        return
    for path, expected in change.expected.by_path.items():
        entry = expected.entry
        if entry and renumbered.new == (entry.uid if is_account else entry.gid):
            file = "passwd" if is_account else "group"
            text = f"{renumbered.text}: the image's own etc/{file} keeps {renumbered.old}, and the new base's"
            text = f"{text} {overlay.path_text(path)} belongs to {renumbered.new}"
            verdict = Verdict.BREAKS if runs_as else Verdict.IMPAIRED
            yield Reason(verdict, "account", renumbered.name, text)
            return
