"""Relations between an image's own packages and those of the new base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

from ...model.impact import view
from ...model.impact.verdict import Reason, Verdict
from ...model.impact.view import FileUnreadable
from ...model.packages import apk, dpkg_relations, rpm
from ...model.packages.dpkg import InstalledPackage
from ...model.packages.relations import BrokenRelation, HasPath, RelationInvalid
from ...model.stack import overlay
from ..packages import databases
from .change import BaseChange, installed
from .view import LayeredView

_Judge: TypeAlias = Callable[
    [Iterable[InstalledPackage], Mapping[str, InstalledPackage], HasPath], Iterable[BrokenRelation]
]
_JUDGES: Mapping[str, _Judge] = {
    "dpkg": lambda own, base, _has_path: dpkg_relations.broken_relations(own, base),
    "apk": apk.broken_relations,
    "rpm": rpm.broken_relations,
}


def relation_reasons(change: BaseChange, old: LayeredView, new: LayeredView) -> Iterator[Reason]:
    """
    Yield the reasons for relations that hold over the old base and not over the new base.

    Args:
        change: The change of the base.
        old: The image over the old base.
        new: The image over the new base.
    """
    for manager, broken_relations in _JUDGES.items():
        own = [path for path in databases.DATABASES[manager] if (node := new.lookup(path)) and node.own]
        if not own or not change.changes_packages(manager):
            continue
        try:
            before, after = change.packages(manager)
            packages = installed(new, manager)
            added = [package for name, package in packages.items() if before.get(name) != package]
            known = set(broken_relations(added, before, partial(_has_path, old)))
            violations = list(broken_relations(added, after, partial(_has_path, new)))
        except (FileUnreadable, RelationInvalid) as exc:
            yield Reason(Verdict.NOT_CHECKED, "unreadable", overlay.path_text(own[0]), str(exc))
            continue
        for violation in violations:
            if violation not in known:
                verdict = Verdict.PARTLY if violation.is_revision else Verdict.IMPAIRED
                yield Reason(verdict, "relation", violation.package, violation.text)


def _has_path(side: LayeredView, path: str) -> bool:
    return view.resolve(side, path.encode("utf-8", "surrogateescape")) is not None
