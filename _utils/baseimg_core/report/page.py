"""The report page: one HTML file that loads no other resource."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..model.fixes.products import Statements
from . import sections
from .fixes import section as section_of_fixes
from .style import CSS, JS
from .templates import render


def page(
    fleet: Mapping[str, Any],
    now: str,
    rollout: Mapping[str, Any] | None = None,
    impacts: Sequence[Mapping[str, Any]] = (),
    fixes: tuple[Statements, Mapping[str, str]] | None = None,
) -> str:
    """
    Render the report.

    Args:
        fleet: the result of :func:`model.rollout.fleet.collect`.
        now: the time of the report (ISO 8601, UTC).
        rollout: a rollout's record as plain data; ``None`` omits its section.
        impacts: mappings with ``node`` and ``impact``, the result of ``baseimg.impact`` on that node. None of them
            omits the sections on impact and packages.
        fixes: the state of each advisory in each image, and the nodes of which not everything is known; ``None`` omits
            the section.

    Returns:
        The HTML document.
    """
    parts = [("rollout", "Rollout", sections.rollout(rollout, now))] if rollout else []
    parts.append(("failures", "Failures", sections.failures(fleet, rollout)))
    parts.append(("nodes", "Nodes by version", sections.nodes(fleet, rollout)))
    if fixes:
        parts.append(("fixes", "Fixes", section_of_fixes(*fixes)))
    if impacts:
        parts.append(("impact", "Impact on application images", sections.impact(impacts)))
        parts.append(("packages", "Packages", sections.packages(impacts)))
    document = render(
        "page",
        anchors=[*((anchor, title) for anchor, title, _ in parts), ("all", "All nodes")],
        bases=list(fleet["bases"]),
        css=Markup(CSS),
        made=now.replace("T", " ").replace("Z", " UTC"),
        policy=_policy(),
        script=Markup(JS),
        sections=parts,
        tiles=sections.tiles(fleet),
    )
    return str(document)  # plain text: what is joined to Markup is escaped


def _policy() -> str:
    """Return a Content-Security-Policy that allows only the report's own script and inline styles."""
    digest = base64.b64encode(hashlib.sha256(JS.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
