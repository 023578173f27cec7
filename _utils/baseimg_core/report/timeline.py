"""Timeline of a rollout: a bar for each wave, and a curve of updated nodes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..display import counted, duration
from .data import seconds
from .templates import render

_ROW, _CURVE = 24, 110  # heights
_STEPS = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2419200)
_POINTS = 400  # the curve has fewer than twice as many points, whatever the number of nodes


@dataclass(frozen=True, slots=True)
class _Frame:
    """The measures of a picture, and how much text fits."""

    #: Width of the picture in CSS pixels.
    width: int
    #: Space left of the bars, for names, in CSS pixels.
    left: int
    #: Space right of the bars in CSS pixels.
    right: int
    #: The most ticks of the time axis.
    ticks: int
    #: The most characters of a wave's name.
    name: int
    #: The CSS class.
    style: str


_Shape = dict[str, Any]
"""An SVG element: ``element``, ``attributes``, and for a text ``text``."""

_FRAMES = (_Frame(1000, 132, 100, 6, 18, "broad"), _Frame(350, 92, 76, 2, 12, "narrow"))  # the style shows one


def timeline(rollout: Mapping[str, Any], now: str) -> Markup:
    """Return the timeline; empty if no wave has begun. Waves in progress end at ``now``."""
    waves = [(wave, seconds(wave["started"]), seconds(wave["ended"])) for wave in rollout["waves"]]
    begun = [start for _, start, _ in waves if start is not None]
    if not begun:
        return Markup()
    ends = sorted(
        at for node in rollout["nodes"].values() if node["state"] == "updated" and (at := seconds(node["ended"]))
    )
    open_end = seconds(rollout.get("ended")) or seconds(now) or begun[-1]
    first = min(begun)
    last = max([first + 60, *ends, *(end or open_end for _, start, end in waves if start is not None)])
    pictures = []
    for frame in _FRAMES:
        scale = _Scale(frame, first, last)
        height = len(waves) * _ROW + _CURVE + 44
        shapes = _axis(scale, height)
        for at, (wave, start, end) in enumerate(waves):
            shapes += _bar(scale, at, wave, start, end or open_end, end is None)
        shapes += _curve(scale, len(waves) * _ROW + 16, ends, len(rollout["nodes"]))
        pictures.append({"width": frame.width, "height": height, "style": frame.style, "shapes": shapes})
    return render("timeline", description=_description(waves, ends, first), pictures=pictures)


def _shape(element: str, **attributes: object) -> _Shape:
    """Return an SVG element; ``class_`` becomes class, ``text_anchor`` becomes text-anchor."""
    return {"element": element, "attributes": {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items()}}


def _text(content: str, **attributes: object) -> _Shape:
    return {**_shape("text", **attributes), "text": content}


class _Scale:
    """Conversion of times (seconds since the epoch) to horizontal positions."""

    def __init__(self, frame: _Frame, first: float, last: float) -> None:
        self.frame, self.first, self.last = frame, first, last
        self._unit = (frame.width - frame.left - frame.right) / (last - first)

    def x(self, at: float) -> float:
        """Return the position of a time."""
        return round(self.frame.left + (at - self.first) * self._unit, 1)

    @property
    def ticks(self) -> list[float]:
        """The times at the axis: round, and few; beginning and end if fewer than two round ones lie between them."""
        step = next(
            (
                seconds_per_tick
                for seconds_per_tick in _STEPS
                if (self.last - self.first) / seconds_per_tick <= self.frame.ticks
            ),
            _STEPS[-1],
        )
        start = self.first - self.first % step + step
        ticks = [start + step * at for at in range(int((self.last - start) // step) + 1)]
        return ticks if len(ticks) > 1 else [self.first, self.last]

    def label(self, at: float) -> str:
        """Return the label of a tick: time of day, or the day."""
        moment, span = datetime.datetime.fromtimestamp(at, datetime.timezone.utc), self.last - self.first
        if span < 300:
            return moment.strftime("%H:%M:%S")
        is_end_of_days = span >= 86400 and at in (self.first, self.last)
        return moment.strftime("%H:%M" if (moment.hour or moment.minute) and not is_end_of_days else "%d %b")


def _axis(scale: _Scale, height: int) -> list[_Shape]:
    parts = []
    for at in scale.ticks:
        x = scale.x(at)
        parts.append(_shape("line", x1=x, x2=x, y1=4, y2=height - 24, class_="axis"))
        parts.append(_text(scale.label(at), x=x, y=height - 8, text_anchor="middle"))
    return parts


def _bar(scale: _Scale, at: int, wave: Mapping[str, Any], start: float | None, end: float, going: bool) -> list[_Shape]:
    frame, y = scale.frame, at * _ROW + 4
    name = wave["name"] if len(wave["name"]) <= frame.name else wave["name"][: frame.name - 1] + "…"
    label = _text(name, x=frame.left - 12, y=y + 12, text_anchor="end", class_="name")
    if start is None:
        return [label, _text(wave["state"], x=frame.left, y=y + 12)]
    x, width = scale.x(start), max(3.0, scale.x(max(end, start)) - scale.x(start))
    kind = f"bar{' open' if going else ''}{' bad' if wave['state'] == 'failed' else ''}"
    bar = _shape("rect", x=x, y=y, width=round(width, 1), height=15, rx=2, class_=kind)
    caption = duration(end - start) + (f", {wave['state']}" if going or wave["state"] == "failed" else "")
    right = x + width + 6 < frame.width - frame.right
    anchor = {"x": x + width + 6} if right else {"x": x - 6, "text_anchor": "end"}
    return [label, bar, _text(caption, y=y + 12, **anchor)]


def _curve(scale: _Scale, top: int, ends: list[float], total: int) -> list[_Shape]:
    """Return the number of updated nodes over time, as a step line."""
    left, right = (scale.frame.left, scale.frame.width - scale.frame.right)
    bottom, step = top + _CURVE - 16, max(1, len(ends) // _POINTS)
    path, y = f"M{left} {bottom}", float(bottom)
    for count in [*range(step, len(ends), step), len(ends)] if ends else []:
        x = scale.x(ends[count - 1])
        y = round(bottom - (bottom - top) * count / total, 1)
        path += f"H{x}V{y}"
    path += f"H{scale.x(scale.last)}"
    label = f"{len(ends):,} of {total:,}"
    return [
        _shape("line", x1=left, x2=right, y1=top, y2=top, class_="axis"),
        _shape("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        _text(f"{total:,}", x=left - 12, y=top + 4, text_anchor="end"),
        _text("updated", x=left - 12, y=(top + bottom) / 2 + 4, text_anchor="end", class_="name"),
        _text("0", x=left - 12, y=bottom + 4, text_anchor="end"),
        _shape("path", d=f"{path}V{bottom}Z", class_="under"),
        _shape("path", d=path, class_="line"),
        _text(label, x=scale.x(scale.last) + 6, y=y + 4, class_="name"),
    ]


def _description(waves: list[Any], ends: list[float], first: float) -> str:
    sentences = [
        f"{wave['name']} began after {duration(start - first)}" + (f" and took {duration(end - start)}" if end else "")
        for wave, start, end in waves
        if start is not None
    ]
    return f"{'; '.join(sentences)}. Updated: {counted(len(ends), 'node')}."
