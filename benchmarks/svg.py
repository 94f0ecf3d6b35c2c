"""Two kinds of plots as SVG text: points under roofs on logarithmic axes, and bars by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00", "#7F7F7F")
LEFT, TOP, BOTTOM = 70, 40, 60
_STYLE = ".t{font:13px sans-serif;fill:#222}.s{font:11px sans-serif;fill:#222}.g{stroke:#ddd}.a{stroke:#222}"


class Drawing:
    """Shapes in a white picture of a size in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.parts = width, height, [f'<rect width="{width}" height="{height}" fill="white"/>']
        self.text(LEFT, 22, title, weight="bold")

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str = "g", more: str = "") -> None:
        self.parts.append(f'<line class="{cls}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>')

    def text(
        self, x: float, y: float, words: str, anchor: str = "start", cls: str = "t", turn: int = 0, weight: str = "normal"
    ) -> None:
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"{turned}'
        self.parts.append(f'<text class="{cls}" {place}>{escape(words)}</text>')

    def shape(self, markup: str, tip: str) -> None:
        """A shape with a text that is shown where the pointer rests on it; `markup` without its closing slash."""
        self.parts.append(f"<{markup}><title>{escape(tip)}</title></{markup.split()[0]}>")

    def __str__(self) -> str:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style>\n' + "\n".join(self.parts) + "\n</svg>\n"


# ---- points under roofs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A mark at (x, y): its family gives the colour, its group the form, its weight (0 to 1) the size."""

    x: float
    y: float
    family: str
    group: str
    weight: float
    tip: str


_MARKS = {
    "circle": 'circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"',
    "square": 'rect x="{l:.1f}" y="{t:.1f}" width="{d:.1f}" height="{d:.1f}"',
    "diamond": 'path d="M{x:.1f} {t:.1f}L{e:.1f} {y:.1f}L{x:.1f} {b:.1f}L{l:.1f} {y:.1f}Z"',
    "triangle": 'path d="M{x:.1f} {t:.1f}L{e:.1f} {b:.1f}L{l:.1f} {b:.1f}Z"',
    "wedge": 'path d="M{x:.1f} {b:.1f}L{e:.1f} {t:.1f}L{l:.1f} {t:.1f}Z"',
}


def _mark(form: str, x: float, y: float, r: float, colour: str) -> str:
    places = {"x": x, "y": y, "r": r, "l": x - r, "e": x + r, "t": y - r, "b": y + r, "d": 2 * r}
    return f'{_MARKS[form].format(**places)} fill="{colour}" fill-opacity="0.6" stroke="{colour}"'


def roofline(points: Sequence[Point], peak: float, slopes: Mapping[str, float], title: str, x_label: str, y_label: str) -> str:
    """Log-log: a flat roof at `peak`, a sloping one y = slope * x for each of `slopes`, and the points below them.

    The axes end at whole powers of ten around the points; families and groups are listed at the right.
    """
    width, height, right = 1000, 600, 730
    lows = [math.floor(math.log10(min(v))) for v in ([p.x for p in points], [p.y for p in points])]
    highs = [math.ceil(math.log10(max(v))) for v in ([p.x for p in points], [*(p.y for p in points), peak * 1.2])]
    d = Drawing(width, height, title)

    def at_x(x: float) -> float:
        return LEFT + (math.log10(x) - lows[0]) / (highs[0] - lows[0]) * (right - LEFT)

    def at_y(y: float) -> float:
        return height - BOTTOM - (math.log10(y) - lows[1]) / (highs[1] - lows[1]) * (height - BOTTOM - TOP)

    for e in range(lows[0], highs[0] + 1):
        d.line(at_x(10.0**e), TOP, at_x(10.0**e), height - BOTTOM)
        d.text(at_x(10.0**e), height - BOTTOM + 18, f"{10.0**e:g}", "middle", "s")
    for e in range(lows[1], highs[1] + 1):
        d.line(LEFT, at_y(10.0**e), right, at_y(10.0**e))
        d.text(LEFT - 8, at_y(10.0**e) + 4, f"{10.0**e:g}", "end", "s")
    d.line(LEFT, height - BOTTOM, right, height - BOTTOM, "a")
    d.line(LEFT, TOP, LEFT, height - BOTTOM, "a")
    d.text((LEFT + right) / 2, height - 18, x_label, "middle")
    d.text(20, (TOP + height - BOTTOM) / 2, y_label, "middle", turn=-90)
    _roofs(d, peak, slopes, (10.0 ** lows[0], 10.0 ** highs[0]), 10.0 ** lows[1], at_x, at_y)
    families = list(dict.fromkeys(p.family for p in points))
    groups = list(dict.fromkeys(p.group for p in points))
    for p in sorted(points, key=lambda p: -p.weight):
        form = list(_MARKS)[groups.index(p.group) % len(_MARKS)]
        r = 3 + 11 * math.sqrt(p.weight)
        d.shape(_mark(form, at_x(p.x), at_y(p.y), r, COLOURS[families.index(p.family) % len(COLOURS)]), p.tip)
    for i, name in enumerate(["kernel", *families, "", "model (size: share of its time)", *groups]):
        y = TOP + 12 + 20 * i
        if name in families and i <= len(families):
            d.shape(_mark("circle", right + 28, y - 4, 6, COLOURS[families.index(name) % len(COLOURS)]), name)
        elif name in groups:
            d.shape(_mark(list(_MARKS)[groups.index(name) % len(_MARKS)], right + 28, y - 4, 6, "#666"), name)
        else:
            d.text(right + 18, y, name, weight="bold")
            continue
        d.text(right + 42, y, name)
    return str(d)


def _roofs(d: Drawing, peak: float, slopes: Mapping[str, float], xs: tuple[float, float], low: float, at_x, at_y) -> None:  # type: ignore[no-untyped-def]
    knees = [peak / s for s in slopes.values()]
    d.line(at_x(max(xs[0], min(knees))), at_y(peak), at_x(xs[1]), at_y(peak), "a", 'stroke-width="2"')
    d.text(at_x(xs[1]) - 4, at_y(peak) - 7, f"{peak:.0f} GFLOP/s: multiply-adds in registers", "end", "s")
    for name, slope in slopes.items():
        start = max(xs[0], low / slope)
        d.line(at_x(start), at_y(slope * start), at_x(peak / slope), at_y(peak), "a", 'stroke-width="2"')
        turn = -math.degrees(math.atan2(at_y(slope * start) - at_y(peak), at_x(peak / slope) - at_x(start)))
        d.text(at_x(start) + 6, at_y(slope * start) - 10, name, "start", "s", round(turn))


# ---- bars -------------------------------------------------------------------------------------------------------


TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def bars(series: Mapping[str, Mapping[str, float]], title: str, y_label: str) -> str:
    """Ratios: for each name a group of bars, one for each of `series` that has it, up or down from 1 on a logarithmic axis."""
    names = list(dict.fromkeys(n for s in series.values() for n in s))
    values = [v for s in series.values() for v in s.values()]
    step = 14 * len(series) + 12
    width, height = LEFT + step * len(names) + 20, 460
    low, high, floor = min(0.85, *values) / 1.15, max(1.25, *values) * 1.3, height - 130
    d = Drawing(max(width, 620), height, title)

    def at_y(v: float) -> float:
        return floor - math.log(v / low) / math.log(high / low) * (floor - TOP - 10)

    for tick in [t for t in TICKS if low <= t <= high]:
        d.line(LEFT, at_y(tick), width - 10, at_y(tick))
        d.text(LEFT - 8, at_y(tick) + 4, f"{tick:g}", "end", "s")
    for k, (label, found) in enumerate(series.items()):
        for i, name in enumerate(names):
            if name in found:
                v, x = found[name], LEFT + step * i + 6 + 14 * k
                top, bottom = at_y(max(v, 1)), at_y(min(v, 1))
                place = f'x="{x}" y="{top:.1f}" width="13" height="{max(bottom - top, 0.5):.1f}"'
                d.shape(f'rect {place} fill="{COLOURS[k]}"', f"{name}: {v:.2f} {label}")
                d.text(x + 10, top - 4, f"{v:.2f}", "start", "s", -90)
        d.shape(f'rect x="{LEFT + 200 * k}" y="30" width="11" height="11" fill="{COLOURS[k]}"', label)
        d.text(LEFT + 200 * k + 16, 40, label, cls="s")
    for i, name in enumerate(names):
        d.text(LEFT + step * i + step / 2 + 4, floor + 14, name, "end", "s", -45)
    d.line(LEFT, at_y(1), width - 10, at_y(1), "a", 'stroke-width="1.5"')
    d.line(LEFT, TOP + 10, LEFT, floor, "a")
    d.text(20, (TOP + floor) / 2, y_label, "middle", turn=-90)
    return str(d)
