"""The space for the masks of the bases above, before they are made."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack, StackNode
from ..disk.store import space
from ..model.stack import overlay
from ..model.stack.entry import Entry, Kind
from ..model.store import nests
from . import bases
from .nest import Nest
from .plan import Catalogue, Plan
from .verdicts import ImageJudge


def needed(nest: Nest, plan: Plan, catalogue: Catalogue, judge: ImageJudge | None) -> tuple[int, int]:
    """
    Return the content bytes and paths that the masks of a swap take at most.

    A mask has its base's own layer, and the present content of each path that changes below.

    Args:
        nest: The nest of the base.
        plan: The plan.
        catalogue: The declared bundles.
        judge: The judge of the plan's bundles; ``None`` without one.
    """
    target = nests.content(plan.generation) if plan.generation else catalogue.manifest(plan.route[-1]).target.chain_id
    members = nest.unmasked_uppers(target)
    if not members:
        return 0, 0
    size, paths = _below(nest, plan, catalogue, judge)
    own = [space.measure(member.base.directory) for member in members]
    return len(own) * size + sum(each[0] for each in own), len(own) * paths + sum(each[1] for each in own)


def _below(nest: Nest, plan: Plan, catalogue: Catalogue, judge: ImageJudge | None) -> tuple[int, int]:
    """Return the size and the number of the paths of the changing base that a swap replaces."""
    changing = nest.changing
    lower = bases.pristine_lower(changing.base)
    old = Stack([changing.base.directory, *lower])
    if plan.generation and plan.generation.inode > 0:
        changes = compare(old, Stack([changing.path(plan.generation.number), *lower]), contents=False)
        after: Mapping[bytes, Entry | None] = {change.path: change.entry for change in changes}
    elif judge:
        after = {path: expected.entry for path, expected in judge.changes.expected.by_path.items()}
    else:  # a simulated content, or a delta that is unreadable before the bundle below it is applied
        totals = [catalogue.manifest(version).totals for version in plan.route]
        return sum(total.bytes for total in totals), sum(total.entries + total.removed for total in totals)
    parents = {parent for path in after for parent in overlay.ancestors(path)}
    size, paths = 0, len(parents | after.keys())
    for path, entry in after.items():
        node = old.find(path)
        if node and not (node.is_dir and entry and entry.kind is Kind.DIRECTORY):
            replaced = _content(old, node)
            size, paths = size + replaced[0], paths + replaced[1]
    return size, paths


def _content(stack: Stack, node: StackNode) -> tuple[int, int]:
    """Return the content bytes of a file or a tree, and the number of paths below it."""
    if not node.is_dir:
        st = os.lstat(node.top)
        return st.st_size if stat.S_ISREG(st.st_mode) else 0, 0
    children = [_content(stack, child) for child in stack.children(node).values()]
    return sum(child[0] for child in children), len(children) + sum(child[1] for child in children)
