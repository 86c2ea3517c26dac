"""Samplers as pure functions of a clean-latent predictor `predict(zt, t) -> z0_hat` with `t` of shape (b,)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch

from ldseg_auto.diffusion.schedule import alpha_bar, trailing_times

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Adjust = Callable[[torch.Tensor], torch.Tensor]

NO_SIGNAL = 1e-30  # double precision rounds the cosine schedule's alpha_bar(1) = 0 to 4e-33


def keep(z: torch.Tensor) -> torch.Tensor:
    """The identity: no adjustment between steps."""
    return z


def averaged(predict: Predict) -> Predict:
    """`predict` for one sample, each time the mean of all predictions so far, for any sampler.

    Where x leaves one mask possible, every prediction estimates the same latent, each from another disturbance of it: their mean is nearer
    than the last one. Where x leaves several, it is no draw from them.
    """
    total: torch.Tensor | float = 0.0
    count = 0

    def mean(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal total, count
        total, count = predict(z, t) + total, count + 1
        return total / count

    return mean


def ddim(predict: Predict, noise: torch.Tensor, steps: int, schedule: str, adjust: Adjust = keep, scale: float = 1.0) -> torch.Tensor:
    """Song et al. 2021, eq. 12 with eta = 0, on trailing times.

    Args:
        noise: `(b, k, *latent_spatial)`, standard normal.
        adjust: applied to the latent after every step (LDSeg standardises there).
        scale: of the latent before noise, as in training; so for the other samplers.

    Returns:
        z0_hat `(b, k, *latent_spatial)`.
    """
    z = noise
    for t, s in pairwise(trailing_times(steps)):
        z0 = predict(z, torch.full((len(z),), t, device=z.device))
        z = adjust(_towards(z0, z, *_shares(t, s, schedule, scale)))
    return z


def multistep(predict: Predict, noise: torch.Tensor, steps: int, schedule: str, adjust: Adjust = keep, scale: float = 1.0) -> torch.Tensor:
    """DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), algorithm 2, on trailing times.

    Each step is the DDIM step towards D, the prediction extrapolated along the last two: one evaluation of `predict` per step.

    | paper | here |
    |---|---|
    | lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)) | `_log_snr` |
    | h_i, h_(i-1) | rise, rise_before |
    | 1 / (2 r_i) = h_i / (2 h_(i-1)) | weight |
    | D_i = (1 + 1 / (2 r_i)) x_i - 1 / (2 r_i) x_(i-1) | z0 + weight * (z0 - before) |

    The first step has no history; after a start without signal h_(i-1) is infinite and the weight's limit is 0; the last step has h_i
    infinite, where only the first order has a limit. So with the cosine schedule 1, 2 and 3 steps are DDIM's.

    Args:
        noise: `(b, k, *latent_spatial)`, standard normal.
        adjust: applied to the latent after every step; the extrapolated predictions are left as they are.

    Returns:
        z0_hat `(b, k, *latent_spatial)`.

    Raises:
        ValueError: fewer than one step, or an unknown schedule.
    """
    z, before, rise = noise, noise, math.inf
    for t, s in pairwise(trailing_times(steps)):
        z0 = predict(z, torch.full((len(z),), t, device=z.device))
        a_t, a_s = _shares(t, s, schedule, scale)
        rise_before, rise = rise, _log_snr(a_s) - _log_snr(a_t)
        weight = rise / (2 * rise_before) if math.isfinite(rise) else 0.0
        z = adjust(_towards(z0 + weight * (z0 - before) if weight else z0, z, a_t, a_s))
        before = z0
    return z


def ddpm(
    predict: Predict, noise: torch.Tensor, steps: int, schedule: str, fresh: Callable[[int], torch.Tensor], adjust: Adjust = keep,
    scale: float = 1.0,
) -> torch.Tensor:  # fmt: skip
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
        a_t, a_s = _shares(t, s, schedule, scale)
        ratio = a_t / a_s
        mean = (a_s**0.5 * (1 - ratio) * z0 + ratio**0.5 * (1 - a_s) * z) / (1 - a_t)
        deviation = ((1 - ratio) * (1 - a_s) / (1 - a_t)) ** 0.5
        z = adjust(mean + deviation * fresh(i))
    return z


def _towards(z0: torch.Tensor, z: torch.Tensor, a_t: float, a_s: float) -> torch.Tensor:
    """The latent at time s if z0 `(b, k, *latent_spatial)` is the clean latent of z at time t: Song et al. 2021, eq. 12, eta = 0."""
    eps = (z - a_t**0.5 * z0) / max(1 - a_t, 1e-12) ** 0.5
    return a_s**0.5 * z0 + (1 - a_s) ** 0.5 * eps


def _log_snr(share: float) -> float:
    """Lu et al.'s lambda of alpha_bar: half the logarithm of signal variance over noise variance; infinite at either end."""
    if share < NO_SIGNAL:
        return -math.inf
    return math.inf if share == 1 else math.log(share / (1 - share)) / 2


def _shares(t: float, s: float, schedule: str, scale: float) -> tuple[float, float]:
    """alpha_bar at both times, in double precision; exactly 1 at time 0."""
    a = alpha_bar(torch.tensor([t, s], dtype=torch.float64), schedule, scale)
    return float(a[0]), 1.0 if s == 0 else float(a[1])
