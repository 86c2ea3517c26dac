"""The one loss that trains the four parts together (documentation/method.md gives the equations)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ldseg_auto.diffusion.schedule import signal_and_noise
from ldseg_auto.networks.ldseg import PAPER_LAST_TIME, Condition, LDSeg
from ldseg_auto.planners.plans import Training
from ldseg_auto.training.losses import segmentation_loss

PAPER_DICE_WEIGHT = 2.0  # CE + 2 Dice, as published


class Objective(nn.Module):
    """`forward(image, onehot, valid)` gives the loss and its parts; all randomness comes from torch's global generator."""

    def __init__(self, model: LDSeg, training: Training, regions: bool) -> None:
        super().__init__()
        self.model, self.training_plan, self.regions = model, training, regions

    def forward(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scalars; key `loss` is the sum of the others.

        Args:
            image: `(b, c, *spatial)`.
            onehot: `(b, heads, *spatial)`.
            valid: `(b, 1, *spatial)`, 0 where the label is to be ignored.
        """
        parts = {"auto": self._auto, "paper": self._paper, "direct": self._direct}[self.model.variant](image, onehot, valid)
        return {"loss": torch.stack(list(parts.values())).sum(), **{k: v.detach() for k, v in parts.items()}}

    def _auto(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        model, plan = self.model, self.training_plan
        condition = model.condition(image)
        z0 = model.encode_label(onehot)
        t = torch.rand(len(image), device=image.device)
        t = torch.where(torch.rand_like(t) < plan.pure_noise, torch.ones_like(t), t)
        zt = self._noised(self._recycled(z0, t, condition), t)
        z0_hat = model.denoise(zt, t, condition)
        keep = (torch.rand_like(t) >= plan.skip_dropout).float()
        logits = model.decode(z0_hat, condition.keep(keep))
        last = math.ceil(plan.reconstruction_share * len(image))  # the last ones of a batch are centred on foreground
        rebuilt = self._segmentation(model.decode(z0[-last:], None), onehot[-last:], valid[-last:]) if last else z0.new_zeros(())
        return {
            "segmentation": self._segmentation(logits, onehot, valid),
            "reconstruction": plan.reconstruction_weight * rebuilt,
            "regression": plan.regression_weight * _squared_error(z0_hat, z0.detach(), valid),
        }

    def _recycled(self, z0: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        """For a share of samples the latent that the model itself draws from pure noise, without gradient (Fu et al. 2023)."""
        mine = torch.rand(len(z0), device=z0.device) < self.training_plan.recycling
        mine = (mine & (t < 1)).nonzero()[:, 0]  # at t = 1 nothing of the latent is left: not worth an evaluation
        noise = torch.randn_like(z0)[mine]
        if not len(mine):
            return z0
        with torch.no_grad():
            own = self.model.denoise(noise, t.new_ones(len(mine)), condition.select(mine))
        return z0.index_copy(0, mine, own)

    def _noised(self, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """zt, with noise of its own for each sample."""
        signal, noise = signal_and_noise(t, self.model.schedule, self.model.dimensions)
        return signal * z0 + noise * torch.randn_like(z0)

    def _paper(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """As published: eps prediction, and the decoder reads `zt - eps_hat`."""
        model = self.model
        condition = model.condition(image)
        z0 = model.encode_label(onehot)
        t = torch.rand(len(image), device=image.device) * PAPER_LAST_TIME
        signal, noise = signal_and_noise(t, model.schedule, model.dimensions)
        eps = torch.randn_like(z0)
        zt = signal * z0 + noise * eps
        eps_hat = model.denoise(zt, t, condition)
        logits = model.decode(zt - eps_hat, condition)
        return {"segmentation": self._segmentation(logits, onehot, valid, PAPER_DICE_WEIGHT), "regression": F.mse_loss(eps_hat, eps)}

    def _direct(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """No diffusion: the denoiser without noise and time is a plain bottleneck."""
        condition = self.model.condition(image)
        shape = (len(image), *self.model.latent_shape(tuple(image.shape[2:])))
        z = self.model.denoise(image.new_zeros(shape), image.new_ones(len(image)), condition)
        return {"segmentation": self._segmentation(self.model.decode(z, condition), onehot, valid)}

    def _segmentation(self, logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, dice_weight: float = 1.0) -> torch.Tensor:
        return segmentation_loss(logits, onehot, valid, self.regions, self.training_plan.batch_dice, dice_weight)


def _squared_error(predicted: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over `(b, k, *latent_spatial)`; a latent position counts as much as the share of its voxels that are annotated."""
    weight = F.interpolate(valid, size=target.shape[2:], mode="area")
    return ((predicted - target).square() * weight).sum() / (weight.sum() * target.shape[1]).clamp_min(1)
