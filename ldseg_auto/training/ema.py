"""Exponential moving average of all four parts."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Keeps a frozen copy of `model` whose parameters and float buffers (the latent's statistics) trail it.

    The decay warms up as `(1 + n) / (10 + n)`, so that short trainings are not averaged with their start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine, theirs = _averaged(self.model), _averaged(model)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for counter, newest in zip(self.model.buffers(), model.buffers(), strict=True):
            if not counter.is_floating_point():
                counter.copy_(newest)


def _averaged(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
