"""The latent's normalisation: the same in training and in sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Stacked = Callable[[torch.Tensor], torch.Tensor]  # `x` of every process that trains: `(processes, *x.shape)`, with its gradient
FLOOR = 1e-3  # smallest standard deviation divided by
MOST = 1.25  # largest deviation of a training batch's latent, and largest mean, by the running ones


def alone(x: torch.Tensor) -> torch.Tensor:
    """The `Stacked` of a single process."""
    return x[None]


class Running(nn.Module):
    """Mean and deviation per channel, running over training batches and frozen at inference.

    Never computed from the patch at hand: an empty patch has no variance, and a case must not depend on its batch mates.
    """

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, z: torch.Tensor, stacked: Stacked = alone) -> torch.Tensor:
        """`(z - mean) / deviation` per channel of `(b, k, *latent_spatial)` float32; in training the statistics are updated first.

        In training the gradient is that of the batch's own standardisation (batch renormalisation, Ioffe 2017): the value is the
        same, but scaling or shifting the raw latent gains nothing. Otherwise the statistics, which lag behind, would reward an
        encoder for growing: a larger latent stands out of the noise until they have caught up.

        Args:
            stacked: where several processes hold parts of the batch: the statistics are those of all parts.
        """
        shape = (1, -1, *([1] * (z.ndim - 2)))
        if not self.training:
            return (z - self.mean.view(shape)) / self._deviation(self.variance).view(shape)
        mean, variance = _moments(z, stacked)
        self._update(mean.detach(), variance.detach())
        own, running = self._deviation(variance), self._deviation(self.variance)
        ratio = (own / running).detach().clamp_max(MOST)
        shift = ((mean - self.mean) / running).detach().clamp(-MOST, MOST)
        return (z - mean.view(shape)) / own.view(shape) * ratio.view(shape) + shift.view(shape)

    @staticmethod
    def _deviation(variance: torch.Tensor) -> torch.Tensor:
        return variance.clamp_min(FLOOR**2).sqrt()

    @torch.no_grad()
    def _update(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.updates += 1
        share = (1 / self.updates).clamp_min(self.momentum)
        self.mean.lerp_(mean, share)
        self.variance.lerp_(variance, share)


def _moments(z: torch.Tensor, stacked: Stacked) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance `(k,)` of `(b, k, *latent_spatial)` over all parts, weighted by their samples (Chan et al. 1979)."""
    axes = [0, *range(2, z.ndim)]
    own = torch.stack([z.mean(axes), z.var(axes, unbiased=False), z.new_full((z.shape[1],), len(z))])
    means, variances, counts = stacked(own).unbind(1)
    weights = counts.detach() / counts.detach().sum(0)
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0)


def standardise_sample(z: torch.Tensor) -> torch.Tensor:
    """Zero mean, unit deviation over each sample of `(b, k, *latent_spatial)`: the paper's rule, kept free of batch mates."""
    axes = list(range(1, z.ndim))
    return (z - z.mean(axes, keepdim=True)) / z.std(axes, keepdim=True, unbiased=False).clamp_min(FLOOR)


class PerSample(nn.Module):
    """standardise_sample as a module."""

    def forward(self, z: torch.Tensor, stacked: Stacked = alone) -> torch.Tensor:
        del stacked
        return standardise_sample(z)
