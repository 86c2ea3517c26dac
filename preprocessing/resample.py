"""Resampling of images, labels and scores between grids that share their borders.

Every new voxel centre i lies at old coordinate `(i + 0.5) old / new - 0.5`; outside the outermost centres the border value holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import zoom

from ldseg_auto.planners.plans import Resampling


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis at `target` spacing (mm), at least 1."""
    return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))


def coarse_axis(spacing: Sequence[float], target: Sequence[float], threshold: float) -> int | None:
    """The axis to resample by itself: the coarsest, where it is more than `threshold` times the finest, before or else after.

    None where two axes are equally coarse (nnU-Net's rule).
    """
    for given in (spacing, target):
        if max(given) / min(given) > threshold:
            worst = [axis for axis, s in enumerate(given) if s == max(given)]
            return worst[0] if len(worst) == 1 else None
    return None


def resample_image(image: np.ndarray, shape: Sequence[int], separate: int | None, resampling: Resampling) -> np.ndarray:
    """Splines of `order_image` per channel of `image` (c, z, y, x) float32 to (c, *shape); nearest along axis `separate`."""
    return _each(image, shape, separate, resampling.order_image)


def resample_label(label: np.ndarray, shape: Sequence[int], separate: int | None, resampling: Resampling) -> np.ndarray:
    """Label (z, y, x) integers to `shape`: per class by `order_label`, the strongest class wins; no new values appear."""
    if tuple(shape) == label.shape:
        return label
    label = nearest(label, shape, separate) if separate is not None else label
    if resampling.order_label == 0:
        return nearest(label, shape, None)
    best = np.full(tuple(shape), -1.0, np.float32)
    out = np.zeros(tuple(shape), label.dtype)
    for value in np.unique(label):
        score = _linear((label == value).astype(np.float32), shape)
        stronger = score > best
        out[stronger], best[stronger] = value, score[stronger]
    return out


def resample_score(score: np.ndarray, shape: Sequence[int], separate: int | None) -> np.ndarray:
    """One head's scores (z, y, x) float32 to `shape`, linear; nearest along axis `separate`."""
    if tuple(shape) == score.shape:
        return score
    return _linear(nearest(score, shape, separate) if separate is not None else score, shape)


def nearest(array: np.ndarray, shape: Sequence[int], axis: int | None) -> np.ndarray:
    """Nearest old voxel along `axis` alone, or along all three for None."""
    for a in range(array.ndim) if axis is None else (axis,):
        old, new = array.shape[a], shape[a]
        if old != new:
            array = array.take(np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1), axis=a)
    return array


def _each(image: np.ndarray, shape: Sequence[int], separate: int | None, order: int) -> np.ndarray:
    if tuple(shape) == image.shape[1:]:
        return image
    out = np.empty((len(image), *shape), np.float32)
    for c, channel in enumerate(image):
        if separate is None:
            out[c] = _spline(channel, shape, order)
            continue
        # slice by slice within the plane, then nearest along the coarse axis
        channel = np.moveaxis(channel, separate, 0)
        plane = [n for a, n in enumerate(shape) if a != separate]
        moved = channel if list(channel.shape[1:]) == plane else np.stack([_spline(s, plane, order) for s in channel])
        out[c] = nearest(np.moveaxis(moved, 0, separate), shape, separate)
    return out


def _spline(array: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """scipy's zoom on the grid convention of this module; axes that keep their size are left alone."""
    factors = [n / o for n, o in zip(shape, array.shape, strict=True)]
    return zoom(array, factors, output=np.float32, order=order, mode="nearest", grid_mode=True)


def _linear(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Linear interpolation axis by axis, growing axes last: exact for the tensor-product rule, and cheap."""
    for a in sorted(range(array.ndim), key=lambda a: shape[a] / array.shape[a]):
        array = _linear_axis(array, shape[a], a)
    return array


def _linear_axis(array: np.ndarray, new: int, axis: int) -> np.ndarray:
    old = array.shape[axis]
    if old == new:
        return array
    position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(position.astype(np.int64), max(old - 2, 0))
    share = (position - low).astype(np.float32).reshape(-1, *([1] * (array.ndim - 1 - axis)))
    first, second = array.take(low, axis=axis), array.take(np.minimum(low + 1, old - 1), axis=axis)
    second -= first
    second *= share
    first += second
    return first
