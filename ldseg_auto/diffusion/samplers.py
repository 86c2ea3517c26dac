"""Samplers as pure functions of a clean-latent predictor `predict(zt, t) -> z0_hat` with `t` of shape (b,)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

from ldseg_auto.diffusion.schedule import alpha_bar, trailing_times

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Adjust = Callable[[torch.Tensor], torch.Tensor]


def keep(z: torch.Tensor) -> torch.Tensor:
    """The identity: no adjustment between steps."""
    return z


def ddim(predict: Predict, noise: torch.Tensor, steps: int, schedule: str, adjust: Adjust = keep) -> torch.Tensor:
    """Song et al. 2021, eq. 12 with eta = 0, on trailing times.

    Args:
        noise: `(b, k, *latent_spatial)`, standard normal.
        adjust: applied to the latent after every step (LDSeg standardises there).

    Returns:
        z0_hat `(b, k, *latent_spatial)`.
    """
    z = noise
    for t, s in pairwise(trailing_times(steps)):
        z0 = predict(z, torch.full((len(z),), t, device=z.device))
        a_t, a_s = _shares(t, s, schedule)
        eps = (z - a_t**0.5 * z0) / max(1 - a_t, 1e-12) ** 0.5
        z = adjust(a_s**0.5 * z0 + (1 - a_s) ** 0.5 * eps)
    return z


def ddpm(
    predict: Predict, noise: torch.Tensor, steps: int, schedule: str, fresh: Callable[[int], torch.Tensor], adjust: Adjust = keep
) -> torch.Tensor:
    """Ho et al. 2020, eq. 6-7 between the times of the sampler: the posterior of `zs` given `zt` and z0_hat.

    Args:
        noise: `(b, k, *latent_spatial)`, standard normal.
        fresh: standard normal noise of the same shape for step i.

    Returns:
        z0_hat `(b, k, *latent_spatial)`.
    """
    z = noise
    for i, (t, s) in enumerate(pairwise(trailing_times(steps))):
        z0 = predict(z, torch.full((len(z),), t, device=z.device))
        a_t, a_s = _shares(t, s, schedule)
        ratio = a_t / a_s
        mean = (a_s**0.5 * (1 - ratio) * z0 + ratio**0.5 * (1 - a_s) * z) / (1 - a_t)
        deviation = ((1 - ratio) * (1 - a_s) / (1 - a_t)) ** 0.5
        z = adjust(mean + deviation * fresh(i))
    return z


def _shares(t: float, s: float, schedule: str) -> tuple[float, float]:
    """alpha_bar at both times, in double precision; exactly 1 at time 0."""
    a = alpha_bar(torch.tensor([t, s], dtype=torch.float64), schedule)
    return float(a[0]), 1.0 if s == 0 else float(a[1])
