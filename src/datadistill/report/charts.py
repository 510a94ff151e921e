"""Where things stand in a picture, in per cent or thousandths of its size: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .words import number

Ticks = list[tuple[float, str]]  # (position in per cent, label)


def nice_step(span: float, parts: int) -> float:
    """1, 2 or 5 times a power of ten, so that about `parts` steps make up the span."""
    raw = span / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def nice_range(low: float, high: float, parts: int = 5) -> tuple[float, float, float]:
    """(start, end, step): the interval rounded outwards to nice numbers."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    step = nice_step(high - low, parts)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


class Dots:
    """The axis of a dot-and-whisker chart of fractions: `at(value)` in per cent of its width."""

    def __init__(self, values: Sequence[float]):
        low, high = (min(1.0, max(0.0, end(values))) for end in (min, max))
        pad = max(0.01, 0.05 * (high - low))
        self.start, self.end, step = nice_range(max(0.0, low - pad), min(1.0, high + pad))
        self.start, self.end = max(0.0, self.start), min(1.0, self.end)
        n = round((self.end - self.start) / step)
        digits = max(0, -math.floor(math.log10(step) + 1e-9) - 2)
        self.ticks: Ticks = [(self.at(v), f"{100 * v:.{digits}f}%") for v in (self.start + k * step for k in range(n + 1)) if v <= self.end + 1e-9]

    def at(self, value: float) -> float:
        """Clipped to the axis: a t-interval may leave [0, 1]."""
        return round(100 * min(1.0, max(0.0, (value - self.start) / (self.end - self.start))), 2)


def curves(rows: Sequence[Mapping[str, Any]], limit: int = 4) -> list[dict[str, Any]]:
    """A line chart for each value a run logged, the loss first; those with fewer than two finite points are left out."""
    names = sorted({key for row in rows if isinstance(row, Mapping) for key in row if key != "step"}, key=lambda k: (k != "loss", k))
    lines = []
    for name in names[:limit]:
        points = [(number(row.get("step")), number(row.get(name))) for row in rows if isinstance(row, Mapping)]
        points = [(x, y) for x, y in points if x is not None and y is not None and (y == 0 or 1e-100 < abs(y) < 1e100)]
        if len(points) >= 2 and points[0][0] < points[-1][0]:
            lines.append({"name": name, **line(sorted(points))})
    return lines


def line(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The path of a curve in a box of 1000 x 1000 and its ticks; a log scale where it is positive and spans two decades.

    A long noisy curve also gets `smooth`, its running mean over a thirtieth of its length.
    """
    values = [y for _, y in points]
    log = min(values) > 0 and max(values) / min(values) >= 100
    ys = [math.log10(y) if log else y for y in values]
    if log:
        low, high = min(ys), max(ys)
        marks = [m * 10.0**k for k in range(math.floor(low), math.floor(high) + 1) for m in ((1, 3) if high - low < 3 else (1,))]
        marks = [m for m in marks if low <= math.log10(m) <= high]
        y_marks = [(math.log10(m), f"{m:g}") for m in marks[:: math.ceil(len(marks) / 6)]]
    else:
        low, high, step = nice_range(min(ys), max(ys), 4)
        y_marks = [(k * step, f"{k * step:.10g}") for k in range(round(low / step), round(high / step) + 1)]
    first, last = points[0][0], points[-1][0]
    x_step = nice_step(last - first, 4)
    x_marks = [k * x_step for k in range(math.ceil(first / x_step), math.floor(last / x_step) + 1)]

    def down(y: float) -> float:
        return min(1.0, max(0.0, (high - y) / (high - low)))

    def across(x: float) -> float:
        return (x - first) / (last - first)

    def path(heights: Sequence[float]) -> Markup:  # numbers only, and longer than any text may be
        return Markup("M") + "L".join(f"{1000 * across(x):.1f} {1000 * down(y):.1f}" for (x, _), y in zip(points, heights, strict=True))

    return {
        "log": log,
        "path": path(ys),
        "smooth": path(running_mean(ys, len(ys) // 30)) if len(ys) >= 90 else None,
        "x_ticks": [(round(100 * across(x), 2), f"{x:,.0f}") for x in x_marks],
        "y_ticks": [(round(100 * down(y), 2), label) for y, label in y_marks],
        "first": f"{values[0]:.4g}",
        "last": f"{values[-1]:.4g}",
        "steps": f"{first:,.0f} to {last:,.0f}",
    }


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean over `window` values on either side of each, fewer at the ends."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for k in range(len(values)):
        low, high = max(0, k - window), min(len(values), k + window + 1)
        means.append((sums[high] - sums[low]) / (high - low))
    return means
