"""The section about fixes: in how many images each advisory's fix is in effect, and what to do about the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ..model.fixes.products import Product, Statement, Statements
from .templates import render

_REMEDIES = 3  # of an advisory; the command lists all
_FEW = 6  # images shown without folding
_SILENT = 20  # nodes that are named


def section(stated: Statements, silent: Mapping[str, str]) -> Markup:
    """
    Return the section.

    Args:
        stated: What is known of each advisory in each image.
        silent: Nodes of which nothing, or not everything, is known, with the reason.
    """
    rows = [_row(advisory, by_product) for advisory, by_product in sorted(stated.items(), key=_least_covered_first)]
    return render("fixes", few=_FEW, named=_SILENT, rows=rows, silent=list(silent))


def _least_covered_first(item: tuple[str, Mapping[Product, Statement]]) -> tuple[float, str]:
    advisory, by_product = item
    return sum(not (each.remedies or each.doubts) for each in by_product.values()) / len(by_product), advisory


def _row(advisory: str, by_product: Mapping[Product, Statement]) -> dict[str, Any]:
    exposed = [product.repository for product, each in by_product.items() if each.remedies]
    doubtful = [product.repository for product, each in by_product.items() if each.doubts and not each.remedies]
    packages = {package.name for each in by_product.values() for package in each.packages}
    remedies = {remedy for each in by_product.values() for remedy in each.remedies}
    covered = len(by_product) - len(exposed) - len(doubtful)
    more = len(remedies) - _REMEDIES
    rest = [f"and {more} more: salt-run baseimg.exposed {advisory}"] if more > 0 else []
    return {
        "advisory": advisory,
        "packages": ", ".join(sorted(packages)),
        "covered": f"{covered} of {len(by_product)} images",
        "exposed": exposed,
        "doubtful": doubtful,
        "remedies": "; ".join([*sorted(remedies)[:_REMEDIES], *rest]),
    }
