"""The geometry: what is read off a picture is what was put in."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datadistill.report import words
from datadistill.report.charts import Dots, curves, line, running_mean

fractions = st.lists(st.floats(0, 1), min_size=1, max_size=8)
losses = st.lists(st.floats(1e-9, 1e6) | st.just(0.0) | st.floats(-1e6, -1e-9), min_size=2, max_size=40) | st.lists(st.floats(1e-50, 1e50), min_size=2, max_size=40)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


@given(fractions)
def test_ticks_stand_where_their_labels_say(values):
    axis = Dots(values)
    assert 2 <= len(axis.ticks) <= 12
    for at, label in axis.ticks:
        assert axis.at(float(label.rstrip("%")) / 100) == pytest.approx(at, abs=0.5)
    for a, b in zip(axis.ticks, axis.ticks[1:], strict=False):
        assert a[0] < b[0] and a[1] != b[1]


@given(fractions)
def test_values_keep_their_order_and_stay_on_the_axis(values):
    axis = Dots(values)
    assert axis.start <= min(values) and max(values) <= axis.end and 0 <= axis.start < axis.end <= 1
    at = [axis.at(v) for v in sorted(values)]
    assert at == sorted(at) and 0 <= at[0] and at[-1] <= 100


def test_an_interval_beyond_certainty_is_clipped():
    assert Dots([0.98, 1.04]).at(1.04) == 100


@settings(max_examples=200)
@given(losses)
def test_a_curve_can_be_read_back_by_its_ticks(values):
    drawn = line(list(enumerate(values)))
    assert drawn["log"] == (min(values) > 0 and max(values) / min(values) >= 100)
    height = math.log10 if drawn["log"] else float
    ticks = [(y, height(float(label))) for y, label in drawn["y_ticks"]]
    assert 2 <= len(ticks) <= 8
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    slope = (v1 - v0) / (y1 - y0)
    assert slope < 0  # up is more
    for (_, y), value in zip(points(drawn["path"]), values, strict=True):
        assert 0 <= y <= 1000
        assert v0 + slope * (y / 10 - y0) == pytest.approx(height(value), abs=abs(slope) * 0.05 + 1e-5 * max(abs(v0), abs(v1)))


@given(losses, st.integers(0, 10**6))
def test_steps_run_from_edge_to_edge(values, start):
    drawn = line([(start + 3 * k, v) for k, v in enumerate(values)])
    xs = [x for x, _ in points(drawn["path"])]
    assert xs[0] == 0 and xs[-1] == 1000 and xs == sorted(xs)
    for at, label in drawn["x_ticks"]:
        assert at == pytest.approx(100 * (float(label.replace(",", "")) - start) / (3 * (len(values) - 1)), abs=100 / (3 * (len(values) - 1)))


def test_curves_leave_out_what_cannot_be_drawn():
    rows = [{"step": k, "loss": 1.0 + k, "once": 1.0 if k == 2 else None, "nan": float("nan"), "huge": 1e308 * (-1) ** k} for k in range(4)]
    assert [c["name"] for c in curves(rows)] == ["loss"]
    assert curves([]) == [] and curves([{"step": 0, "loss": 1.0}]) == []


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(0, 5))
def test_running_mean_is_the_mean_around_each(values, window):
    for k, mean in enumerate(running_mean(values, window)):
        near = values[max(0, k - window) : k + window + 1]
        assert mean == pytest.approx(sum(near) / len(near), abs=1e-9)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 FLOP"), (999, "999 FLOP"), (1000, "1 kFLOP"), (3.1e12, "3.1 TFLOP"), (2.5e21, "2.5e+03 EFLOP"), (None, "–"), (float("nan"), "–"), (0.5, "0.5 FLOP")]
)
def test_flops(value, text):
    assert words.flops(value) == text


def test_signs_are_real_minus_signs_and_zero_has_none():
    assert [words.signed(v, plus=True) for v in (-1.25, -0.04, 0.04, 2)] == ["−1.2", "0.0", "0.0", "+2.0"]
