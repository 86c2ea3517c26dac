"""Risk against coverage: does a case's confidence tell the good masks from the bad?

Cases are accepted in the order of falling confidence. Coverage is the share accepted, selective risk their mean loss, generalised risk the
sum of their losses over the number of all cases: what slips through undetected. The loss of a case lies in [0, 1], such as 1 - Dice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldseg_auto.errors import InputError


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """One point per distinct confidence, by rising coverage; the last accepts every case."""

    coverage: np.ndarray
    """share of cases accepted `(thresholds,)`, above 0 and up to 1."""
    selective_risk: np.ndarray
    """mean loss of the accepted cases `(thresholds,)` (Geifman and El-Yaniv 2017)."""
    generalised_risk: np.ndarray
    """sum of the accepted cases' losses / all cases `(thresholds,)` (Traub et al. 2024)."""


def risk_coverage(confidence: np.ndarray, loss: np.ndarray) -> RiskCoverage:
    """Risk-coverage curves; cases of equal confidence are accepted together.

    Args:
        confidence: `(n,)`, any scale, more is surer.
        loss: `(n,)` in [0, 1].

    Raises:
        InputError: no cases, shapes differ, confidence is NaN, or a loss lies outside [0, 1].
    """
    confidence, loss = np.asarray(confidence, float), np.asarray(loss, float)
    if confidence.shape != loss.shape or loss.ndim != 1 or not loss.size:
        raise InputError(f"confidence {confidence.shape} and loss {loss.shape}: expected (n,) twice, with one case or more.")
    if np.isnan(confidence).any():
        raise InputError(f"confidence of case {int(np.isnan(confidence).argmax())} is NaN: leave out cases without a confidence.")
    outside = ~((loss >= 0) & (loss <= 1))
    if outside.any():
        raise InputError(f"loss of case {int(outside.argmax())} is {loss[outside][0]}: expected 0 to 1; leave out cases without a loss.")
    _, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    accepted, losses = np.cumsum(size), np.cumsum(np.bincount(group, loss))
    return RiskCoverage(accepted / loss.size, losses / accepted, losses / loss.size)


def augrc(confidence: np.ndarray, loss: np.ndarray) -> float:
    """Area under the generalised risk-coverage curve (Traub et al. 2024, arXiv 2407.01032): the mean undetected risk; lower is better.

    The curve starts at (0, 0) and is linear between cases (trapezoids, as in the authors' FD-Shifts). A straight line across cases of equal
    confidence is the mean over all their orders, so the order of the input has no influence. For losses 0 and 1 with failure rate p
    this is p (1 - p) (1 - AUROC) + p^2 / 2.

    Args:
        confidence: `(n,)`, any scale, more is surer.
        loss: `(n,)` in [0, 1].

    Returns:
        area in [0, 0.5]: half the mean loss for a confidence that says nothing.

    Raises:
        InputError: as `risk_coverage`.
    """
    curve = risk_coverage(confidence, loss)
    width = np.diff(curve.coverage, prepend=0)
    height = curve.generalised_risk - np.diff(curve.generalised_risk, prepend=0) / 2
    return float((width * height).sum())


def augrc_bounds(loss: np.ndarray) -> tuple[float, float]:
    """AUGRC of the best confidence (an oracle that knows the losses) and of one that says nothing, half the mean loss.

    Args:
        loss: `(n,)` in [0, 1].

    Returns:
        best and random; a confidence worse than random is misleading.

    Raises:
        InputError: as `risk_coverage`.
    """
    loss = np.asarray(loss, float)
    return augrc(-loss, loss), augrc(np.zeros_like(loss), loss)
