"""Drawings of the leaderboard's page, as SVG text that follows the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8
"""Number of colours of the page; further entrants take them again with broken lines."""
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 40


@dataclass(frozen=True)
class Point:
    """A mean with its interval; the interval is NaN where it is not known."""

    shot: int
    mean: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the mean where there is none."""
        return (self.mean, self.mean) if math.isnan(self.low) else (self.low, self.high)


def number(value: float) -> str:
    """Writes a coordinate."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def whisker(low: float, mean: float, high: float, start: float, end: float, colour: int) -> str:
    """Draws a mean with its interval on an axis from `start` to `end`, which all rows of a table share."""

    def place(value: float) -> str:
        share = (value - start) / (end - start) if end > start else 0.5
        return number(6 + 148 * min(1.0, max(0.0, share)))

    if not math.isfinite(mean):
        return ""
    parts = ['<svg class="whisker" viewBox="0 0 160 16" aria-hidden="true"><path class="rail" d="M6 8H154"/>']
    if not math.isnan(low):
        parts.append(f'<path class="line c{colour}" d="M{place(low)} 8H{place(high)}"/>')
    parts.append(f'<circle class="dot c{colour}" cx="{place(mean)}" cy="8" r="4"/></svg>')
    return "".join(parts)


def ticks(low: float, high: float, number_of: int = 5) -> list[float]:
    """Chooses round numbers inside a range.

    >>> ticks(0.31, 0.88)
    [0.4, 0.6, 0.8]
    """
    if high <= low:
        return [low]
    raw = (high - low) / number_of
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(
    lines: Mapping[str, Sequence[Point]], flat: Mapping[str, Point], colour: Mapping[str, int], label: str
) -> str:
    """Draws means over the number of examples, with intervals as bands.

    Args:
        lines: Entrant to its points, ascending in `shot`.
        flat: Entrants that see no examples; they are drawn across.
        colour: Entrant to its number among all.
        label: Name of the vertical axis.
    """
    shots = sorted({point.shot for points in lines.values() for point in points})
    ends = [
        end for points in [*lines.values(), *([point] for point in flat.values())] for p in points for end in p.ends
    ]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def x(shot: int) -> float:
        inner = _WIDTH - _LEFT - _RIGHT - 24
        return _LEFT + 12 + inner * (shots.index(shot) / (len(shots) - 1) if len(shots) > 1 else 0.5)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [_axes(shots, [(tick, y(tick)) for tick in ticks(low, high)], [x(shot) for shot in shots], label)]
    for entrant, point in flat.items():
        place = number(y(point.mean))
        parts.append(
            f'<path class="line flat c{colour[entrant] % COLOURS}" d="M{_LEFT} {place}H{_WIDTH - _RIGHT}">'
            f"<title>{escape(entrant)}, no examples: {point.mean:.3f}</title></path>"
        )
    for entrant, points in lines.items():
        parts.append(_line(entrant, points, colour[entrant], [x(point.shot) for point in points], y))
    title = escape(f"{label} over the number of examples: {', '.join([*lines, *flat])}")
    return (
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    )


def _axes(shots: Sequence[int], rows: Sequence[tuple[float, float]], columns: Sequence[float], label: str) -> str:
    parts = []
    for tick, place in rows:
        parts.append(f'<path class="grid" d="M{_LEFT} {number(place)}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 8}" y="{number(place + 4)}">{tick:g}</text>')
    for shot, place in zip(shots, columns, strict=True):
        parts.append(f'<text class="tick mid" x="{number(place)}" y="{_HEIGHT - _BOTTOM + 18}">{shot}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(f'<text class="name mid" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}">examples</text>')
    parts.append(f'<text class="name mid" transform="translate(13 {middle}) rotate(-90)">{escape(label)}</text>')
    return "".join(parts)


def _line(entrant: str, points: Sequence[Point], colour: int, columns: Sequence[float], y: object) -> str:
    assert callable(y)
    shade, broken = f"c{colour % COLOURS}", " broken" if colour >= COLOURS else ""
    tops = [f"{number(column)} {number(y(point.ends[1]))}" for column, point in zip(columns, points, strict=True)]
    lows = [f"{number(column)} {number(y(point.ends[0]))}" for column, point in zip(columns, points, strict=True)]
    path = "L".join(f"{number(column)} {number(y(p.mean))}" for column, p in zip(columns, points, strict=True))
    parts = [f'<path class="band {shade}" d="M{"L".join([*tops, *reversed(lows)])}Z"/>']
    parts.append(f'<path class="line {shade}{broken}" d="M{path}"/>')
    for column, point in zip(columns, points, strict=True):
        text = f"{entrant}, {point.shot} examples: {point.mean:.3f} [{point.ends[0]:.3f}, {point.ends[1]:.3f}]"
        parts.append(
            f'<circle class="dot {shade}" cx="{number(column)}" cy="{number(y(point.mean))}" r="3.5">'
            f"<title>{escape(text)}</title></circle>"
        )
    return "".join(parts)
