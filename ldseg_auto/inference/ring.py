"""Blended logits of the planes that tiles still reach, in memory or, where they would not fit, in a temporary file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from ldseg_auto.inference.tiles import Box
from ldseg_auto.scratch import Room, Scratch

PIECE = 2**26  # bytes of logits worked on at a time


class Ring:
    """Weighted sums over tiles for `depth` planes along the first axis; plane z lies in place z modulo `depth`.

    Args:
        sums: zeros `(rows, depth, y, x)`: rows are logit volumes blended side by side (draws x heads), `depth` the planes that are
            unfinished at the same time at most.
        weights: of a tile's voxels, `(*patch)`.
        scratch: what holds `sums`, if it is to let go of memory.
    """

    def __init__(self, sums: torch.Tensor, weights: torch.Tensor, scratch: Scratch | None = None) -> None:
        self.sums, self.depth, self.weights, self._scratch = sums, sums.shape[1], weights.to(sums.device), scratch
        self.weight = torch.zeros(sums.shape[1:], device=sums.device)

    def add(self, first: int, box: Box, scores: torch.Tensor) -> None:
        """Adds a tile's logits `(n, *patch)`, weighted, to rows `first` ... `first + n`."""
        scores = scores.to(self.sums.device)
        at_once = max(1, PIECE // (4 * self.weights.numel()))
        for there, part in self._places(box[0]):
            for i in range(0, len(scores), at_once):
                rows = slice(first + i, first + min(i + at_once, len(scores)))
                self.sums[(rows, there, *box[1:])] += scores[i : i + at_once, part] * self.weights[part]
                self._let_go()

    def count(self, box: Box) -> None:
        """Adds a tile's weights, once for all rows."""
        for there, part in self._places(box[0]):
            self.weight[(there, *box[1:])] += self.weights[part]

    def take(self, planes: slice) -> torch.Tensor:
        """Blended logits `(rows, planes, y, x)` of finished planes, whose places are then free."""
        parts = []
        for there, _ in self._places(planes):
            parts.append(self.sums[:, there] / self.weight[there])
            self.sums[:, there] = 0
            self.weight[there] = 0
        self._let_go()
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _places(self, planes: slice) -> Iterator[tuple[slice, slice]]:
        """Where planes lie, and which of them lie there: one piece, or two where the ring closes."""
        start, count = planes.start % self.depth, planes.stop - planes.start
        first = min(count, self.depth - start)
        yield slice(start, start + first), slice(0, first)
        if first < count:
            yield slice(0, count - first), slice(first, count)

    def _let_go(self) -> None:
        if self._scratch is not None:
            self._scratch.let_go()


def make_ring(shape: Sequence[int], weights: torch.Tensor, device: torch.device, room: Room) -> Ring:
    """A ring on CUDA if the card has twice the memory that it needs, else in main memory or in a file.

    Args:
        shape, weights: see Ring.
        device: where the networks run.

    Raises:
        OSError: the disk has no room for the file.
    """
    if device.type == "cuda" and 8 * math.prod(shape) < torch.cuda.mem_get_info(device)[0]:
        return Ring(torch.zeros(tuple(shape), device=device), weights)
    scratch = Scratch(shape, room)
    return Ring(torch.from_numpy(scratch.array), weights, scratch)
