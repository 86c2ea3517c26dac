"""Axes of charts: where a value lies, and which ticks stand beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ldseg_auto.report.units import brief

TICKS = 5  # about
TOP_SHARE = 0.9995  # shares above it are drawn as it
SHARES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
LOG_RATIO = 20.0  # a range of positive values wider than this is drawn on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """Maps values from `low`..`high` to pixels `start`..`end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Pixels; values beyond the ends are put on them."""
        value = min(max(value, self.low), self.high)
        a, b, v = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((v - a) / (b - a) if b > a else 0.5)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions in pixels and their text."""
        values = _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        return [(self.place(v), brief(v)) for v in values]


@dataclass(frozen=True)
class Nines(Axis):
    """Shares close to 1: the distance to 1 is logarithmic, so that 0.9, 0.99 and 0.999 are equally far apart; 0 to 0.999 or more."""

    def place(self, value: float) -> float:
        """See Axis."""
        a, b, v = (math.log(max(1 - x, 1 - TOP_SHARE)) for x in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.start + (self.end - self.start) * (v - a) / (b - a)

    def ticks(self) -> list[tuple[float, str]]:
        """See Axis."""
        return [(self.place(v), brief(v)) for v in SHARES if self.low <= v <= self.high]


def fitted(values: Sequence[float], start: float, end: float, log_ratio: float = LOG_RATIO) -> Axis:
    """An axis that holds all values: logarithmic where they are positive and differ by more than a factor `log_ratio`."""
    low, high = min(values), max(values)
    log = low > 0 and high / low > log_ratio
    if high == low:
        margin = abs(low) * 0.5 or 1.0
        return Axis(low - margin, high + margin, start, end)
    return Axis(low, high, start, end, log)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, round(len(decades) / TICKS))
    marks = (1, 2, 5) if len(decades) <= 3 else (1,)
    return [v for d in list(decades)[::every] for m in marks if low * 0.999 <= (v := m * 10.0**d) <= high * 1.001]
