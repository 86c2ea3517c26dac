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
    box: list[tuple[int, int]] = []
    for axis in range(1, image.ndim):
        inside = np.moveaxis(image[(slice(None), *slices(box))], axis, 0)
        places = range(len(inside))
        low = next((i for i in places if inside[i].any()), None)
        if low is None:
            return tuple((0, n) for n in image.shape[1:])
        box.append((low, next(i for i in reversed(places) if inside[i].any()) + 1))
    return tuple(box)


def slices(box: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """The box as an index: `array[(..., *slices(box))]` for the last three axes."""
    return tuple(slice(low, high) for low, high in box)
