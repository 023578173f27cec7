"""HTML elements as functions, which escape every value that is not HTML yet."""

from __future__ import annotations

import html

_VOID = frozenset({"input", "meta"})
_KEPT = "\n\t"


class Html(str):
    """A text of HTML, which is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """
    Return a value as HTML.

    Unprintable characters (control characters, marks that change the direction of text) become U+FFFD.
    """
    if isinstance(value, Html):
        return value
    plain = str(value)
    if not plain.isprintable():
        plain = "".join(character if character.isprintable() or character in _KEPT else "\ufffd" for character in plain)
    return Html(html.escape(plain))


def join(*parts: object) -> Html:
    """Concatenate parts as HTML; skip ``None``."""
    return Html("".join(text(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """
    Return an element.

    Args:
        name: the element's name.
        children: its content.
        attributes: ``class_`` becomes class, and ``aria_label`` becomes aria-label. ``True`` gives an attribute
            without a value. ``None`` and ``False`` omit the attribute.

    Returns:
        The element; a void element has no end tag.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*children)}</{name}>")


def table(caption: str, headings: list[str], rows: list[list[object]], numbers: frozenset[int] = frozenset()) -> Html:
    """
    Return a table whose first column is the heading of its row.

    Args:
        caption: the caption, also the label of the scrollable region.
        headings: one text for each column.
        rows: the cells of each row.
        numbers: indexes of the columns that are aligned to the right.

    Returns:
        The table in a scrollable region. On a narrow screen each row is a card: the style has the headings, by column,
        as values for the labels of its cells.
    """
    labels = ";".join(f"--h{at}:'{heading}'" for at, heading in enumerate(headings, 1))
    head = [tag("th", cell, scope="col", class_="n" if at in numbers else None) for at, cell in enumerate(headings)]
    body = []
    for row in rows:
        cells = [
            tag("td" if at else "th", cell, scope=None if at else "row", class_="n" if at in numbers else None)
            for at, cell in enumerate(row)
        ]
        body.append(tag("tr", *cells))
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body), style=labels),
        class_="wide",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def details(summary: object, *children: object, **attributes: object) -> Html:
    """Return an element that shows its children only when the reader opens it."""
    return tag("details", tag("summary", summary), *children, **attributes)


def find_box(identity: str, label: str, css: str = "find") -> Html:
    """
    Return a search field with its label and its result, hidden until the page's script shows it.

    Args:
        identity: The ``id`` of the field.
        label: The text of the label.
        css: The classes of the box.
    """
    return tag(
        "div",
        tag("label", label, for_=identity),
        tag("input", id=identity, type="search", autocomplete="off", spellcheck="false"),
        tag("output", for_=identity, class_="soft"),
        class_=css,
        hidden=True,
    )
