"""The one loss that trains the four parts together (documentation/method.md gives the equations)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ldseg_auto.networks.ldseg import LAST_TIME, Condition, LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.draw import Draw, draw_step
from ldseg_auto.training.losses import Total, alone, energy_loss, sample_mean, segmentation_loss
from ldseg_auto.training.ranks import Held, Ranks

Losses = dict[str, torch.Tensor]
ENERGY_WEIGHT, ENTROPY_WEIGHT = 2.0, 0.5  # of a Jaccard distance, whose gradient is about half of Dice's, and of the term beside it
TINY = 1e-6  # under a square root whose gradient must stay finite


class Objective(nn.Module):
    """`forward(image, onehot, valid, draw)` gives the loss and its parts; all randomness comes from torch's global generators.

    The samples of a batch share the work: a random part of them starts from pure noise, another from recycled latents, and the
    autoencoder decodes the latents of a part. Where several ranks hold samples of the batch (ranks.py), each gets the loss of the
    whole batch, and gradients that add up to its gradient over ranks.
    """

    def __init__(self, model: LDSeg, configuration: Configuration, regions: bool, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.model, self.regions, self.batch_dice = model, regions, configuration.training.batch_dice
        self.parts, self.batch_size, self.ranks = configuration.parts, configuration.batch_size, ranks or Ranks()
        weights = configuration.training.class_weights
        self.weights: torch.Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)

    def draw(self, size: int) -> Draw:
        """What a step on a batch of `size` samples, those of all ranks, decides on the host."""
        return Draw(torch.arange(size)) if self.model.variant == "direct" else draw_step(self.parts, size)

    def forward(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, draw: Draw | None = None) -> Losses:
        """Scalars; key `loss` is the sum of the others. With one rank and a `draw` on the device it asks nothing of the host.

        Args:
            image: `(b, c, *spatial)`.
            onehot: `(b, heads, *spatial)`.
            valid: `(b, 1, *spatial)`, 0 where the label is to be ignored.
            draw: this step's choices; None: `self.draw` of the batch.
        """
        if self.model.variant == "direct":
            losses = self._direct(image, onehot, valid)
        else:
            held = self.ranks.held(len(image), self.batch_size)
            losses = self._diffusion(image, onehot, valid, held, self.draw(held.size) if draw is None else draw)
        return {"loss": torch.stack(list(losses.values())).sum(), **{k: v.detach() for k, v in losses.items()}}

    def _diffusion(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, held: Held, draw: Draw) -> Losses:
        """Pure noise, recycled and truly noised latents, and the label autoencoder."""
        model, parts, size = self.model, self.parts, held.size
        held, own = held.shuffled(draw.order)
        image, onehot, valid = (x[own.to(image.device, non_blocking=True)] for x in (image, onehot, valid))
        condition, z0 = model.condition(image), model.encode_label(onehot, self.ranks.stacked)
        pure = draw.pure
        apart = pure if parts.diversity else 0  # samples that the energy score takes; the others share one pass
        losses: Losses = {name: z0.new_zeros(()) for name in self._names()}  # the same in every iteration, whatever its shares
        drawn: torch.Tensor | None = None  # what the model draws from pure noise, where that is known
        if apart:
            mine, part = held.within(0, apart)
            losses |= _scaled(self._energy(z0[mine], onehot[mine], valid[mine], condition.select(mine), part), apart / size)
        if apart < size:
            mine, part = held.within(apart, size)
            counts = pure - apart, draw.recycled[0]
            regressed, out = self._regress(z0[mine], onehot[mine], valid[mine], condition.select(mine), part, counts)
            drawn = out.detach() if pure == size and model.one_draw else None
            losses |= _scaled(regressed, (size - apart) / size)
        more, counts = draw.later, (0, draw.recycled[1])
        if more:
            mine, part = held.within(0, more)
            later = parts.regression_weight * self._denoised(z0[mine], valid[mine], condition.select(mine), part, counts, drawn)[2]
            losses["regression_later"] = later * more / size
        if len(draw.rebuilt):
            chosen = held.find(draw.rebuilt).to(image.device, non_blocking=True)
            rebuilt = self._segmentation(self._decode(z0[chosen], None, onehot[chosen]), onehot[chosen], valid[chosen])
            losses["reconstruction"] = parts.reconstruction_weight * rebuilt
        differentiated = apart < size or more or len(draw.rebuilt) or not parts.stop_gradient  # z0, by any rank
        if self.ranks.size > 1 and differentiated:
            return {name: loss + 0 * z0.sum() for name, loss in losses.items()}  # see Ranks.stacked
        return losses

    def _names(self) -> list[str]:
        parts = self.parts
        return [
            *(("energy", "entropy", "latent_energy") if parts.diversity and parts.pure_noise else ()),
            *(("segmentation", "regression") if not parts.diversity or parts.pure_noise < 1 else ()),
            *(("regression_later",) if parts.later_steps else ()),
            *(("reconstruction",) if parts.reconstruction_weight and parts.reconstruction_share else ()),
        ]

    def _regress(
        self, z0: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, condition: Condition, part: Held,
        counts: tuple[int, int],
    ) -> tuple[Losses, torch.Tensor]:  # fmt: skip
        """Denoises one latent per sample: segmentation of the decoded guess, and its error; `counts` as in `_denoised`.

        Returns the losses, and the denoiser's output `(b, k, *latent_spatial)`.
        """
        zt, out, error = self._denoised(z0, valid, condition, part, counts)
        logits = self._decode(zt - out if self.parts.prediction == "eps" else out, condition, onehot)
        return {"segmentation": self._segmentation(logits, onehot, valid), "regression": self.parts.regression_weight * error}, out

    def _denoised(
        self, z0: torch.Tensor, valid: torch.Tensor, condition: Condition, part: Held, counts: tuple[int, int],
        drawn: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
        """zt and the denoiser's output `(b, k, *latent_spatial)`, and its mean square error.

        Args:
            counts: the samples at t = 1, which are the first, and those after them whose latent is recycled.
            drawn: latents to recycle, one per sample or more; without it they are drawn here.
        """
        model, parts, (pure, recycled) = self.model, self.parts, counts
        t = part.rand(z0.device) * (LAST_TIME if parts.prediction == "eps" else 1)
        t[part.within(0, pure)[0]] = 1
        zr = self._recycled(z0, condition, part, pure, recycled, drawn)
        signal, noise = model.signal_and_noise(t)
        eps = part.randn(z0)
        zt = signal * zr + noise * eps
        out = model.denoise(zt, t, condition) if len(zt) else zt
        target = eps if parts.prediction == "eps" else z0.detach() if parts.stop_gradient else z0
        return zt, out, _squared_error(out, target, valid, self.ranks.total)

    def _recycled(
        self, z0: torch.Tensor, condition: Condition, part: Held, first: int, count: int, drawn: torch.Tensor | None = None
    ) -> torch.Tensor:
        """z0, where `count` of the samples from `first` on hold what the model draws from pure noise, without gradient (Fu 2023)."""
        if not count:
            return z0
        mine, recycled = part.within(first, first + count)
        if drawn is not None:
            return torch.cat([z0[: mine.start], drawn[mine], z0[mine.stop :]])
        with torch.no_grad():
            noise = recycled.randn(z0[mine])
            own = self.model.clean(noise, noise.new_ones(len(noise)), condition.select(mine)) if len(noise) else noise
        return torch.cat([z0[: mine.start], own, z0[mine.stop :]])

    def _energy(self, z0: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, condition: Condition, part: Held) -> Losses:
        """Two draws from pure noise per sample under the energy score, on the masks and on the latent."""
        model, parts, size, total = self.model, self.parts, len(z0), self.ranks.total
        noise = part.twice().randn(torch.cat([z0, z0]))
        draws = model.denoise(noise, z0.new_ones(2 * size), condition.repeat(2)) if size else noise
        logits = self._decode(draws, condition.repeat(2), onehot)
        score, entropy = energy_loss(logits, onehot, valid, self.regions, parts.diversity, self.weights, total)
        target = z0.detach() if parts.stop_gradient else z0
        latent = _latent_energy(draws[:size], draws[size:], target, valid, parts.diversity, total)
        return {
            "energy": ENERGY_WEIGHT * parts.dice_weight * score,
            "entropy": ENTROPY_WEIGHT * entropy,
            "latent_energy": parts.regression_weight * latent,
        }

    def _decode(self, z: torch.Tensor, condition: Condition | None, onehot: torch.Tensor) -> torch.Tensor:
        """Logits of `z`; none, shaped as those of `onehot` `(b, heads, *spatial)`, where this rank holds no sample of the part."""
        return self.model.decode(z, condition) if len(z) else onehot[:0]

    def _direct(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> Losses:
        """No diffusion: the denoiser without noise and time is a plain bottleneck."""
        condition = self.model.condition(image)
        shape = (len(image), *self.model.latent_shape(tuple(image.shape[2:])))
        z = self.model.denoise(image.new_zeros(shape), image.new_ones(len(image)), condition)
        return {"segmentation": self._segmentation(self.model.decode(z, condition), onehot, valid)}

    def _segmentation(self, logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        settings = self.regions, self.batch_dice, self.parts.dice_weight, self.weights
        return segmentation_loss(logits, onehot, valid, *settings, self.ranks.total)


def _scaled(losses: Losses, factor: float) -> Losses:
    """Each loss times the share of the batch that it was computed on."""
    return {k: v * factor for k, v in losses.items()}


def _squared_error(predicted: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, total: Total = alone) -> torch.Tensor:
    """Mean over `(b, k, *latent_spatial)`; a latent position counts as much as the share of its voxels that are annotated."""
    weight = F.interpolate(valid, size=target.shape[2:], mode="area")
    error, count = total(torch.stack([((predicted - target).square() * weight).sum(), weight.sum() * target.shape[1]])).unbind()
    return error / count.detach().clamp_min(1)


def _latent_energy(
    a: torch.Tensor, b: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, diversity: float, total: Total = alone
) -> torch.Tensor:
    """Energy score of the draws `a` and `b` `(b, k, *latent_spatial)` under the root mean square distance; weighted by `valid`."""
    weight = F.interpolate(valid, size=target.shape[2:], mode="area")
    count = (weight.flatten(1).sum(1) * target.shape[1]).clamp_min(1)

    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (((x - y).square() * weight).flatten(1).sum(1) / count + TINY).sqrt()

    return sample_mean(distance(a, target) + distance(b, target) - diversity * distance(a, b), total) / 2
