"""Building blocks for 2D and 3D alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from torch import nn

NORM = {"eps": 1e-5, "affine": True}
LEAKY = {"negative_slope": 0.01, "inplace": True}


def conv(dimensions: int) -> type[nn.Module]:
    """Conv2d or Conv3d."""
    return nn.Conv2d if dimensions == 2 else nn.Conv3d


def transposed_conv(dimensions: int) -> type[nn.Module]:
    """ConvTranspose2d or ConvTranspose3d."""
    return nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d


def same_conv(dimensions: int, inputs: int, outputs: int, kernel: Sequence[int], bias: bool = True) -> nn.Module:
    """A convolution that keeps the grid; `kernel` odd, per axis."""
    return conv(dimensions)(inputs, outputs, tuple(kernel), padding=tuple(k // 2 for k in kernel), bias=bias)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of at least 8 channels: a constant feature map keeps its pattern over channels, where instance norm erases it."""
    return nn.GroupNorm(max(1, math.gcd(channels, channels // 8 or 1)), channels)


def image_stage(dimensions: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], blocks: int) -> nn.Module:
    """Residual blocks with instance norm; the first one strides: `(b, inputs, *s)` to `(b, outputs, *s / stride)`."""
    norm = nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d
    return StackedResidualBlocks(
        blocks, conv(dimensions), inputs, outputs, tuple(kernel), tuple(stride),
        conv_bias=True, norm_op=norm, norm_op_kwargs=NORM, nonlin=nn.LeakyReLU, nonlin_kwargs=LEAKY,
    )  # fmt: skip


class TimeEmbedding(nn.Module):
    """Sinusoids of t, then two linear layers: `(b,)` to `(b, width)` (Ho et al. 2020)."""

    def __init__(self, width: int, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2 ** torch.linspace(0, 6, frequencies), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        angles = t[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class TimedBlock(nn.Module):
    """Residual block whose features are scaled and shifted by the time embedding: `(b, inputs, *s)` to `(b, outputs, *s)`."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, time_width: int) -> None:
        super().__init__()
        kernel = (3,) * dimensions
        self.norm1, self.norm2 = group_norm(inputs), group_norm(outputs)
        self.conv1 = same_conv(dimensions, inputs, outputs, kernel)
        self.conv2 = same_conv(dimensions, outputs, outputs, kernel)
        self.modulate = nn.Linear(time_width, 2 * outputs)
        self.skip = nn.Identity() if inputs == outputs else same_conv(dimensions, inputs, outputs, (1,) * dimensions)
        self.act = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(self.act(time)).view(len(x), 2, -1, *([1] * (x.ndim - 2))).unbind(1)
        h = self.norm2(self.conv1(self.act(self.norm1(x))))
        return self.skip(x) + self.conv2(self.act(h * (1 + scale) + shift))


class Attention(nn.Module):
    """Self-attention over all positions, residual: `(b, c, *s)` to the same."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attend = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        h, _ = self.attend(h, h, h, need_weights=False)
        return x + h.transpose(1, 2).reshape(x.shape)
