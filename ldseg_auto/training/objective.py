"""The one loss that trains the four parts together (documentation/method.md gives the equations)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ldseg_auto.networks.ldseg import LAST_TIME, Condition, LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.losses import energy_loss, segmentation_loss

Losses = dict[str, torch.Tensor]
ENERGY_WEIGHT, ENTROPY_WEIGHT = 2.0, 0.5  # of a Jaccard distance, whose gradient is about half of Dice's, and of the term beside it
TINY = 1e-6  # under a square root whose gradient must stay finite


class Objective(nn.Module):
    """`forward(image, onehot, valid)` gives the loss and its parts; all randomness comes from torch's global generator.

    The samples of a batch share the work: a random part of them starts from pure noise, another from recycled latents, and the
    autoencoder decodes the latents of a part.
    """

    def __init__(self, model: LDSeg, configuration: Configuration, regions: bool) -> None:
        super().__init__()
        self.model, self.regions, self.batch_dice = model, regions, configuration.training.batch_dice
        self.parts = configuration.parts

    def forward(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> Losses:
        """Scalars; key `loss` is the sum of the others.

        Args:
            image: `(b, c, *spatial)`.
            onehot: `(b, heads, *spatial)`.
            valid: `(b, 1, *spatial)`, 0 where the label is to be ignored.
        """
        compute = self._direct if self.model.variant == "direct" else self._diffusion
        losses = compute(image, onehot, valid)
        return {"loss": torch.stack(list(losses.values())).sum(), **{k: v.detach() for k, v in losses.items()}}

    def _diffusion(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> Losses:
        """Pure noise, recycled and truly noised latents, and the label autoencoder."""
        model, parts, size = self.model, self.parts, len(image)
        order = torch.randperm(size).to(image.device)
        image, onehot, valid = image[order], onehot[order], valid[order]
        condition, z0 = model.condition(image), model.encode_label(onehot)
        pure = share(parts.pure_noise, size)
        apart = pure if parts.diversity else 0  # samples that the energy score takes; the others share one pass
        losses: Losses = {name: z0.new_zeros(()) for name in self._names()}  # the same in every iteration, whatever its shares
        if apart:
            first = slice(0, apart)
            losses |= _scaled(self._energy(z0[first], onehot[first], valid[first], condition.select(first)), apart / size)
        if apart < size:
            rest = slice(apart, size)
            own = self._regress(z0[rest], onehot[rest], valid[rest], condition.select(rest), pure - apart)
            losses |= _scaled(own, (size - apart) / size)
        more = share(parts.later_steps, size)
        if more:
            later = parts.regression_weight * self._denoised(z0[:more], valid[:more], condition.select(slice(0, more)), 0)[2]
            losses["regression_later"] = later * more / size
        last = share(parts.reconstruction_share, size) if parts.reconstruction_weight else 0
        if last:
            chosen = torch.randperm(size)[:last].to(image.device)
            rebuilt = self._segmentation(model.decode(z0[chosen], None), onehot[chosen], valid[chosen])
            losses["reconstruction"] = parts.reconstruction_weight * rebuilt
        return losses

    def _names(self) -> list[str]:
        parts = self.parts
        return [
            *(("energy", "entropy", "latent_energy") if parts.diversity and parts.pure_noise else ()),
            *(("segmentation", "regression") if not parts.diversity or parts.pure_noise < 1 else ()),
            *(("regression_later",) if parts.later_steps else ()),
            *(("reconstruction",) if parts.reconstruction_weight and parts.reconstruction_share else ()),
        ]

    def _regress(self, z0: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, condition: Condition, pure: int) -> Losses:
        """Denoises one latent per sample, the first `pure` of them from t = 1: segmentation of the decoded guess, and its error."""
        zt, out, error = self._denoised(z0, valid, condition, pure)
        logits = self.model.decode(zt - out if self.parts.prediction == "eps" else out, self._disturbed(condition, len(z0)))
        return {"segmentation": self._segmentation(logits, onehot, valid), "regression": self.parts.regression_weight * error}

    def _denoised(
        self, z0: torch.Tensor, valid: torch.Tensor, condition: Condition, pure: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """zt and the denoiser's output `(b, k, *latent_spatial)`, and its mean square error; the first `pure` samples are at t = 1."""
        model, parts = self.model, self.parts
        t = torch.rand(len(z0), device=z0.device) * (LAST_TIME if parts.prediction == "eps" else 1)
        t[:pure] = 1
        zr = self._recycled(z0, condition, pure)
        signal, noise = model.signal_and_noise(t)
        eps = torch.randn_like(z0)
        zt = signal * zr + noise * eps
        out = model.denoise(zt, t, condition)
        target = eps if parts.prediction == "eps" else z0.detach() if parts.stop_gradient else z0
        return zt, out, _squared_error(out, target, valid)

    def _recycled(self, z0: torch.Tensor, condition: Condition, first: int) -> torch.Tensor:
        """z0, where `recycling` of the samples from `first` on hold what the model draws from pure noise, without gradient (Fu 2023)."""
        count = share(self.parts.recycling, len(z0) - first)
        if not count:
            return z0
        mine = slice(first, first + count)
        with torch.no_grad():
            noise = torch.randn_like(z0[mine])
            own = self.model.clean(noise, noise.new_ones(count), condition.select(mine))
        return torch.cat([z0[:first], own, z0[first + count :]])

    def _energy(self, z0: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, condition: Condition) -> Losses:
        """Two draws from pure noise per sample under the energy score, on the masks and on the latent."""
        model, parts, size = self.model, self.parts, len(z0)
        draws = model.denoise(torch.randn_like(torch.cat([z0, z0])), z0.new_ones(2 * size), condition.repeat(2))
        logits = model.decode(draws, self._disturbed(condition, size).repeat(2))
        score, entropy = energy_loss(logits, onehot, valid, self.regions, parts.diversity)
        target = z0.detach() if parts.stop_gradient else z0
        latent = _latent_energy(draws[:size], draws[size:], target, valid, parts.diversity)
        return {
            "energy": ENERGY_WEIGHT * parts.dice_weight * score,
            "entropy": ENTROPY_WEIGHT * entropy,
            "latent_energy": parts.regression_weight * latent,
        }

    def _disturbed(self, condition: Condition, size: int) -> Condition:
        """Decoder features with noise for half of the samples, and without any for a share `skip_dropout`: the latent must carry them.

        Noise on a condition, of random strength, is conditioning augmentation (Ho et al. 2022, cascaded diffusion).
        """
        parts, device = self.parts, condition.device
        if parts.skip_noise:
            condition = condition.noised(parts.skip_noise * torch.rand(size, device=device) * (torch.rand(size, device=device) < 0.5))
        if parts.skip_dropout:
            condition = condition.keep((torch.rand(size, device=device) >= parts.skip_dropout).float())
        return condition

    def _direct(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> Losses:
        """No diffusion: the denoiser without noise and time is a plain bottleneck."""
        condition = self._disturbed(self.model.condition(image), len(image))
        shape = (len(image), *self.model.latent_shape(tuple(image.shape[2:])))
        z = self.model.denoise(image.new_zeros(shape), image.new_ones(len(image)), condition)
        return {"segmentation": self._segmentation(self.model.decode(z, condition), onehot, valid)}

    def _segmentation(self, logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return segmentation_loss(logits, onehot, valid, self.regions, self.batch_dice, self.parts.dice_weight)


def share(part: float, count: int) -> int:
    """`part` of `count`, rounded up or down at random so that its mean is exact: small batches keep every kind of sample."""
    return min(count, int(part * count + float(torch.rand(()))))


def _scaled(losses: Losses, factor: float) -> Losses:
    """Each loss times the share of the batch that it was computed on."""
    return {k: v * factor for k, v in losses.items()}


def _squared_error(predicted: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over `(b, k, *latent_spatial)`; a latent position counts as much as the share of its voxels that are annotated."""
    weight = F.interpolate(valid, size=target.shape[2:], mode="area")
    return ((predicted - target).square() * weight).sum() / (weight.sum() * target.shape[1]).clamp_min(1)


def _latent_energy(a: torch.Tensor, b: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, diversity: float) -> torch.Tensor:
    """Energy score of the draws `a` and `b` `(b, k, *latent_spatial)` under the root mean square distance; weighted by `valid`."""
    weight = F.interpolate(valid, size=target.shape[2:], mode="area")
    total = (weight.flatten(1).sum(1) * target.shape[1]).clamp_min(1)

    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (((x - y).square() * weight).flatten(1).sum(1) / total + TINY).sqrt()

    return (distance(a, target) + distance(b, target) - diversity * distance(a, b)).mean() / 2
