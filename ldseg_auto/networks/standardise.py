"""The latent's normalisation: the same in training and in sampling."""

from __future__ import annotations

import torch
from torch import nn

FLOOR = 1e-3  # smallest standard deviation divided by


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

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """`(b, k, *latent_spatial)`, standardised per channel; in training the statistics are updated first."""
        if self.training:
            self._update(z.detach())
        shape = (1, -1, *([1] * (z.ndim - 2)))
        return (z - self.mean.view(shape)) / self.variance.sqrt().clamp_min(FLOOR).view(shape)

    @torch.no_grad()
    def _update(self, z: torch.Tensor) -> None:
        axes = [0, *range(2, z.ndim)]
        self.updates += 1
        share = max(self.momentum, 1 / float(self.updates))
        self.mean.lerp_(z.mean(axes), share)
        self.variance.lerp_(z.var(axes, unbiased=False), share)


def standardise_sample(z: torch.Tensor) -> torch.Tensor:
    """Zero mean, unit deviation over each sample of `(b, k, *latent_spatial)`: the paper's rule, kept free of batch mates."""
    axes = list(range(1, z.ndim))
    return (z - z.mean(axes, keepdim=True)) / z.std(axes, keepdim=True, unbiased=False).clamp_min(FLOOR)


class PerSample(nn.Module):
    """standardise_sample as a module."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return standardise_sample(z)
