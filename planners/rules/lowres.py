"""The low-resolution configuration (nnU-Net v2's rule)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

SHARE = 0.25  # of the median shape that a patch should see
GROWTH = 1.03  # of the spacing per step
WORTH = 2.0  # voxels at full resolution per voxel at low resolution, below which there is no point


def low_resolution(
    spacing: Sequence[float], median_shape: Sequence[float], patch_voxels: int, plan_patch: Callable[[list[float], list[float]], int]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Coarser spacing at which a patch sees a quarter of the median image, or None where it does already or where little is gained.

    While one axis is more than twice coarser than others, only those others grow.

    Args:
        spacing, median_shape: of the full resolution.
        patch_voxels: of the full resolution's patch.
        plan_patch: voxels of the patch planned for a spacing and median shape.

    Returns:
        Spacing (mm) and median shape (voxels).
    """
    low, full = list(spacing), prod(median_shape)
    shape = list(median_shape)
    voxels = patch_voxels
    while voxels / prod(shape) < SHARE:
        coarsest = max(low)
        finer = [i for i, s in enumerate(low) if coarsest / s > 2] or range(len(low))
        low = [s * GROWTH if i in finer else s for i, s in enumerate(low)]
        shape = [m * s / lo for m, s, lo in zip(median_shape, spacing, low, strict=True)]
        voxels = plan_patch(low, shape)
    return (tuple(low), tuple(shape)) if full / prod(shape) >= WORTH else None
