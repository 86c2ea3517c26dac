"""Bootstrap intervals over cases (percentile method; Efron and Tibshirani 1993, chapter 13).

They say how much a number would vary with other cases of the same kind. They hold the trained models fixed: how much a new training
would change it is seen only between seeds. Few cases (under about 20) give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldseg_auto.errors import InputError

DRAWS = 2000
LEVEL = 0.95


def statistic_interval(
    statistic: Callable[[np.ndarray], float], n: int, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> tuple[float, float, float]:
    """Interval of any statistic of the cases, such as `lambda i: augrc(confidence[i], loss[i])`.

    Args:
        statistic: number from case indices `(n,)`, which may repeat. Draws where it is NaN are left out.
        n: number of cases.
        seed: of the draws; the same seed and n draw the same cases.
        draws: resamples of n cases with replacement.
        level: share of the draws inside the interval, in (0, 1).

    Returns:
        value on all cases, low, high.

    Raises:
        InputError: n or draws below 1, level outside (0, 1), or the statistic is NaN in every draw.
    """
    if n < 1 or draws < 1:
        raise InputError(f"n is {n} and draws is {draws}: expected 1 or more cases with a value, and 1 or more draws.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}: expected a share between 0 and 1, such as 0.95.")
    generator = np.random.default_rng(seed)
    found = np.array([statistic(generator.integers(n, size=n)) for _ in range(draws)], float)
    found = found[~np.isnan(found)]
    if not len(found):
        raise InputError(f"the statistic is NaN in all {draws} draws of {n} cases: it has no interval.")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(statistic(np.arange(n))), float(low), float(high)


def mean_interval(values: np.ndarray, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean over cases with its interval.

    Args:
        values: `(n,)`, or `(seeds, n)`: then a draw takes the same cases for every seed, and the mean runs over seeds too. A case that
            is NaN (for any seed) is left out.
        seed, draws, level: as `statistic_interval`.

    Returns:
        mean, low, high.

    Raises:
        InputError: another number of axes, infinite values, or no case left; and as `statistic_interval`.
    """
    values = np.asarray(values, float)
    if values.ndim not in (1, 2) or not values.size:
        raise InputError(f"values have shape {values.shape}: expected (n,) or (seeds, n), with one value or more.")
    if np.isinf(values).any():
        raise InputError(f"{np.isinf(values).sum()} of {values.size} values are infinite: leave them out and report their number.")
    # The mean over seeds of means over the same cases is the mean over cases of means over seeds.
    per_case = values if values.ndim == 1 else values.mean(0)
    per_case = per_case[~np.isnan(per_case)]
    if not len(per_case):
        raise InputError(f"all {values.shape[-1]} cases are NaN: a mean needs at least one case with a value for every seed.")
    return statistic_interval(lambda cases: per_case[cases].mean(), len(per_case), seed, draws, level)


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of a - b over the same cases, with its interval: narrower than two intervals apart, for hard cases are hard for both.

    Args:
        a, b: `(n,)` or `(seeds, n)`, case by case; a case that is NaN in either is left out.
        seed, draws, level: as `statistic_interval`.

    Returns:
        mean of a - b, low, high.

    Raises:
        InputError: the shapes differ; and as `mean_interval`.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise InputError(f"a {a.shape} and b {b.shape} must have one shape, (n,) or (seeds, n), with the same cases in the same order.")
    if np.isinf(a).any() or np.isinf(b).any():
        raise InputError(f"a holds {np.isinf(a).sum()} infinite values and b {np.isinf(b).sum()}: leave them out and report their number.")
    return mean_interval(a - b, seed, draws, level)
