"""LDSeg: the four parts joined, and the one wrapper that owns the noise formulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ldseg_auto.diffusion.samplers import averaged, ddim, ddpm, keep, multistep
from ldseg_auto.diffusion.schedule import signal_and_noise
from ldseg_auto.networks.parts import Denoiser, ImageEncoder, LabelDecoder, LabelEncoder
from ldseg_auto.networks.standardise import PerSample, Running, Stacked, alone, standardise_sample
from ldseg_auto.planners.plans import Configuration

LAST_TIME = 0.999  # T = 1000 steps: the last one still holds a trace of signal, which eps prediction divides by
PAPER_WIDTHS = (64, 128)


@dataclass(frozen=True)
class Condition:
    """What the image gives, computed once per patch: projections for the denoiser and for the decoder, each `(b, c, *grid)`."""

    denoiser: list[torch.Tensor]
    decoder: list[torch.Tensor]

    def select(self, samples: torch.Tensor | slice) -> Condition:
        """Only the samples of the batch whose indices are in `samples`, (n,) or a slice."""
        return Condition([f[samples] for f in self.denoiser], [f[samples] for f in self.decoder])

    def repeat(self, times: int) -> Condition:
        """The batch `times` times, one after the other."""
        return Condition([torch.cat([f] * times) for f in self.denoiser], [torch.cat([f] * times) for f in self.decoder])


class LDSeg(nn.Module):
    """End-to-end latent diffusion for segmentation.

    Args:
        configuration: sizes, variant, method and schedule.
        heads: logit channels (classes with background, or regions).
    """

    def __init__(self, configuration: Configuration, heads: int) -> None:
        super().__init__()
        network, latent, stage = configuration.network, configuration.latent, configuration.latent_stage
        self.variant, self.dimensions, self.parts = network.variant, configuration.dimensions, configuration.parts
        self.schedule, self.sampler = configuration.sampling.schedule, configuration.sampling.sampler
        self.centre = configuration.centre
        self.factor, self.channels, self.latent_stage, self.heads = latent.factor, latent.channels, stage, heads
        pyramid, levels = self.parts.denoiser == "unet", configuration.denoiser_stages
        self.image_encoder = ImageEncoder(configuration.channels, network, min(levels.stop, len(network.strides)) if pyramid else stage + 1)
        self.label_encoder = LabelEncoder(1 if self.parts.label_input == "integer" else heads, latent.channels, network, stage)
        self.standardise = PerSample() if self.parts.standardisation == "sample" else Running(latent.channels)
        self.decoder = LabelDecoder(latent.channels, heads, network, stage, skips=self.parts.skips)
        if pyramid:
            widths = network.features_per_stage[levels]
            self.denoiser = Denoiser(latent.channels, widths, widths, network.strides[levels], configuration.attention)
        else:
            self.embedding = _one(self.dimensions, network.features_per_stage[stage])
            strides = ((1,) * self.dimensions, (2,) * self.dimensions)
            self.denoiser = Denoiser(latent.channels, (1,), PAPER_WIDTHS, strides, attention=True)

    def latent_shape(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """`(k, *latent_spatial)` for an image of `spatial` voxels, multiples of the factor."""
        return (self.channels, *(s // f for s, f in zip(spatial, self.factor, strict=True)))

    def condition(self, image: torch.Tensor) -> Condition:
        """Runs the image encoder: `image` is `(b, c, *spatial)`."""
        features, stage = self.image_encoder(image), self.latent_stage
        grids = features[stage:] if self.parts.denoiser == "unet" else [self.embedding(features[-1])]
        return Condition(self.denoiser.condition(grids), self.decoder.condition(features[: stage + 1]))

    def encode_label(self, onehot: torch.Tensor, stacked: Stacked = alone) -> torch.Tensor:
        """Clean latent z0 `(b, k, *latent_spatial)` of `onehot` `(b, heads, *spatial)`; the paper codes it as one integer channel.

        There head i counts i + 1, so that the background of regions and ignored voxels, which have no head, differ from head 0;
        classes span [0, 1]. `stacked`: see standardise.Running.
        """
        return self.standardise(self.raw_latent(onehot), stacked)

    def raw_latent(self, onehot: torch.Tensor) -> torch.Tensor:
        """The latent before it is standardised, float32; shapes as in `encode_label`."""
        if self.parts.label_input == "integer":
            number = torch.arange(1, self.heads + 1, device=onehot.device, dtype=onehot.dtype).view(1, -1, *([1] * self.dimensions))
            onehot = ((onehot * number).sum(1, keepdim=True) - 1) / max(1, self.heads - 1)
        return self.label_encoder(2 * onehot - 1).float()

    def signal_and_noise(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Amplitudes of latent and noise at `t` (b,), shaped to multiply `(b, k, *latent_spatial)`."""
        return signal_and_noise(t, self.schedule, self.dimensions, self.parts.input_scale)

    def denoise(self, zt: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The network's output at `zt`: z0_hat, or eps_hat with prediction = eps; `t` is (b,)."""
        if self.variant == "direct":
            zt, t = torch.zeros_like(zt), torch.ones_like(t)
        elif self.parts.signal_gate:
            zt = self.signal_and_noise(t)[0] * zt
        return self.denoiser(zt, t, condition.denoiser).float()

    @property
    def one_draw(self) -> bool:
        """Whether the first step gives one latent whatever the noise: where no signal is left at t = 1, a gated denoiser reads zeros."""
        return self.parts.signal_gate and self.parts.prediction == "z0" and self.schedule == "cosine"

    def clean(self, zt: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        """z0_hat `(b, k, *latent_spatial)` by either prediction."""
        if self.parts.prediction == "z0":
            return self.denoise(zt, t, condition)
        t = t.clamp_max(LAST_TIME)
        signal, noise = self.signal_and_noise(t)
        return (zt - noise * self.denoise(zt, t, condition)) / signal

    def sample(
        self, noise: torch.Tensor, condition: Condition, steps: int, fresh: Callable[[int], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Draws z0_hat from `noise` `(b, k, *latent_spatial)` in `steps` evaluations; `fresh(i)` gives DDPM's noise of step i.

        Raises:
            ValueError: sampler ddpm without `fresh`.
        """
        steps = 1 if self.variant == "direct" else steps
        adjust = standardise_sample if self.parts.standardisation == "sample" else keep

        def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.clean(z, t, condition)

        guess = averaged(predict) if self.parts.average_steps else predict
        scale = self.parts.input_scale
        if self.sampler != "ddpm":
            return {"ddim": ddim, "multistep": multistep}[self.sampler](guess, noise, steps, self.schedule, adjust, scale)
        if fresh is None:
            raise ValueError("sampler = ddpm needs fresh noise for each step.")
        return ddpm(guess, noise, steps, self.schedule, fresh, adjust, scale)

    def decode(self, z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        """Logits `(b, heads, *spatial)`; without a condition the image is switched off."""
        return self.decoder(z, condition.decoder if condition else ())

    def decode_in_parts(self, z: torch.Tensor, condition: Condition, heads: int) -> Iterator[torch.Tensor]:
        """As `decode`, `heads` of the heads at a time, up to rounding."""
        return self.decoder.in_parts(z, condition.decoder, heads)

    def predict(
        self, image: torch.Tensor, noise: torch.Tensor, steps: int, fresh: Callable[[int], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Logits `(b, heads, *spatial)` of one posterior sample; `noise` and `fresh` as in `sample`."""
        condition = self.condition(image)
        return self.decode(self.sample(noise, condition, steps, fresh), condition).float()


def _one(dimensions: int, inputs: int) -> nn.Module:
    """1 x 1 convolution to the paper's one-channel image embedding."""
    return (nn.Conv2d if dimensions == 2 else nn.Conv3d)(inputs, 1, 1)
