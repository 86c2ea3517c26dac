"""The sliding window: tiles on the latent grid, noise cropped from the volume's, Gaussian weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil

import numpy as np
import torch
from torch.nn import functional as F

from ldseg_auto.inference.device import inference_type
from ldseg_auto.inference.noise import case_noise, sample_numbers
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration

SIGMA = 1 / 8  # of the patch, as nnU-Net's
WEIGHT_FLOOR = 1e-3  # of the centre's weight


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


class SlidingWindow:
    """Predicts whole preprocessed volumes.

    Args:
        configuration: patch, step and latent factor.
        device: where the networks run.
        tile_batch: tiles per network call on an accelerator. On a CPU tiles run one by one: the convolution kernels there choose
            their blocking by batch size, so that only this keeps results identical to the bit.
    """

    def __init__(self, configuration: Configuration, device: torch.device, tile_batch: int) -> None:
        self.configuration, self.device = configuration, device
        self.tile_batch = 1 if device.type == "cpu" else tile_batch
        flat = configuration.dimensions == 2
        self.patch = (1, *configuration.patch_size) if flat else configuration.patch_size
        self.factor = (1, *configuration.latent.factor) if flat else configuration.latent.factor
        self.weights = gaussian(configuration.patch_size).view(self.patch)

    @torch.inference_mode()
    def probabilities(
        self, models: Sequence[LDSeg], image: np.ndarray, case: str, seed: int, steps: int, samples: int, regions: bool
    ) -> np.ndarray:
        """Mean probabilities `(heads, z, y, x)` float32 of a preprocessed image `(c, z, y, x)` over models and samples."""
        padded, inner = self._padded(image)
        total, numbers = torch.zeros(()), sample_numbers(self.configuration, steps, samples)
        for model in models:
            for sample in numbers:
                total = total + _probabilities(self._scores(model, padded, case, seed, sample, steps)[inner], regions)
        return (total / (len(models) * samples)).numpy()

    @torch.inference_mode()
    def draw(self, model: LDSeg, image: np.ndarray, case: str, seed: int, steps: int, sample: int, regions: bool) -> np.ndarray:
        """Probabilities `(heads, z, y, x)` float32 of one posterior sample, the `sample`-th of its case, or `noise.CENTRE`."""
        padded, inner = self._padded(image)
        return _probabilities(self._scores(model, padded, case, seed, sample, steps)[inner], regions).numpy()

    def _padded(self, image: np.ndarray) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """`_pad` of a preprocessed image `(c, z, y, x)`."""
        return self._pad(torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)))

    def _pad(self, image: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """Zeros around, evenly, up to the patch and to multiples of the factor; and where the image lies therein."""
        wanted = [max(p, ceil(s / f) * f) for s, p, f in zip(image.shape[1:], self.patch, self.factor, strict=True)]
        before = [(w - s) // 2 for w, s in zip(wanted, image.shape[1:], strict=True)]
        sides: list[int] = []
        for w, s, b in reversed(list(zip(wanted, image.shape[1:], before, strict=True))):
            sides += [b, w - s - b]
        inner = (slice(None), *(slice(b, b + s) for b, s in zip(before, image.shape[1:], strict=True)))
        return F.pad(image, sides), inner

    def _scores(self, model: LDSeg, image: torch.Tensor, case: str, seed: int, sample: int, steps: int) -> torch.Tensor:
        """Logits `(heads, *spatial)` of one sample, tiles blended."""
        spatial = tuple(image.shape[1:])
        latent = (model.channels, *(s // f for s, f in zip(spatial, self.factor, strict=True)))
        out = torch.zeros(model.heads, *spatial)
        weight = torch.zeros(spatial)
        ancestral = model.sampler == "ddpm"
        draws = [case_noise(seed, case, sample, latent)] + [
            case_noise(seed, case, sample, latent, i) for i in range(steps if ancestral else 0)
        ]
        for boxes in self._batches(spatial):
            tiles = torch.stack([image[(slice(None), *box)] for box in boxes])
            noises = [torch.stack([draw[(slice(None), *self._on_latent(box))] for box in boxes]) for draw in draws]
            for box, scores in zip(boxes, self._network(model, tiles, noises, steps), strict=True):
                out[(slice(None), *box)] += scores * self.weights
                weight[box] += self.weights
        return out / weight

    def _network(self, model: LDSeg, tiles: torch.Tensor, noises: list[torch.Tensor], steps: int) -> torch.Tensor:
        """Logits `(b, heads, *patch)` in float32 on the CPU."""
        if self.configuration.dimensions == 2:
            tiles, noises = tiles[:, :, 0], [n[:, :, 0] for n in noises]
        tiles, noises = tiles.to(self.device), [n.to(self.device) for n in noises]
        with torch.autocast(self.device.type, inference_type(self.device), enabled=self.device.type == "cuda"):
            condition = model.condition(tiles)
            z = model.sample(noises[0], condition, steps, lambda i: noises[i + 1])
            scores = model.decode(z, condition)
        scores = scores.float().cpu()
        return scores[:, :, None] if self.configuration.dimensions == 2 else scores

    def _batches(self, spatial: Sequence[int]) -> Iterator[list[tuple[slice, ...]]]:
        starts = [tile_starts(s, p, self.configuration.inference.step, f) for s, p, f in zip(spatial, self.patch, self.factor, strict=True)]
        boxes = [tuple(slice(a, a + p) for a, p in zip(first, self.patch, strict=True)) for first in product(*starts)]
        for i in range(0, len(boxes), self.tile_batch):
            yield boxes[i : i + self.tile_batch]

    def _on_latent(self, box: tuple[slice, ...]) -> tuple[slice, ...]:
        return tuple(slice(b.start // f, b.stop // f) for b, f in zip(box, self.factor, strict=True))


def _probabilities(scores: torch.Tensor, regions: bool) -> torch.Tensor:
    """Sigmoid or softmax of logits `(heads, *spatial)`."""
    return scores.sigmoid() if regions else scores.softmax(0)
