"""Axes of the charts: round ticks in range, in order, and logarithms where they help."""

from __future__ import annotations

import math

import pytest

from ldseg_auto.report.axes import Axis, Nines, fitted
from ldseg_auto.report.units import brief, short

RANGES = [(0.0, 1.0), (0.3, 0.31), (-1000.0, 3000.0), (1.0, 1.0), (0.0, 0.0), (0.002, 40.0), (3.0, 2e6), (-5.0, 1e9), (17.0, 380.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_are_in_order_and_on_the_axis(low: float, high: float) -> None:
    axis = fitted([low, high], 100, 20)
    ticks = axis.ticks()
    places = [at for at, _ in ticks]
    assert 2 <= len(ticks) <= 12 and places == sorted(places, reverse=True)
    assert all(20 <= at <= 100 for at in places) and len({text for _, text in ticks}) == len(ticks)
    assert axis.log == (low > 0 and high > 20 * low)


@pytest.mark.parametrize("log", [False, True])
def test_place_by_hand(log: bool) -> None:
    axis = Axis(1.0, 100.0, 0.0, 200.0, log)
    assert axis.place(10.0) == pytest.approx(100.0 if log else 200 * 9 / 99)
    assert (axis.place(-5), axis.place(1e9)) == (0.0, 200.0)  # beyond the ends: on them


def test_nines_are_equally_far_apart() -> None:
    axis = Nines(0.0, 1.0, 0.0, 1.0)
    steps = [axis.place(v) for v in (0.0, 0.9, 0.99, 0.999)]
    assert [b - a for a, b in zip(steps[:-1], steps[1:], strict=True)] == pytest.approx([1 / math.log10(2000)] * 3)
    assert axis.place(1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "full", "compact"),
    [(0.0, "0", "0"), (0.98765, "0.988", "0.988"), (1234.5, "1234", "1234"), (12345.0, "12345", "12.3k"), (1.5e6, "1500000", "1.5M"),
     (-40000.0, "-40000", "-40k"), (2e-7, "2e-07", "2e-07"), (3e12, "3e+12", "3e+12")],
)  # fmt: skip
def test_numbers_as_text(value: float, full: str, compact: str) -> None:
    assert (short(value), brief(value)) == (full, compact)
