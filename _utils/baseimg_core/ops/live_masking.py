"""
The fixes that live masks hide (ADR 16), so that every run reports them.

Each pair of contents is compared once: the result is recorded with the judgements of the base.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ..disk.impact import judgements
from ..disk.impact.masked import Masked
from ..errors import SpaceExhausted
from ..linux.oserrors import translate_os_errors
from ..model.store import nests
from .masking import Masking, as_dict, masked_of
from .masks import NestedBase
from .nest import Nest


def effects(nest: Nest, masking: Masking, save: bool = True) -> dict[str, Any]:
    """
    Return ``kept`` and ``masked``, as in the result of ``baseimg.converge``, for a base whose content stays.

    Args:
        nest: The nest of the base.
        masking: The masking of its live content.
        save: False to record nothing.
    """
    changing, layout = nest.changing, nest.changing.base.store.layout
    uppers = nest.exact_uppers() if changing.live.number else []
    above = {member.base.chain_id: _pair(changing, member) for member in uppers}
    below = {member.base.chain_id: _pair(member, changing) for member in masking.changed_below()}
    judged = judgements.read(layout.judged)
    pairs = {*above.values(), *below.values()}
    known = {pair: hidden for pair, hidden in judged.masked.items() if pair in pairs}
    if pairs - known.keys():
        for own, compared in ((above, masking.above), (below, masking.below)):
            known |= {own[chain_id]: as_dict(hidden) or {} for chain_id, hidden in compared.items()}
    if save and known != judged.masked and os.path.isdir(layout.home):
        judged.masked = known
        with contextlib.suppress(SpaceExhausted), translate_os_errors(layout.judged):
            judged.save(layout.judged)
    nothing = None if changing.live.number else as_dict(Masked())
    kept = [each.as_dict(known.get(above.get(each.chain_id, ""), nothing)) for each in nest.kept()]
    masked = {chain_id: known.get(pair) for chain_id, pair in below.items()}
    return {"kept": kept, "masked": masked_of(masking.changed_below(), masked)}


def _pair(fixed: NestedBase, exact: NestedBase) -> str:
    """Return the key of a changed base and an exact base above it, which hides parts of the change."""
    return f"{fixed.base.chain_id} {nests.content(fixed.live)}: {exact.base.chain_id} {nests.content(exact.live)}"
