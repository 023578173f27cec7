"""Elements as functions; what is not HTML already is escaped."""

from __future__ import annotations

import html

_VOID = frozenset({"input", "meta"})
_KEPT = "\n\t"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as HTML. What cannot be seen (control characters, marks that turn the direction of text) shows as �."""
    if isinstance(value, Html):
        return value
    plain = str(value)
    if not plain.isprintable():
        plain = "".join(one if one.isprintable() or one in _KEPT else "\ufffd" for one in plain)
    return Html(html.escape(plain))


def join(*parts: object) -> Html:
    """Parts one after the other; ``None`` is nothing."""
    return Html("".join(text(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """
    An element. ``class_`` is the attribute class, ``aria_label`` is aria-label; one that is ``None`` or false is left
    out.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*children)}</{name}>")


def table(caption: str, headings: list[str], rows: list[list[object]], numbers: frozenset[int] = frozenset()) -> Html:
    """A table whose first column names the row. ``numbers`` are the columns to be aligned at the right."""
    head = [tag("th", one, scope="col", class_="n" if at in numbers else None) for at, one in enumerate(headings)]
    body = []
    for row in rows:
        cells = [
            tag("td" if at else "th", one, scope=None if at else "row", class_="n" if at in numbers else None)
            for at, one in enumerate(row)
        ]
        body.append(tag("tr", *cells))
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body)),
        class_="wide",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def details(summary: object, *children: object, **attributes: object) -> Html:
    return tag("details", tag("summary", summary), *children, **attributes)
