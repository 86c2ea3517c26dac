"""Where the sliding window's tiles lie, and how much each of their voxels counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import torch

from ldseg_auto.planners.plans import Configuration

SIGMA = 1 / 8  # of the patch, as nnU-Net's
WEIGHT_FLOOR = 1e-3  # of the centre's weight
Box = tuple[slice, ...]


def tile_starts(size: int, patch: int, step: float, multiple: int) -> list[int]:
    """First voxels of the tiles along one axis: multiples of the latent factor, covering `size`.

    They are at most `step * patch` apart, or `multiple` where that is more.

    Args:
        size: voxels, at least `patch`, and `size - patch` a multiple of `multiple`.
    """
    stride = max(multiple, int(patch * step) // multiple * multiple)
    count = ceil((size - patch) / stride) + 1
    if count == 1:
        return [0]
    even = (size - patch) / (count - 1)
    return [round(i * even / multiple) * multiple for i in range(count)]


def gaussian(patch: Sequence[int]) -> torch.Tensor:
    """Weights `(*patch)`: 1 at the centre, sigma an eighth of the patch, never below a thousandth."""
    out = torch.ones(())
    for i, p in enumerate(patch):
        x = (torch.arange(p, dtype=torch.float32) - (p - 1) / 2) / (p * SIGMA)
        out = out * torch.exp(-x.square() / 2).view(-1, *([1] * (len(patch) - 1 - i)))
    return (out / out.max()).clamp_min(WEIGHT_FLOOR)


@dataclass(frozen=True)
class Layout:
    """The tiles of one volume, axes (z, y, x); a 2D patch is one plane thick.

    The volume is padded with zeros, evenly on both sides, up to the patch and to multiples of the latent factor.
    """

    shape: tuple[int, ...]  # of the volume
    patch: tuple[int, ...]
    factor: tuple[int, ...]
    step: float  # between tiles, share of the patch

    @classmethod
    def of(cls, configuration: Configuration, shape: Sequence[int]) -> Layout:
        """For a preprocessed volume of `shape`."""
        flat = configuration.dimensions == 2
        patch = (1, *configuration.patch_size) if flat else configuration.patch_size
        factor = (1, *configuration.latent.factor) if flat else configuration.latent.factor
        return cls(tuple(shape), patch, factor, configuration.inference.step)

    @property
    def padded(self) -> tuple[int, ...]:
        """Voxels with the padding."""
        return tuple(max(p, ceil(s / f) * f) for s, p, f in zip(self.shape, self.patch, self.factor, strict=True))

    @property
    def before(self) -> tuple[int, ...]:
        """Voxels of padding before the volume."""
        return tuple((w - s) // 2 for w, s in zip(self.padded, self.shape, strict=True))

    def boxes(self) -> list[Box]:
        """All tiles on the padded volume, in the order of their first voxels."""
        starts = [tile_starts(s, p, self.step, f) for s, p, f in zip(self.padded, self.patch, self.factor, strict=True)]
        return [tuple(slice(a, a + p) for a, p in zip(first, self.patch, strict=True)) for first in product(*starts)]

    def batches(self, size: int) -> Iterator[list[Box]]:
        """The tiles, `size` at a time."""
        boxes = self.boxes()
        for i in range(0, len(boxes), size):
            yield boxes[i : i + size]

    def on_latent(self, box: Box) -> Box:
        """The latent positions of a tile."""
        return tuple(slice(b.start // f, b.stop // f) for b, f in zip(box, self.factor, strict=True))

    def cut(self, image: torch.Tensor, box: Box) -> torch.Tensor:
        """The tile `(c, *patch)` of a volume `(c, *shape)`; zeros where it reaches into the padding."""
        low = [b.start - before for b, before in zip(box, self.before, strict=True)]
        high = [b.stop - before for b, before in zip(box, self.before, strict=True)]
        inside = [slice(max(0, a), min(s, b)) for a, b, s in zip(low, high, self.shape, strict=True)]
        part = image[(slice(None), *inside)]
        if part.shape[1:] == self.patch:
            return part
        out = image.new_zeros(len(image), *self.patch)
        out[(slice(None), *(slice(i.start - a, i.stop - a) for i, a in zip(inside, low, strict=True)))] = part
        return out
