"""Volume intervals that hold as often as they say: low and high of the samples, stretched by what held-out validation cases needed.

Conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222, theorem 1) on the ratio of volumes. A volume V is missed by the
interval from low to high by the factor `max(low / V, V / high)`; of n validation cases the `ceil(0.9 (n + 1))`-th smallest of these factors
is taken, 1 at least, and a new case of their kind has its true volume between `low / factor` and `high * factor` in at least 90 % of all
draws of such cases. Several raters of a case share its weight. It says nothing of cases unlike those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.evaluation.coverage import ROUNDING, Spans
from ldseg_auto.planners.serialise import require

LEVEL = 0.9
FEWEST = 10  # cases: leaving one out, the 9 that 90 % take stay


@dataclass(frozen=True)
class Intervals:
    """Of one training, for one sample or for several."""

    factors: dict[str, float]
    """class or region -> what low is divided by and high multiplied with, 1 or more. A class is left out where fewer than 10 validation
    cases predict it, or where no factor is enough: its reference is missing in too many of them."""
    held: int
    """volumes of references that lay in the interval by the factor of the other cases; one per case, rater and class."""
    total: int
    cases: int
    """validation cases with such a class."""

    def __post_init__(self) -> None:
        require(all(math.isfinite(f) and f >= 1 for f in self.factors.values()), "factors", self.factors, "1 or more for each class")
        require(bool(self.factors), "factors", self.factors, "one class or more")
        require(0 <= self.held <= self.total, "held", self.held, "0 to total")
        require(self.total > 0, "total", self.total, "1 or more")
        require(self.cases >= FEWEST, "cases", self.cases, f"{FEWEST} or more")

    @property
    def sentence(self) -> str:
        """What may be said of them."""
        least, most = (f"{end(self.factors.values()):.2f}" for end in (min, max))
        share = f"{self.held} of {self.total} volumes of the references ({self.held / self.total:.0%})"
        by = f"by a factor of {least}" + (f" to {most}, by class" if len(self.factors) > 1 else "")
        return f"likely low to high, stretched {by}, held {share} on {self.cases} validation cases, each by the factor of the others"


def fit_intervals(spans: Spans) -> Intervals | None:
    """Factors of all classes that allow one; None where none does."""
    factors, held, total, cases = {}, 0, 0, set()
    for name in dict.fromkeys(name for found in spans.values() for name in found):
        # without the class in any sample there is nothing to stretch, in validation as in prediction
        known = {case: shown for case, found in spans.items() if (shown := [s for s in found.get(name, ()) if s[1] > 0])}
        if len(known) < FEWEST:
            continue
        missed = _factors_missed([span for shown in known.values() for span in shown])
        case = np.repeat(np.arange(len(known)), [len(shown) for shown in known.values()])
        if not math.isfinite(factor := stretch(missed, case)):
            continue
        factors[name] = factor
        for i in range(len(known)):
            other = stretch(missed[case != i], case[case != i])
            held += int((missed[case == i] <= other * (1 + ROUNDING)).sum())
        total += len(missed)
        cases |= set(known)
    return Intervals(factors, held, total, len(cases)) if factors else None


def stretch(missed: np.ndarray, case: np.ndarray) -> float:
    """The factor, 1 or more, that holds a share LEVEL of so many cases and one more; infinity where there is none.

    Args:
        missed: factors `(n,)` by which intervals miss their volumes.
        case: `(n,)` integers, the case of each; those of one case share its weight.
    """
    _, place, count = np.unique(case, return_inverse=True, return_counts=True)
    order = np.argsort(missed, kind="stable")
    enough = np.cumsum(1 / count[place[order]]) >= LEVEL * (len(count) + 1) - ROUNDING
    return max(1.0, float(missed[order[enough.argmax()]])) if enough.any() else math.inf


def stretched(low: float, high: float, factors: Sequence[float]) -> tuple[float, float] | None:
    """The interval by the geometric mean of several models' factors; None without one, or where no sample shows the class."""
    if not factors or not high > 0:
        return None
    factor = math.exp(sum(map(math.log, factors)) / len(factors))
    return low / factor, high * factor


def _factors_missed(spans: Sequence[Sequence[float]]) -> np.ndarray:
    """By which factor each of (low, high, volume) would have to be stretched, `(n,)`; below 1 where the volume lies inside."""
    low, high, volume = np.array(spans, float).T
    below = np.divide(low, volume, out=np.where(low > 0, np.inf, 0.0), where=volume > 0)
    return np.maximum(below, volume / high)


def factors_of(fits: Sequence[Intervals | None], name: str) -> list[float]:
    """What the models that have one say of a class."""
    return [fit.factors[name] for fit in fits if fit is not None and name in fit.factors]
