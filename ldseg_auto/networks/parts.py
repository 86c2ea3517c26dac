"""The four parts of LDSeg: image encoder, label encoder, denoiser, label decoder (arXiv 2407.12952, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ldseg_auto.networks.blocks import Attention, TimedBlock, TimeEmbedding, conv, group_norm, image_stage, same_conv, transposed_conv
from ldseg_auto.planners.plans import Network

WIDEST_CODE = 32  # channels of the label encoder's convolutions: wider ones were 6 % of a step's operations (3D); labels do without


class ImageEncoder(nn.Module):
    """Image `(b, c, *spatial)` to one feature map per stage, finest first: stage i has `features_per_stage[i]` channels."""

    def __init__(self, channels: int, network: Network, stages: int) -> None:
        super().__init__()
        widths = (channels, *network.features_per_stage)
        dims = len(network.strides[0])
        self.stages = nn.ModuleList(
            image_stage(dims, widths[i], widths[i + 1], network.kernel_sizes[i], network.strides[i], network.blocks_per_stage)
            for i in range(stages)
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Runs all stages; shapes as above."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features


class LabelEncoder(nn.Module):
    """Label map `(b, inputs, *spatial)` in [-1, 1] to the raw latent `(b, k, *latent_spatial)`.

    A linear code of blocks of `factor` voxels, which is what the planner measured the latent by, plus what convolutions with a wider
    view add to it. No normalisation inside: an instance norm could not tell a patch full of an organ from an empty one.
    """

    def __init__(self, inputs: int, channels: int, network: Network, latent_stage: int) -> None:
        super().__init__()
        dims = len(network.strides[0])
        layers: list[nn.Module] = []
        width = inputs
        for i in range(1, latent_stage + 1):
            out = min(WIDEST_CODE, max(16, network.features_per_stage[i]))
            kernel = tuple(3 if k > 1 or s > 1 else 1 for k, s in zip(network.kernel_sizes[i], network.strides[i], strict=True))
            down = same_conv(dims, width, out, kernel)
            down.stride = network.strides[i]
            layers += [down, nn.SiLU()]
            width = out
        layers += [same_conv(dims, width, width, (3,) * dims), nn.SiLU(), same_conv(dims, width, channels, (1,) * dims)]
        self.layers = nn.Sequential(*layers)
        factor = network.cumulative_strides[latent_stage]
        self.linear = conv(dims)(inputs, channels, factor, factor)
        nn.init.orthogonal_(self.linear.weight)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return self.layers(labels) + self.linear(labels)


class Denoiser(nn.Module):
    """A U-Net on the latent grid: `(zt, t, condition)` to `(b, k, *latent_spatial)`.

    Level 0 is the latent grid; each level adds the projected image features of its own grid. The projections do not depend on
    `zt`, so that they are made once per patch however many steps and samples follow.
    """

    def __init__(
        self, channels: int, condition: Sequence[int], widths: Sequence[int], strides: Sequence[Sequence[int]], attention: bool
    ) -> None:
        super().__init__()
        dims = len(strides[0])
        one, three, time = (1,) * dims, (3,) * dims, 4 * widths[0]
        self.time = TimeEmbedding(time)
        self.entry = same_conv(dims, channels, widths[0], three)
        self.project = nn.ModuleList(same_conv(dims, c, w, one) for c, w in zip(condition, widths, strict=False))
        self.down = nn.ModuleList()
        for i in range(1, len(widths)):
            strided = same_conv(dims, widths[i - 1], widths[i], three)
            strided.stride = tuple(strides[i])
            self.down.append(strided)
        self.blocks = nn.ModuleList(TimedBlock(dims, w, w, time) for w in widths)
        self.middle = TimedBlock(dims, widths[-1], widths[-1], time)
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        transposed = transposed_conv(dims)
        self.up = nn.ModuleList(transposed(widths[i + 1], widths[i], stride, stride) for i, stride in enumerate(strides[1 : len(widths)]))
        self.merge = nn.ModuleList(TimedBlock(dims, w, w, time) for w in widths[:-1])
        self.exit = nn.Sequential(group_norm(widths[0]), nn.SiLU(), same_conv(dims, widths[0], channels, three))
        nn.init.zeros_(self.exit[-1].weight)  # it starts at the mean of the standardised latent
        nn.init.zeros_(self.exit[-1].bias)

    def condition(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Image features, one per level from the latent grid down, projected."""
        return [project(f) for project, f in zip(self.project, features, strict=True)]

    def forward(self, zt: torch.Tensor, t: torch.Tensor, condition: Sequence[torch.Tensor]) -> torch.Tensor:
        """`zt` `(b, k, *latent_spatial)`, `t` (b,), `condition` as `condition` returns it."""
        time = self.time(t)
        h = self.entry(zt)
        levels: list[torch.Tensor] = []
        for i, block in enumerate(self.blocks):
            h = self.down[i - 1](h) if i else h
            h = block(h + condition[i] if i < len(condition) else h, time)
            levels.append(h)
        h = self.middle(self.attention(h), time)
        for i in reversed(range(len(self.up))):
            h = self.up[i](h)[(..., *map(slice, levels[i].shape[2:]))]  # cut where the level is no multiple of the stride
            h = self.merge[i](h + levels[i], time)
        return self.exit(h)


class LabelDecoder(nn.Module):
    """Latent `(b, k, *latent_spatial)` to logits `(b, heads, *spatial)`, with image skips or without.

    `conv(cat(below, skip))` is written as `conv_below(below) + conv_skip(skip)`: the skip's half is computed once per patch, and
    left out where the image is switched off. The logits of each block of `factor` voxels also get a linear term of its latent.
    """

    def __init__(self, channels: int, heads: int, network: Network, latent_stage: int, skips: bool) -> None:
        super().__init__()
        dims = len(network.strides[0])
        widths = network.features_per_stage[: latent_stage + 1]
        kernels = network.kernel_sizes
        self.entry = same_conv(dims, channels, widths[-1], (3,) * dims)
        transposed = transposed_conv(dims)
        self.up, self.below, self.norm = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i in reversed(range(latent_stage)):
            stride = tuple(network.strides[i + 1])
            self.up.append(transposed(widths[i + 1], widths[i], stride, stride))
            self.below.append(same_conv(dims, widths[i], widths[i], kernels[i]))
            self.norm.append(nn.Sequential(group_norm(widths[i]), nn.LeakyReLU(0.01, inplace=True)))
        self.start = nn.Sequential(group_norm(widths[-1]), nn.LeakyReLU(0.01), same_conv(dims, widths[-1], widths[-1], (3,) * dims))
        self.start_norm = nn.Sequential(group_norm(widths[-1]), nn.LeakyReLU(0.01))
        self.skip = nn.ModuleList(
            same_conv(dims, w, w, k, bias=False) for w, k in zip(widths[::-1], kernels[latent_stage::-1], strict=True)
        ) if skips else None  # fmt: skip
        self.head = same_conv(dims, widths[0], heads, (1,) * dims)
        factor = network.cumulative_strides[latent_stage]
        self.linear = transposed(channels, heads, factor, factor, bias=False)

    def condition(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Image features of stages 0 ... latent stage, projected, latent grid first; empty without skips."""
        if self.skip is None:
            return []
        return [skip(f) for skip, f in zip(self.skip, reversed(list(features)), strict=True)]

    def forward(self, z: torch.Tensor, condition: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """`z` `(b, k, *latent_spatial)`; without `condition` the image is switched off."""
        return self.head(self.features(z, condition)) + self.linear(z)

    def in_parts(self, z: torch.Tensor, condition: Sequence[torch.Tensor], heads: int) -> Iterator[torch.Tensor]:
        """The same, `heads` of the heads at a time, up to rounding: the logits of many classes are larger than all features."""
        h = self.features(z, condition)
        plain, transposed = (F.conv2d, F.conv_transpose2d) if h.ndim == 4 else (F.conv3d, F.conv_transpose3d)
        for i in range(0, self.head.out_channels, heads):
            part = slice(i, i + heads)
            logits = plain(h, self.head.weight[part], self.head.bias[part])
            yield logits.add_(transposed(z, self.linear.weight[:, part], stride=self.linear.stride))

    def features(self, z: torch.Tensor, condition: Sequence[torch.Tensor]) -> torch.Tensor:
        """The finest features `(b, c, *spatial)`, which the heads read."""
        h = self.entry(z)
        h = h + condition[0] if condition else h
        h = self.start_norm(h + self.start(h))
        for i, (up, below, norm) in enumerate(zip(self.up, self.below, self.norm, strict=True)):
            h = below(up(h))
            h = norm(h + condition[i + 1] if condition else h)
        return h
