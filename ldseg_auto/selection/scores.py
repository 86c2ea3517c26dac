"""Scores of a cross-validation as numbers to compare: a mean over classes, its interval, and differences over the same cases.

The mean is that of evaluation.md: over cases and raters for each class, then over classes with the same weight. Intervals draw patients
(dataset.json's `groups`), or cases where there are no groups, with replacement (evaluation/bootstrap.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ldseg_auto.evaluation.bootstrap import DRAWS, LEVEL

METRICS = ("dice", "nsd")
Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True, eq=False)
class Sample:
    """What is drawn: the cases of one patient together."""

    cases: tuple[str, ...]
    groups: tuple[np.ndarray, ...]  # positions of the cases of each patient

    @classmethod
    def of(cls, group_of: Mapping[str, str]) -> Sample:
        """From case -> patient; cases in sorted order."""
        cases = sorted(group_of)
        names = sorted({group_of[c] for c in cases})
        return cls(tuple(cases), tuple(np.array([i for i, c in enumerate(cases) if group_of[c] == name]) for name in names))

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each draw takes each case `(1 + DRAWS, cases)`: all cases once, then the draws of bootstrap.statistic_interval."""
        generator, n = np.random.default_rng(0), len(self.groups)
        member = np.zeros((n, len(self.cases)))
        for row, positions in zip(member, self.groups, strict=True):
            row[positions] = 1
        drawn = (generator.integers(n, size=n) for _ in range(DRAWS))
        return np.stack([np.ones(n), *(np.bincount(d, minlength=n) for d in drawn)]) @ member

    def class_means(self, scores: np.ndarray) -> np.ndarray:
        """Of each draw `(1 + DRAWS, classes)`, from `(cases, classes)`; NaN where no drawn case has a value."""
        known = ~np.isnan(scores)
        count = self.weights @ known
        return np.where(count > 0, self.weights @ np.where(known, scores, 0.0) / np.maximum(count, 1), np.nan)


def array_of(
    table: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], metric: str, names: Sequence[str], sample: Sample
) -> np.ndarray:
    """`(cases, classes)` of case -> rater -> class -> metric: mean over the raters that have a value, else NaN."""
    return np.array(
        [
            [nan_mean(np.array([raters[r][name][metric] for r in raters], float)) for name in names]
            for raters in (table[c] for c in sample.cases)
        ]
    )


def nan_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean over what is not NaN; NaN of nothing."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis) / np.maximum(count, 1), np.nan)


def class_means(scores: np.ndarray) -> np.ndarray:
    """`(classes,)` of `(cases, classes)`."""
    return nan_mean(scores, 0)


def mean(scores: np.ndarray) -> float:
    """Over cases, then classes."""
    return float(nan_mean(class_means(scores)))


def interval(scores: np.ndarray, sample: Sample) -> Interval:
    """Mean of `(cases, classes)` with its interval; NaN where no case has a value."""
    return _interval(nan_mean(sample.class_means(scores), 1))


def difference(a: np.ndarray, b: np.ndarray, sample: Sample) -> Interval:
    """Mean of a less mean of b, each draw taking the same cases for both, with its interval; classes count that both have.

    A case where one of them invents a class that the reference lacks has 0 there, and the other no value: each keeps its own cases.
    """
    return _interval(nan_mean(sample.class_means(a) - sample.class_means(b), 1))


def _interval(values: np.ndarray) -> Interval:
    """Of the value on all cases and of the draws `(1 + DRAWS,)`; draws without a value are left out, as bootstrap.py does."""
    whole, drawn = float(values[0]), values[1:][~np.isnan(values[1:])]
    if math.isnan(whole) or not len(drawn):
        return math.nan, math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return whole, low, high
