"""Intensity normalisation per channel, plane by plane: no second copy of the volume is held."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from ldseg_auto.planners.plans import Configuration, Intensities

FLOOR = 1e-8  # smallest deviation divided by
Planes = Callable[[int], np.ndarray]  # index along the first axis -> (y, x) float32


def normalised_planes(
    image: np.ndarray, mask: np.ndarray | None, configuration: Configuration, intensities: tuple[Intensities, ...]
) -> list[Planes]:  # fmt: skip
    """For each channel of `image` (c, z, y, x) a function that gives one plane of it, normalised by its scheme.

    Args:
        mask: (z, y, x) bool, non-zero voxels; needed where a channel's use_mask_for_norm is set.
        intensities: per channel, of the dataset's foreground (scheme `ct`).

    Returns:
        Functions of the index along z; what they return, (y, x) float32, may be a view of `image`.
    """
    planes = []
    for c, scheme in enumerate(configuration.normalisation):
        use_mask = configuration.use_mask_for_norm[c] and mask is not None and bool(mask.any())
        planes.append(_channel(image[c], mask if use_mask else None, scheme, intensities[c]))
    return planes


def _channel(x: np.ndarray, mask: np.ndarray | None, scheme: str, intensities: Intensities) -> Planes:
    if scheme == "ct":
        return lambda z: _ct(x[z], intensities)
    if scheme == "zscore":
        mean, deviation = moments(x, mask)
        return lambda z: _zscore(x[z], None if mask is None else mask[z], mean, max(deviation, FLOOR))
    if scheme == "rescale_to_0_1":
        low, high = float(x.min()), float(x.max())
        return lambda z: (x[z] - low) / max(high - low, FLOOR)
    return (lambda z: x[z] / 255) if scheme == "rgb_to_0_1" else x.__getitem__


def _ct(x: np.ndarray, intensities: Intensities) -> np.ndarray:
    out = np.clip(x, intensities.percentile_00_5, intensities.percentile_99_5)
    out -= intensities.mean
    out /= max(intensities.std, FLOOR)
    return out


def _zscore(x: np.ndarray, mask: np.ndarray | None, mean: float, deviation: float) -> np.ndarray:
    scaled = np.subtract(x, mean, dtype=np.float64)
    scaled /= deviation
    return (scaled if mask is None else np.where(mask, scaled, 0)).astype(np.float32)


def moments(x: np.ndarray, mask: np.ndarray | None) -> tuple[float, float]:
    """Mean and standard deviation of `x` (z, y, x), within `mask` (z, y, x) bool where there is one; two passes in double precision."""
    inside = x.__getitem__ if mask is None else lambda z: x[z][mask[z]]
    count = x.size if mask is None else int(np.count_nonzero(mask))
    mean = sum(float(inside(z).sum(dtype=np.float64)) for z in range(len(x))) / count
    squares = sum(float(np.square(np.subtract(inside(z), mean, dtype=np.float64)).sum()) for z in range(len(x)))
    return mean, sqrt(squares / count)
