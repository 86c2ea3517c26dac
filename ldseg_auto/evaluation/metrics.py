"""Overlap and surface metrics of two binary masks.

Conventions. Both masks empty: every metric but the counts and volumes is NaN. One empty: Dice, IoU and NSD are 0 and HD95 is infinite.
Surface: the voxels of a mask that have a face neighbour outside it (or lie at the array's edge). Distances run between voxel
centres, in millimetres. HD95 is the larger of the two directed 95th percentiles (numpy's linear interpolation). NSD at a tolerance is the
share of both surfaces' voxels that lie within it of the other surface. Axes with one voxel are left out, so that a 2D image's third
spacing has no weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

FLAT = 999.0  # slice distance of a 2D image, as image_io gives it, in units of its largest in-plane spacing
PERCENTILE = 95
ROUNDING = 1e-9  # relative: ten voxels of 0.1 mm are 1 mm, whatever floating point says


def overlap(tp: int, n_reference: int, n_predicted: int) -> dict[str, float]:
    """Dice, IoU and voxel counts of one class.

    Args:
        tp: voxels in both masks.
        n_reference, n_predicted: voxels of each mask.

    Returns:
        `dice`, `iou` (NaN when both masks are empty), `tp`, `fp`, `fn`, `n_reference`, `n_predicted`.
    """
    fp, fn = n_predicted - tp, n_reference - tp
    union = tp + fp + fn
    return {
        "dice": 2 * tp / (n_reference + n_predicted) if union else math.nan,
        "iou": tp / union if union else math.nan,
        "tp": tp, "fp": fp, "fn": fn, "n_reference": n_reference, "n_predicted": n_predicted,
    }  # fmt: skip


def volumes(n_reference: float, n_predicted: float, spacing: Sequence[float]) -> dict[str, float]:
    """Volumes in millilitres; NaN for 2D images (their pixel counts say the area).

    Args:
        spacing: mm `(z, y, x)`.
    """
    voxel = math.nan if is_flat(spacing) else math.prod(spacing) / 1000
    return {"volume_reference_ml": n_reference * voxel, "volume_predicted_ml": n_predicted * voxel}


def is_flat(spacing: Sequence[float]) -> bool:
    """Whether the spacing `(z, y, x)` is that of a 2D image."""
    return math.isclose(spacing[0], FLAT * max(spacing[1:]))


def surface_metrics(reference: np.ndarray, predicted: np.ndarray, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    """HD95 and NSD.

    Args:
        reference, predicted: binary masks `(z, y, x)`.
        spacing: mm `(z, y, x)`; then `hd95` and `tolerance` are in mm too (in pixels for natural 2D images, of spacing 1).

    Returns:
        `hd95` and `nsd`.
    """
    if not reference.any() or not predicted.any():
        empty = not reference.any() and not predicted.any()
        return {"hd95": math.nan if empty else math.inf, "nsd": math.nan if empty else 0.0}
    there, back = surface_distances(reference, predicted, spacing)
    tolerance *= 1 + ROUNDING
    within = np.count_nonzero(there <= tolerance) + np.count_nonzero(back <= tolerance)
    hd95 = max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE))
    return {"hd95": float(hd95), "nsd": float(within / (len(there) + len(back)))}


def surface_distances(reference: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of the reference to the prediction's surface `(n,)`, and the reverse `(m,)`.

    Args:
        reference, predicted: binary masks `(z, y, x)`, neither empty.
    """
    axes = [i for i, size in enumerate(reference.shape) if size > 1] or [0]
    box = bounding_box(reference | predicted)
    edges = []
    for mask in (reference, predicted):
        inside = np.pad(mask[box].reshape([mask[box].shape[i] for i in axes]), 1)
        edges.append(inside & ~ndimage.binary_erosion(inside))
    sampling = [spacing[i] for i in axes]
    distance = [ndimage.distance_transform_edt(~edge, sampling=sampling) for edge in edges]
    return distance[1][edges[0]], distance[0][edges[1]]


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box that holds a mask, widened by `margin` where the array goes on; empty for an empty mask."""
    out = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
        first, last = (int(line[0]), int(line[-1]) + 1) if len(line) else (0, 0)
        out.append(slice(max(0, first - margin), min(mask.shape[axis], last + margin)))
    return tuple(out)
