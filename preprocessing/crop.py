"""Cropping to non-zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_fill_holes

Box = tuple[tuple[int, int], ...]  # first voxel and one past the last, per axis


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """Voxels that are non-zero in any channel of `image` (c, z, y, x), holes filled; (z, y, x) bool."""
    return np.asarray(binary_fill_holes((image != 0).any(0)))


def nonzero_box(image: np.ndarray) -> Box:
    """Smallest box around the non-zero voxels of `image` (c, z, y, x); the whole image where all are zero."""
    occupied = (image != 0).any(0)
    box = []
    for axis in range(3):
        line = np.flatnonzero(occupied.any(tuple(a for a in range(3) if a != axis)))
        box.append((int(line[0]), int(line[-1]) + 1) if len(line) else (0, occupied.shape[axis]))
    return tuple(box)


def slices(box: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """The box as an index for the last three axes: `array[(..., *slices(box))]`."""
    return tuple(slice(low, high) for low, high in box)
