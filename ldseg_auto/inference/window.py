"""The sliding window: tiles on the latent grid, noise cropped from the volume's, Gaussian weights.

The image encoder runs once per tile and mirroring, for all samples. Planes along the first axis are handed on as soon as no later tile
reaches them, so that logits of a whole volume are never held.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import torch

from ldseg_auto.errors import LdsegError
from ldseg_auto.inference.device import inference_type
from ldseg_auto.inference.noise import Planes, sample_numbers
from ldseg_auto.inference.ring import PIECE, Ring, make_ring
from ldseg_auto.inference.tiles import Box, Layout, gaussian, tile_starts
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.scratch import Room, Scratch

__all__ = ["Draws", "SlidingWindow", "gaussian", "tile_starts"]
MEMORY = Room()
HANDED_ON = 2**24  # bytes of logits that go on together; a few such pieces are on their way to the labels at any time
TINY = 1e-30  # probabilities below are taken as this where a logarithm is needed


@dataclass(frozen=True)
class Draws:
    """Which samples of a case: what its noise is a function of."""

    case: str
    seed: int
    steps: int  # network evaluations per sample
    numbers: tuple[int, ...]  # samples, or (noise.CENTRE,)
    regions: bool  # whether heads are regions (sigmoid), or classes (softmax)


class NotFinite(LdsegError):
    """Logits in float16 hold infinity or not-a-number: an activation left its range (65504)."""


class SlidingWindow:
    """Predicts whole preprocessed volumes.

    Args:
        configuration: patch, step and latent factor.
        device: where the networks run.
        tile_batch: tiles per network call on an accelerator. On a CPU tiles run one by one: the convolution kernels there choose
            their blocking by batch size, so that only this keeps results identical to the bit.
        mirror: spatial axes; each tile is also predicted mirrored along every subset of them, and the probabilities are averaged.
        precision: what networks compute in, see device.inference_type.
        room: for the logits of unfinished planes.
        turn: without `mirror`, sample i sees image and noise mirrored along the i-th subset of the axes that training mirrored (`turns`);
            the first sample and the centre see them as they are. None: where the method says so (`mirror_samples`).
    """

    def __init__(
        self, configuration: Configuration, device: torch.device, tile_batch: int, mirror: Sequence[int] = (), precision: str = "auto",
        room: Room = MEMORY, turn: bool | None = None,
    ) -> None:  # fmt: skip
        self.configuration, self.device, self.room = configuration, device, room
        self.tile_batch = 1 if device.type == "cpu" else tile_batch
        self.type = inference_type(device, precision)
        self.flips = _subsets(mirror)
        turned = not mirror and (configuration.parts.mirror_samples if turn is None else turn)
        self.turns = _by_complements(configuration.mirror_axes) if turned else ((),)
        self.weights = gaussian(configuration.patch_size).view(Layout.of(configuration, (1, 1, 1)).patch)

    def probabilities(
        self, models: Sequence[LDSeg], image: np.ndarray, case: str, seed: int, steps: int, samples: int, regions: bool
    ) -> np.ndarray:
        """Mean probabilities `(heads, z, y, x)` float32 of a preprocessed image `(c, z, y, x)` over models and samples."""
        draws = Draws(case, seed, steps, tuple(sample_numbers(self.configuration, steps, samples)), regions)
        parts = [p.mean(0) for p in self.planes(models, image, draws)]
        return np.concatenate(parts, 1)

    def draw(self, model: LDSeg, image: np.ndarray, case: str, seed: int, steps: int, sample: int, regions: bool) -> np.ndarray:
        """Probabilities `(heads, z, y, x)` float32 of one posterior sample, the `sample`-th of its case, or `noise.CENTRE`."""
        parts = [p[0] for p in self.planes([model], image, Draws(case, seed, steps, (sample,), regions))]
        return np.concatenate(parts, 1)

    @torch.inference_mode()
    def planes(
        self, models: Sequence[LDSeg], image: np.ndarray | Scratch, draws: Draws, *stops: threading.Event
    ) -> Generator[np.ndarray, None, None]:
        """Probabilities of all draws, some planes at a time, in order.

        Args:
            image: preprocessed, `(c, z, y, x)` float32.
            stops: once one of them is set, no further tiles are predicted and the planes end.

        Yields:
            `(models x samples, heads, planes, y, x)` float32; models, then samples.

        Raises:
            NotFinite: in float16.
        """
        array = image.array if isinstance(image, Scratch) else np.ascontiguousarray(image, np.float32)
        volume, layout = torch.from_numpy(array), Layout.of(self.configuration, array.shape[1:])
        batches = list(layout.batches(self.tile_batch))
        depth, rows = max(b[-1][0].stop - b[0][0].start for b in batches), len(models) * len(draws.numbers) * models[0].heads
        ring = make_ring((rows, depth, *layout.padded[1:]), self.weights, self.device, self.room)
        grid = [s // f for s, f in zip(layout.padded, layout.factor, strict=True)]
        noise = {m.channels: Planes(draws.seed, draws.case, (m.channels, *grid)) for m in models}
        for batch, after in zip(batches, [*batches[1:], None], strict=True):
            if any(stop.is_set() for stop in stops):
                return
            tiles = torch.stack([layout.cut(volume, box) for box in batch]).to(self.device)
            if isinstance(image, Scratch):
                image.let_go()
            for m, model in enumerate(models):
                row = m * len(draws.numbers) * model.heads
                for place, logits in self._network(model, tiles, self._noises(model, layout, batch, draws, noise[model.channels]), draws):
                    for box, scores in zip(batch, logits, strict=True):
                        ring.add(row + place, box, scores)
            for box in batch:
                ring.count(box)
            finished = slice(batch[0][0].start, after[0][0].start if after else layout.padded[0])
            for logits in _take(ring, finished, layout):
                per_draw = logits.to(self.device).unflatten(0, (-1, models[0].heads))
                if self.type == torch.float16 and not per_draw.isfinite().all():
                    raise NotFinite(f"case {draws.case}: the networks' output is not finite in float16.")
                yield _probabilities(per_draw, draws.regions, 1).cpu().numpy()

    def _noises(self, model: LDSeg, layout: Layout, boxes: list[Box], draws: Draws, noise: Planes) -> list[list[torch.Tensor]]:
        """For each sample its noise, then DDPM's of each step, `(b, k, *latent)` on the tiles."""
        steps = range(-1, draws.steps if model.sampler == "ddpm" else 0)
        spans = [layout.on_latent(box) for box in boxes]
        noise.forget(spans[0][0].start)
        return [[torch.stack([noise.crop(n, step, s) for s in spans]).to(self.device) for step in steps] for n in draws.numbers]

    def _network(
        self, model: LDSeg, tiles: torch.Tensor, noises: list[list[torch.Tensor]], draws: Draws
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits `(b, n, *patch)` float32 of each sample, all heads together or, where they are many, some after the other.

        Each comes with its place among heads of the first sample, of the second, and so on. The image encoder runs once per mirroring.
        With averaged mirrorings they are the logits of the mean probabilities.
        """
        if self.flips == ((),):
            at_once = max(1, PIECE // (4 * len(tiles) * self.weights.numel()))
            turns = [max(number, 0) % len(self.turns) for number in draws.numbers]
            for turn in sorted(set(turns)):
                samples = [n for n, its in enumerate(turns) if its == turn]
                parts = self._samples(model, tiles, [noises[n] for n in samples], draws.steps, self.turns[turn], at_once)
                starts = (n * model.heads + head for n in samples for head in range(0, model.heads, at_once))
                yield from zip(starts, parts, strict=True)
            return
        means: list[torch.Tensor] = [torch.zeros(())] * len(noises)
        for flip in self.flips:
            for n, logits in enumerate(self._samples(model, tiles, noises, draws.steps, flip, model.heads)):
                both = (logits, -logits) if draws.regions else (logits,)
                means[n] = means[n] + torch.stack([_probabilities(x, draws.regions, 1) for x in both]) / len(self.flips)
        for n, mean in enumerate(means):
            yes, *no = mean.clamp_min(TINY).log()
            yield n * model.heads, yes - no[0] if no else yes

    def _samples(
        self, model: LDSeg, tiles: torch.Tensor, noises: list[list[torch.Tensor]], steps: int, flip: Sequence[int], at_once: int
    ) -> Iterator[torch.Tensor]:
        """The same for one mirroring: image and noise are mirrored, the logits mirrored back. `at_once` heads come together."""
        flat, axes = self.configuration.dimensions == 2, [axis - self.configuration.dimensions for axis in flip]
        with self.autocast():
            condition = model.condition(_flipped(tiles[:, :, 0] if flat else tiles, axes))
        for of_sample in noises:
            start, *fresh = [_flipped(n[:, :, 0] if flat else n, axes) for n in of_sample]
            with self.autocast():
                z = model.sample(start, condition, steps, fresh.__getitem__)
                parts = iter([model.decode(z, condition)]) if at_once >= model.heads else model.decode_in_parts(z, condition, at_once)
            while True:
                with self.autocast():
                    scores = next(parts, None)
                if scores is None:
                    break
                scores = _flipped(scores.float(), axes)
                yield scores[:, :, None] if flat else scores

    def autocast(self) -> torch.autocast:
        """What networks compute in."""
        return torch.autocast(self.device.type, self.type, enabled=self.type != torch.float32)


def _take(ring: Ring, planes: slice, layout: Layout) -> Iterator[torch.Tensor]:
    """Finished logits `(rows, planes, y, x)` without the padding, so many planes at a time as HANDED_ON bytes hold (one at least)."""
    low, *sides = [slice(b, b + s) for b, s in zip(layout.before, layout.shape, strict=True)]
    count = max(1, HANDED_ON // (4 * math.prod((len(ring.sums), *layout.padded[1:]))))
    for start in range(planes.start, planes.stop, count):
        stop = min(start + count, planes.stop)
        logits = ring.take(slice(start, stop))[:, max(0, low.start - start) : max(0, low.stop - start)]
        if logits.shape[1]:
            yield logits[(slice(None), slice(None), *sides)]


def _subsets(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """All of them, smaller ones first."""
    return tuple(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def _by_complements(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """All subsets, each followed by its complement: in an even number of them each axis is there in half."""
    pairs = chain.from_iterable((s, tuple(a for a in axes if a not in s)) for s in _subsets(axes))
    return tuple(dict.fromkeys(pairs))


def _flipped(array: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    return array.flip(axes) if axes else array


def _probabilities(logits: torch.Tensor, regions: bool, heads: int) -> torch.Tensor:
    """Sigmoid, or softmax over the axis `heads`, of logits."""
    return logits.sigmoid() if regions else logits.softmax(heads)
