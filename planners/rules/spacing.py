"""Target spacing and order of axes (nnU-Net v2's rules, nnunet.md 1.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.errors import InputError

ANISOTROPY = 3.0  # an axis is coarse when its spacing is so many times the larger of the others
COARSE_PERCENTILE = 10  # of that axis's spacings over the cases
FINEST_ABOVE = 1e-5  # mm that a coarse axis stays above the others


@dataclass(frozen=True)
class Grid:
    """Target spacing and median shape over the cases, both in canonical axis order (z, y, x)."""

    spacing: tuple[float, float, float]  # mm
    median_shape: tuple[float, float, float]  # voxels at that spacing
    reason: str


def target_grid(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], given: Sequence[float] = ()) -> Grid:
    """Median spacing per axis; a coarse axis with few slices takes the 10th percentile of its spacings instead.

    Coarse: spacing > 3 x the larger of the other two, and 3 x its voxel count < the smaller of theirs. Where the percentile would be
    finer than the other axes, it is 1e-5 mm coarser than they are. The thickness of a single slice (median) is left at its median, because
    it is no distance between slices. Shapes have at least one voxel per axis.

    Args:
        spacings: per case, mm, (z, y, x).
        shapes: per case after cropping, voxels, (z, y, x).
        given: the user's own spacing in place of the rule's, mm: (z, y, x), or (y, x) to leave z to the rule.

    Raises:
        InputError: `given` has another length, or a number that is not above 0.
    """
    found = np.asarray(spacings, dtype=float)
    median = np.median(found, axis=0)
    target = median.copy()
    sizes = np.median(np.asarray(shapes, dtype=float), axis=0)
    worst = int(np.argmax(median))
    others = [i for i in range(3) if i != worst]
    reason = f"median over {len(found)} cases"
    if sizes[worst] <= 1:
        reason += "; 2D, in-plane spacing"
    elif median[worst] > ANISOTROPY * median[others].max() and sizes[worst] * ANISOTROPY < sizes[others].min():
        percentile, floor = float(np.percentile(found[:, worst], COARSE_PERCENTILE)), float(median[others].max())
        target[worst] = percentile if percentile >= floor else floor + FINEST_ABOVE
        reason += f"; axis {'zyx'[worst]} is coarse ({median[worst]:.3g} mm, {sizes[worst]:.0f} slices): {COARSE_PERCENTILE}th percentile"
    if given:
        if len(given) not in (2, 3) or not all(0 < s < np.inf for s in given):
            raise InputError(f"--target-spacing {' '.join(map(str, given))}: expected three numbers (z y x) or two (y x) above 0, in mm.")
        target[3 - len(given) :] = given
        reason = "given by --target-spacing" + ("" if len(given) == 3 else f"; z: {reason}")
    resampled = np.asarray(shapes, dtype=float) * found / target
    return Grid(_three(target), _three(np.median(np.maximum(np.round(resampled), 1), axis=0)), reason)


def transposition(spacing: Sequence[float], median_shape: Sequence[float]) -> tuple[tuple[int, int, int], str]:
    """Permutation of (z, y, x) that puts the coarsest axis first; an axis of a single slice comes before all.

    Returns:
        The permutation and its reason.
    """
    single = [i for i in range(3) if median_shape[i] <= 1]
    first = single[0] if single else int(np.argmax(np.asarray(spacing)))
    order = (first, *(i for i in range(3) if i != first))
    why = "one slice" if single else f"coarsest, {spacing[first]:.3g} mm"
    return (order[0], order[1], order[2]), f"axis {'zyx'[first]} first ({why})"


def _three(values: np.ndarray) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
