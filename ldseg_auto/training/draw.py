"""What a training step decides before it computes: which samples of the batch do what."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ldseg_auto.planners.plans import Parts


class Draw(NamedTuple):
    """One step's choices, drawn on the host from torch's global generator.

    They alone shape the step: two steps of one `kind` run the same operations on tensors of the same shapes (training/graphs.py).
    """

    order: torch.Tensor  # (batch,) the batch is put into this order first
    pure: int = 0  # samples, from the first on, that start from pure noise
    later: int = 0  # samples, from the first on, that are denoised once more from a later time
    recycled: tuple[int, int] = (0, 0)  # of those that do not start from pure noise, and of the later ones: from the model's own latent
    rebuilt: torch.Tensor = torch.empty(0, dtype=torch.long)

    @property
    def kind(self) -> tuple[int, ...]:
        """The numbers of samples that do each."""
        return len(self.order), self.pure, self.later, *self.recycled, len(self.rebuilt)


def draw_step(parts: Parts, size: int) -> Draw:
    """The choices for a batch of `size` samples."""
    order, pure = torch.randperm(size), share(parts.pure_noise, size)
    regressed = max(0, size - pure)
    later = share(parts.later_steps, size)
    recycled = share(parts.recycling, regressed), share(parts.recycling, later)
    rebuilt = share(parts.reconstruction_share, size) if parts.reconstruction_weight else 0
    return Draw(order, pure, later, recycled, torch.randperm(size)[:rebuilt])


def share(part: float, count: int) -> int:
    """`part` of `count`, rounded up or down at random so that its mean is exact: small batches keep every kind of sample."""
    return min(count, int(part * count + float(torch.rand(()))))
