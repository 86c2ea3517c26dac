"""Noise schedules in continuous time: t = 0 is the clean latent, t = 1 pure noise.

`zt = sqrt(alpha_bar(t)) z0 + sqrt(1 - alpha_bar(t)) eps`. Cosine: Nichol & Dhariwal 2021 without their offset, so that the
terminal signal is zero; linear: Ho et al. 2020 in the limit of many steps; quadratic: `sqrt(beta)` linear in t.
Linear and quadratic keep a trace of signal at t = 1: 0.0066 and 0.0277 of the amplitude (0.0064 and 0.0271 in 1000 published steps).
"""

from __future__ import annotations

import math

import torch

BETA_FIRST, BETA_LAST = 0.1, 20.0  # Ho et al. 2020: 1e-4 and 0.02 per step, times 1000 steps


def alpha_bar(t: torch.Tensor, schedule: str, scale: float = 1.0) -> torch.Tensor:
    """Share of signal variance at time t.

    Args:
        t: any shape, in [0, 1].
        schedule: `cosine`, `linear` or `quadratic`.
        scale: of the latent before noise is added (Chen 2023): `b^2 a / ((b^2 - 1) a + 1)`, with the sum's variance kept at 1.

    Raises:
        ValueError: another schedule.
    """
    share = torch.cos(t * (math.pi / 2)).square() if schedule == "cosine" else torch.exp(-_spent(t, schedule))
    return scale**2 * share / ((scale**2 - 1) * share + 1)


def _spent(t: torch.Tensor, schedule: str) -> torch.Tensor:
    """The integral of beta from 0 to t; alpha_bar = exp(-it)."""
    if schedule == "linear":
        return BETA_FIRST * t + (BETA_LAST - BETA_FIRST) * t.square() / 2
    if schedule == "quadratic":
        first, rise = math.sqrt(BETA_FIRST), math.sqrt(BETA_LAST) - math.sqrt(BETA_FIRST)
        return first**2 * t + first * rise * t.square() + rise**2 * t**3 / 3
    raise ValueError(f"schedule = {schedule!r}: expected cosine, linear or quadratic.")


def signal_and_noise(t: torch.Tensor, schedule: str, dimensions: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """`(sqrt(alpha_bar), sqrt(1 - alpha_bar))` of `t` (b,), shaped (b, 1, ...) to multiply `(b, k, *latent_spatial)`.

    Each is computed by itself: `1 - alpha_bar` would cancel to a few digits at small t in float32 (and some devices have no float64).
    """
    t = t.float().view(-1, *([1] * (dimensions + 1)))
    if schedule == "cosine":
        angle = t * (math.pi / 2)
        signal, noise = angle.cos().clamp_min(0), angle.sin()
    else:
        spent = _spent(t, schedule)
        signal, noise = torch.exp(-spent / 2), torch.sqrt(-torch.expm1(-spent))
    if scale == 1:
        return signal, noise
    length = torch.hypot(scale * signal, noise)
    return scale * signal / length, noise / length


def trailing_times(steps: int) -> list[float]:
    """`steps + 1` times from 1 down to 0, equally spaced: the first step starts at pure noise (Lin et al. 2024).

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected 1 or more.")
    return [1 - i / steps for i in range(steps)] + [0.0]
