"""Diffusion steps from the latent's spectrum, by a closed formula (design.md 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TARGET_SHARE = 0.85  # of the modes' standard deviation
MAX_STEPS = 32


def retained(variance: np.ndarray, steps: int) -> np.ndarray:
    """Share of the standard deviation that `steps` DDIM steps keep of Gaussian modes, cosine schedule.

    For a mode of variance v the optimal denoiser is known; one step from t to s multiplies the mode by
    `(sqrt(a_s a_t) v + sqrt((1 - a_s)(1 - a_t))) / (a_t v + 1 - a_t)`, the start has deviation 1, the exact end `sqrt(v)`.

    | equation | variable |
    |---|---|
    | a_t, a_s | now, after |
    | v | variance |

    Args:
        variance: any shape, above 0, relative to unit noise.

    Returns:
        The same shape, 0 to 1 (a single step returns the mean: 0).
    """
    share = np.ones_like(variance, dtype=float)
    times = [1 - i / steps for i in range(steps + 1)]
    bars = [math.cos(math.pi / 2 * t) ** 2 for t in times]
    bars[0], bars[-1] = 0.0, 1.0
    for now, after in zip(bars[:-1], bars[1:], strict=True):
        share *= (math.sqrt(after * now) * variance + math.sqrt((1 - after) * (1 - now))) / (now * variance + 1 - now)
    return share / np.sqrt(variance)


@dataclass(frozen=True)
class StepPoint:
    """One number of steps that was considered."""

    steps: int
    share: float  # of the latent's standard deviation that it retains, 0 to 1
    chosen: bool


def steps_curve(modes: Sequence[Sequence[float]], chosen: int = 0) -> list[StepPoint]:
    """What 1, 2, ... 32 steps retain, averaged over modes by their share of variance; empty where the label code does not vary.

    Args:
        modes: pairs (variance of a mode, weight: the variance that modes like it hold in all): `fingerprint.latent[grid][i].modes["k"]`.
        chosen: steps of the plan, marked; without them no point is.
    """
    if not modes or sum(w for _, w in modes) <= 0:
        return []
    variance, weight = np.array(modes, dtype=float).T
    weight = weight / weight.sum()
    return [StepPoint(s, float((retained(variance, s) * weight).sum()), s == chosen) for s in range(1, MAX_STEPS + 1)]


def sampling_steps(modes: Sequence[Sequence[float]], first_draws: bool = False, target: float = TARGET_SHARE) -> tuple[int, str]:
    """The fewest steps, at most 32, that retain `target` of the deviation, averaged over modes by their share of variance.

    Args:
        modes: as in steps_curve.
        first_draws: the first step is trained to give a draw, not the mean (energy score): it retains all of the deviation.

    Returns:
        Steps and the reason.
    """
    if first_draws:
        return 1, "the first step is trained to be a draw (energy score): one step"
    curve = {p.steps: p.share for p in steps_curve(modes)}
    if not curve:
        return 1, "the label code does not vary: one step"
    enough = [s for s, share in curve.items() if share >= target]
    chosen = enough[0] if enough else MAX_STEPS
    shown = ", ".join(f"{s}: {curve[s]:.2f}" for s in sorted({1, 2, 4, 8, 16, 32, chosen}))
    variance, weight = np.array(modes, dtype=float).T
    spread = f"modes' variance {np.average(variance, weights=weight):.3g} on average"
    rule = f"the fewest that retain {target:.2f}" if enough else f"{target:.2f} is out of reach: the most allowed"
    return chosen, f"{rule} of the latent's deviation ({shown}; {spread})"
