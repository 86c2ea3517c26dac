"""Applies what augmentation.py has drawn, with torch: one sample at a time in a worker, or a whole batch on the device.

Sources: nnU-Net 2.8.1's transforms (batchgeneratorsv2), without its memory copies per label and its timing of convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ldseg_auto.training.augmentation import SIGMAS, Draw, in_slices, source_size

Batch = tuple[torch.Tensor, torch.Tensor]
LABELS_AT_ONCE = 8  # interpolated in one call
TRUNCATE = 4.0  # a blur ends after so many standard deviations
TINY = 1e-7


class Raw(NamedTuple):
    """Samples as read, and what they are to undergo.

    Those that are rotated or scaled stand in `sources` and `source_labels`, one after the other, at the size that `source_size` says;
    their places in `image` and `label` are to be filled. (One tensor for all: each costs a worker a file descriptor.)
    """

    image: torch.Tensor  # (b, c, *patch) float32
    label: torch.Tensor  # (b, *patch) int64
    sources: torch.Tensor  # (values,) float32: (c, *source) of each
    source_labels: torch.Tensor  # (voxels,) int16: (*source) of each
    draws: list[Draw]

    def to(self, device: torch.device) -> Raw:
        """The same on `device`; from pinned memory without waiting."""
        image, label, sources, source_labels = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        return Raw(image, label, sources, source_labels, self.draws)

    def wide(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Place in the batch, image `(c, *source)` and label `(*source)` of the samples to be rotated or scaled."""
        channels, patch, first = self.image.shape[1], self.image.shape[2:], 0
        for i, d in enumerate(self.draws):
            if d.affine is not None:
                size = source_size(patch, d.affine)
                last = first + math.prod(size)
                yield i, self.sources[channels * first : channels * last].view(channels, *size), self.source_labels[first:last].view(size)
                first = last


def collate(raws: Sequence[Raw]) -> Raw:
    """One batch of several."""
    image, label, sources, source_labels = (torch.cat(tensors) for tensors in zip(*(r[:4] for r in raws), strict=True))
    return Raw(image, label, sources, source_labels, [d for r in raws for d in r.draws])


def apply(raw: Raw) -> Batch:
    """Image `(b, c, *patch)` float32 and label `(b, *patch)` int64 after augmentation; `raw` is used up."""
    image, label, draws = raw.image, raw.label, raw.draws
    for i, source, labels in raw.wide():
        image[i], label[i] = resample(source, labels, draws[i].affine, image.shape[2:])
    for i, d in enumerate(draws):
        if d.noise is not None:
            generator = torch.Generator(image.device).manual_seed(d.seed)
            image[i].add_(torch.randn(image[i].shape, generator=generator, device=image.device), alpha=d.noise)
    _change(image, [d.blur for d in draws], blur)
    _change(image, [d.brightness for d in draws], lambda x, factor: x * _per_channel(factor, x))
    _change(image, [d.contrast for d in draws], contrast)
    _coarsen(image, [d.resolution for d in draws])
    _change(image, [d.gamma_inverted for d in draws], lambda x, exponent: -gamma(-x, exponent))
    _change(image, [d.gamma for d in draws], gamma)
    return _mirrored(image, label, [d.mirror for d in draws])


def _change(
    image: torch.Tensor, values: Sequence[np.ndarray | None], function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """`function(x (n, c, *s), value (n, c, ...))` of the samples with a value, in place."""
    chosen = [i for i, v in enumerate(values) if v is not None]
    if chosen:
        stacked = torch.from_numpy(np.stack([v for v in values if v is not None]).astype(np.float32))
        index = torch.tensor(chosen).to(image.device, non_blocking=True)  # without waiting for the device
        image[index] = function(image[index], stacked.to(image.device, non_blocking=True))


def _per_channel(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`value` (n, c), shaped to multiply x (n, c, *s)."""
    return value.reshape(*value.shape, *[1] * (x.ndim - 2))


def _axes(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`x` (n, c, *s) with its deviation from the mean times `factor` (n, c), within its old range."""
    axes = _axes(x)
    mean, low, high = x.mean(axes, keepdim=True), x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    return torch.clamp((x - mean) * _per_channel(factor, x) + mean, low, high)


def gamma(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """`x` (n, c, *s), scaled to [0, 1], to the power `exponent` (n, c), with its old mean and standard deviation."""
    axes = _axes(x)
    low = x.amin(axes, keepdim=True)
    span = x.amax(axes, keepdim=True) - low
    out = ((x - low) / span.clamp_min(TINY)).pow(_per_channel(exponent, x)) * span + low
    deviation, mean = torch.std_mean(x, axes, keepdim=True)
    new_deviation, new_mean = torch.std_mean(out, axes, keepdim=True)
    return (out - new_mean) * (deviation / new_deviation.clamp_min(TINY)) + mean


def blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """`x` (n, c, *s) after a Gaussian of `sigma` (n, c, axes) voxels, 1 at most; edges are continued, 0 changes nothing."""
    radius = math.ceil(TRUNCATE * SIGMAS[1])
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[..., None]).square())  # (n, c, axes, taps)
    weights = weights / weights.sum(-1, keepdim=True)
    for axis in range(x.ndim - 2):
        padding = [0, 0] * (x.ndim - 3 - axis) + [radius, radius] + [0, 0] * axis
        padded, size, x = F.pad(x, padding, mode="replicate"), x.shape[axis + 2], torch.zeros_like(x)
        for k in range(2 * radius + 1):
            x.addcmul_(padded.narrow(axis + 2, k, size), _per_channel(weights[:, :, axis, k], x))
    return x


def _coarsen(image: torch.Tensor, values: Sequence[np.ndarray | None]) -> None:
    """Keeps a share of the voxels of each channel, and interpolates between them."""
    for i, shares in enumerate(values):
        for c, share in enumerate(() if shares is None else shares):
            if share < 1:
                image[i, c] = coarse(image[i, c], float(share))


def coarse(x: torch.Tensor, share: float) -> torch.Tensor:
    """`x` (*s) at `share` of its voxels per axis (nearest) and back (linear); axes that are deformed in slices only are kept whole."""
    kept = [s if axis == 0 and in_slices(x.shape) else max(1, round(s * share)) for axis, s in enumerate(x.shape)]
    few = F.interpolate(x[None, None], kept, mode="nearest-exact")
    return F.interpolate(few, tuple(x.shape), mode="bilinear" if x.ndim == 2 else "trilinear")[0, 0]


def _mirrored(image: torch.Tensor, label: torch.Tensor, axes: Sequence[tuple[int, ...]]) -> Batch:
    """Samples with the same axes together."""
    for wanted in sorted(set(axes) - {()}):
        chosen = torch.tensor([i for i, a in enumerate(axes) if a == wanted]).to(image.device, non_blocking=True)
        image[chosen] = image[chosen].flip([a + 2 for a in wanted])
        label[chosen] = label[chosen].flip([a + 1 for a in wanted])
    return image, label


def resample(image: torch.Tensor, label: torch.Tensor, affine: np.ndarray | None, patch: Sequence[int]) -> Batch:
    """Linear interpolation of the image; the label whose indicator, interpolated likewise, is largest (as nnU-Net does).

    The image and the first labels are interpolated in one call, and background is what the others leave.

    Args:
        image, label: `(c, *source)` float32 and `(*source)` integers, 0 or more.
        affine: (n, n), offset from the patch's centre to offset from the source's; voxels.

    Returns:
        `(c, *patch)` float32 and `(*patch)` int64.
    """
    grid = _grid(affine, image.shape[1:], patch, image.device)
    classes = [c for c in present(label) if c]
    groups = [classes[i : i + LABELS_AT_ONCE] for i in range(0, len(classes), LABELS_AT_ONCE)]
    winner = torch.zeros(tuple(patch), dtype=torch.int64, device=label.device)
    first = [image] if not groups else [image, *_indicators(label, groups[0])]
    out = _interpolate(torch.cat(first), grid)
    moved, scores = out[: len(image)], out[len(image) :]
    left, best = torch.ones_like(moved[0]), torch.zeros_like(moved[0])
    for number, group in enumerate(groups):
        if number:
            scores = _interpolate(torch.cat(_indicators(label, group)), grid)
        left -= scores.sum(0)
        score, index = scores.max(0)
        numbers = torch.tensor(group).to(label.device, non_blocking=True)
        winner, best = torch.where(score > best, numbers[index], winner), torch.maximum(best, score)
    return moved, winner * (best > left)


def _indicators(label: torch.Tensor, classes: Sequence[int]) -> list[torch.Tensor]:
    return [(label == c)[None].float() for c in classes]


def _interpolate(channels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """`channels` (c, *source) at `grid` (1, *patch, n): (c, *patch)."""
    return F.grid_sample(channels[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def present(label: torch.Tensor) -> list[int]:
    """The values of a label map, ascending."""
    if label.device.type == "cpu":  # unique() sorts, which takes ten times as long
        lowest = int(label.min())
        return [int(c) + lowest for c in np.flatnonzero(np.bincount(label.numpy().ravel() - lowest))]
    return [int(c) for c in label.unique().tolist()]


def _grid(affine: np.ndarray | None, source: Sequence[int], patch: Sequence[int], device: torch.device) -> torch.Tensor:
    """Positions `(1, *patch, n)` in the source, in torch's order (last axis first) and unit (half of the source)."""
    matrix = np.eye(len(patch)) if affine is None else affine
    grid = torch.empty(1, *patch, len(patch), device=device)
    for i, row in enumerate(matrix):
        position = torch.zeros((), device=device)
        for j, (factor, size) in enumerate(zip(row, patch, strict=True)):
            offsets = (torch.arange(size, device=device) - (size - 1) / 2) * float(2 * factor / source[i])
            position = position + offsets.view(-1, *[1] * (len(patch) - 1 - j))
        grid[0, ..., len(patch) - 1 - i] = position
    return grid
