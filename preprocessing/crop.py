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
    from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask  # training imports this module and does without it

    return tuple((int(low), int(high)) for low, high in get_bbox_from_mask((image != 0).any(0)))


def slices(box: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """The box as an index for the last three axes: `array[(..., *slices(box))]`."""
    return tuple(slice(low, high) for low, high in box)
