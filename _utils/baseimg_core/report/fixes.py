"""The section about fixes: in how many images each advisory's fix is in effect, and what to do about the others."""

from __future__ import annotations

from collections.abc import Mapping

from ..display import counted
from ..model.fixes.products import Product, Statement, Statements
from .html import Html, details, find_box, join, table, tag

_REMEDIES = 3  # of an advisory; the command lists all
_FEW = 6  # images shown without folding
_SILENT = 20  # nodes that are named


def section(stated: Statements, silent: Mapping[str, str]) -> Html:
    """
    Return the section.

    Args:
        stated: What is known of each advisory in each image.
        silent: Nodes of which nothing, or not everything, is known, with the reason.
    """
    if not stated:
        return tag("p", "No bundle on these nodes names an advisory.", class_="soft")
    rows = [_row(advisory, by_product) for advisory, by_product in sorted(stated.items(), key=_least_covered_first)]
    headings = ["Advisory", "Packages", "In effect", "Not in effect", "Not known", "To do"]
    box = find_box("advisory", "Find an advisory", "find advisory")
    return join(_note(silent), box, tag("div", table("Fixes", headings, rows), class_="advisories"))


def _least_covered_first(item: tuple[str, Mapping[Product, Statement]]) -> tuple[float, str]:
    advisory, by_product = item
    return sum(not (each.remedies or each.doubts) for each in by_product.values()) / len(by_product), advisory


def _row(advisory: str, by_product: Mapping[Product, Statement]) -> list[object]:
    exposed = [product.repository for product, each in by_product.items() if each.remedies]
    doubtful = [product.repository for product, each in by_product.items() if each.doubts and not each.remedies]
    packages = {package.name for each in by_product.values() for package in each.packages}
    remedies = {remedy for each in by_product.values() for remedy in each.remedies}
    covered = len(by_product) - len(exposed) - len(doubtful)
    more = len(remedies) - _REMEDIES
    rest = [f"and {more} more: salt-run baseimg.exposed {advisory}"] if more > 0 else []
    return [
        tag("code", advisory),
        ", ".join(sorted(packages)),
        f"{covered} of {len(by_product)} images",
        _names(exposed),
        _names(doubtful),
        "; ".join([*sorted(remedies)[:_REMEDIES], *rest]),
    ]


def _names(repositories: list[str]) -> object:
    listed = ", ".join(sorted(set(repositories)))
    return listed if len(repositories) <= _FEW else details(counted(len(repositories), "image"), listed)


def _note(silent: Mapping[str, str]) -> Html:
    if not silent:
        return Html("")
    named = ", ".join(list(silent)[:_SILENT])
    more = f" and {len(silent) - _SILENT} more" if len(silent) > _SILENT else ""
    return tag("p", f"Not everything is known of {counted(len(silent), 'node')}: {named}{more}.", class_="soft")
