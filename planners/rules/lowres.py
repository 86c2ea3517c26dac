"""The low-resolution configuration (nnU-Net v2's rule)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

SHARE = 0.25  # of the median shape that a patch should see
GROWTH = 1.03  # of the spacing per step
WORTH = 2.0  # voxels at full resolution per voxel at low resolution, below which there is no point


Grid = tuple[tuple[float, ...], tuple[float, ...]]  # spacing (mm), median shape (voxels)


def low_resolution(
    spacing: Sequence[float], median_shape: Sequence[float], patch_voxels: int, plan_patch: Callable[[list[float], list[float]], int]
) -> tuple[Grid | None, str]:
    """Coarser spacing at which a patch sees a quarter of the median image, or None where it does already or where little is gained.

    While one axis is more than twice coarser than others, only those others grow. The patch is planned for the shape in whole voxels.

    Args:
        spacing, median_shape: of the full resolution.
        patch_voxels: of the full resolution's patch.
        plan_patch: voxels of the patch planned for a spacing and median shape.

    Returns:
        Spacing (mm) and median shape (whole voxels), or None; and the reason.
    """
    low, full = list(spacing), prod(median_shape)
    shape = list(median_shape)
    voxels, sees = patch_voxels, patch_voxels / full
    if sees >= SHARE:
        return None, f"none: the patch at full resolution holds {min(sees, 1):.0%} of the median image's voxels, at least {SHARE:.0%}"
    while voxels / prod(shape) < SHARE:
        coarsest = max(low)
        finer = [i for i, s in enumerate(low) if coarsest / s > 2] or range(len(low))
        low = [s * GROWTH if i in finer else s for i, s in enumerate(low)]
        shape = [m * s / lo for m, s, lo in zip(median_shape, spacing, low, strict=True)]
        voxels = plan_patch(low, _whole(shape))
    why = f"the patch at full resolution holds {sees:.1%} of the median image's voxels: coarsened by {GROWTH - 1:.0%} steps to {SHARE:.0%}"
    fewer = full / prod(shape)
    if fewer < WORTH:
        return None, f"none: {why}, that is {fewer:.2g} times fewer voxels, less than {WORTH:g}"
    return (tuple(low), tuple(_whole(shape))), f"{why}, {fewer:.2g} times fewer voxels"


def _whole(shape: Sequence[float]) -> list[float]:
    return [float(max(1, round(n))) for n in shape]
