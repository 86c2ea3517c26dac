"""The learning rate as a function of progress, so that a time budget anneals fully."""

from __future__ import annotations

import math


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
