"""Scores back on the image's grid, some planes at a time: a volume of scores is never held."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from ldseg_auto.preprocessing.operators import along_first, in_plane, spline

SLAB_BYTES = 2**25  # of all scores that one slab is made of and from, about
MOST_PLANES = 32  # of a slab


class ScoreStream:
    """Linear resampling, as `resample.resample_score` does it, of scores that arrive plane by plane.

    Args:
        planes: scores `(*volumes, n, y, x)` float32, any number of planes at a time, ascending along the first axis.
        volumes: draws and heads.
        old: shape of the scores' volumes (z, y, x).
        new: the shape to give them.
        separate: the axis along which the nearest is taken; None for none.
    """

    def __init__(
        self, planes: Iterator[np.ndarray], volumes: tuple[int, int], old: Sequence[int], new: Sequence[int], separate: int | None
    ) -> None:
        along, rows, columns = (spline(o, n, 0 if axis == separate else 1) for axis, (o, n) in enumerate(zip(old, new, strict=True)))
        self.along = along
        self.across: tuple[csr_array | None, ...] = tuple(
            None if o == n else m for m, o, n in zip((rows, columns), old[1:], new[1:], strict=True)
        )
        self.volumes, self.old, self.new = volumes, tuple(old), tuple(new)
        self._planes, self._arrived = planes, 0
        self._held: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """New planes."""
        return self.new[0]

    def part(self, start: int, stop: int) -> Part:
        """New planes `start` to `stop`; starts must not fall from call to call, for old planes are let go."""
        rows = self.along[start:stop]
        used = np.unique(rows.indices).tolist()
        self._held = {z: plane for z, plane in self._held.items() if z >= used[0]}
        while self._arrived <= used[-1]:
            arrived = next(self._planes)
            for z in range(arrived.shape[2]):
                if self._arrived + z >= used[0]:
                    self._held[self._arrived + z] = arrived[:, :, z]
            self._arrived += arrived.shape[2]
        return Part([self._held[z] for z in used], rows[:, used], self.across)

    def finish(self) -> None:
        """Takes what is left of the planes, so that their source closes what it holds."""
        for _ in self._planes:
            pass


class Part:
    """A slab of the new grid, and the old planes that it is made of.

    Args:
        planes: old planes `(draws, heads, y, x)`.
        along: the matrix (new planes, old planes).
        across: the matrices of both other axes, None for one that stays.
    """

    def __init__(self, planes: Sequence[np.ndarray], along: csr_array, across: Sequence[csr_array | None]) -> None:
        self.planes, self.along, self.across = planes, along, across

    @property
    def draws(self) -> int:
        """Draws of the stream."""
        return len(self.planes[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """New planes of the slab, y, x."""
        old = self.planes[0].shape[2:]
        return (self.along.shape[0], *(o if m is None else m.shape[0] for m, o in zip(self.across, old, strict=True)))

    def largest(self) -> np.ndarray:
        """The largest score of each head `(heads,)` in any old plane and draw; linear resampling gives none above it."""
        return np.max([plane.max((0, 2, 3)) for plane in self.planes], axis=0)

    def head(self, draw: int, head: int) -> np.ndarray:
        """One head's scores of one draw on the new grid, `(n, y, x)` float32."""
        old = [in_plane(plane[draw, head], *self.across) for plane in self.planes]
        if self.along.nnz == self.along.shape[0]:  # one old plane each
            return np.stack([old[int(z)] for z in self.along.indices])
        return along_first(self.along, np.stack(old))


def planes_at_a_time(streams: Sequence[ScoreStream]) -> int:
    """New planes of a slab, the same for all streams, so that about SLAB_BYTES hold what it is made of and from."""
    new, held = streams[0].new, 0.0
    for stream in streams:
        draws, heads = stream.volumes
        held += 4 * draws * (heads * math.prod(stream.old) / new[0] + 2 * math.prod(new[1:]))
    return max(1, min(MOST_PLANES, int(SLAB_BYTES / held)))
