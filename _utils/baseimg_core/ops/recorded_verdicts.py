"""The recorded verdicts on images over content that returns without a judgement: rollbacks are never refused."""

from __future__ import annotations

from ..context import Context
from ..disk.impact import judgements
from ..model.impact.evidence import Evidence
from ..model.impact.verdict import Verdict
from ..model.store.record import Record
from . import bases
from .bases import Base

_CLAUSES = {Verdict.BREAKS: "breaks", Verdict.IMPAIRED: "is impaired"}


def warnings(context: Context, base: Base, record: Record) -> list[str]:
    """
    Return a warning for each image that breaks or is impaired over the live content.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
    """
    over = judgements.read(base.store.layout.judged).evidence.get(record.live.id, Evidence())
    images = bases.images_on(context.engine, base.chain_id)
    findings = [(image.name, over.images[image.id]) for image in images if image.id in over.images]
    return [
        f"{name} {_CLAUSES[each.verdict]} over {record.live.version}: {each.reasons[0].subject} {each.reasons[0].text}"
        for name, each in findings
        if each.verdict in _CLAUSES and each.reasons
    ]
