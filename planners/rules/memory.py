"""Estimated memory of training, for our own network: what autograd keeps, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ldseg_auto.planners.plans import Network

GIB = 2**30
BYTES_PER_VALUE = 3.0  # mixed precision: convolutions keep bfloat16, norms and losses float32
BYTES_PER_PARAMETER = 20.0  # weight, gradient, two moments of Adam, EMA; float32
WORKSPACE = 0.75 * GIB  # CUDA context and convolution workspace


@dataclass(frozen=True)
class Demand:
    """Bytes of one training step: `fixed + batch * per_sample`."""

    fixed: float
    per_sample: float

    def gib(self, batch: int) -> float:
        """Peak in GiB for `batch` samples."""
        return (self.fixed + batch * self.per_sample) / GIB

    def largest_batch(self, target_gib: float) -> int:
        """The most samples that fit; may be 0 or less."""
        return int((target_gib * GIB - self.fixed) // self.per_sample)


def training_demand(
    network: Network, patch: tuple[int, ...], heads: int, image_channels: int, latent_stage: int, latent_channels: int
) -> Demand:
    """Demand of the `auto` variant, whose decoder runs twice (from the drawn latent and from the label's own).

    Per stage of width w on n positions autograd keeps about 5 w n values for a residual block of the image encoder, 3 w n for each
    pass of the label decoder, 2 w n for the label encoder, and 12 w n for a denoiser level; logits keep 4 values per head and pass.

    Args:
        patch: voxels per axis.
        latent_stage: index of the stage whose grid the latent lives on.
    """
    widths = network.features_per_stage
    positions = [prod(p // s for p, s in zip(patch, stride, strict=True)) for stride in network.cumulative_strides]
    kernels = [prod(kernel) for kernel in network.kernel_sizes]
    wide = 3 ** len(patch)
    values, parameters = float(positions[0] * (image_channels + 9 * heads)), 0.0
    below = image_channels
    for i, (width, n, kernel) in enumerate(zip(widths, positions, kernels, strict=True)):
        values += 5 * network.blocks_per_stage * width * n
        parameters += kernel * width * (below + width * (2 * network.blocks_per_stage - 1)) + below * width
        if i <= latent_stage:
            values += (2 * 3 + (2 if i else 0)) * width * n
            parameters += 2 * kernel * width * width + (prod(network.strides[i]) + kernel) * width * below
        if i >= latent_stage:
            values += 12 * width * n
            parameters += 6 * wide * width * width
        below = width
    values += 6 * latent_channels * positions[latent_stage]
    return Demand(parameters * BYTES_PER_PARAMETER + WORKSPACE, values * BYTES_PER_VALUE)
