"""The learning rate as a function of progress, so that a time budget anneals fully."""

from __future__ import annotations

import math
from collections.abc import Sequence

SMOOTHING = 0.9  # of the pseudo-Dice from epoch to epoch, nnU-Net's


def learning_rate(progress: float, peak: float, shape: str, warmup: float) -> float:
    """Linear rise during `warmup`, then poly `(1 - p)^0.9` or cosine down to 0.

    Args:
        progress: 0 at the start, 1 at the end: share of iterations, or of the time budget where that is further.
        peak: the highest rate.
        shape: `poly` or `cosine`.
        warmup: share of progress.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * max(progress / warmup, 0.01)
    rest = (progress - warmup) / (1 - warmup)
    return peak * ((1 - rest) ** 0.9 if shape == "poly" else 0.5 * (1 + math.cos(math.pi * rest)))


def epochs_without_better(dice: Sequence[float]) -> int:
    """Epochs since the smoothed pseudo-Dice (exponential average, 0.9 of the old and 0.1 of the new) was highest.

    Args:
        dice: one value per epoch.
    """
    smooth, best, at = 0.0, -math.inf, 0
    for epoch, value in enumerate(dice):
        smooth = value if epoch == 0 else SMOOTHING * smooth + (1 - SMOOTHING) * value
        if smooth > best:
            best, at = smooth, epoch
    return max(0, len(dice) - 1 - at)
