"""The report page: one HTML file that loads no other resource."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.fixes.products import Statements
from . import sections
from .fixes import section as section_of_fixes
from .html import Html, join, tag
from .style import CSS, JS


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
    anchors = [*((anchor, title) for anchor, title, _ in parts), ("all", "All nodes")]
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title in anchors]
    made = now.replace("T", " ").replace("Z", " UTC")
    body = join(
        tag("a", "Skip to the content", href="#main", class_="skip"),
        tag(
            "header",
            tag("h1", "Base images on the fleet"),
            tag("p", f"{', '.join(fleet['bases']) or 'No bases'} · {made}", class_="soft"),
            tag("nav", tag("ul", *links), aria_label="Sections"),
        ),
        tag("main", sections.tiles(fleet), *(_section(*part) for part in parts), id="main"),
        tag(
            "footer",
            f"Made by salt-run baseimg.report at {made}. This file is complete and contacts no server.",
        ),
        tag("script", Html(JS)),
    )
    return "<!DOCTYPE html>\n" + tag("html", _head(made), "\n", tag("body", body), lang="en") + "\n"


def _head(made: str) -> Html:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"baseimg: the fleet at {made}"),
        tag("style", Html(CSS)),
    )


def _policy() -> str:
    """Return a Content-Security-Policy that allows only the report's own script and inline styles."""
    digest = base64.b64encode(hashlib.sha256(JS.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def _section(anchor: str, title: str, content: Html) -> Html:
    label = f"{anchor}-title"
    return join("\n", tag("section", tag("h2", title, id=label), content, id=anchor, aria_labelledby=label))
