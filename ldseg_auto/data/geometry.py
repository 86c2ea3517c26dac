"""Where an image lies: its own grid, and the way from there to the canonical orientation and back.

Canonical (LPS): array axes (z, y, x), along which the index grows towards Superior, Posterior and Left. Axes are permuted and flipped,
never interpolated: an oblique image goes to the nearest axes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ldseg_auto.errors import DatasetError

NATURAL_Z = 999.0  # slice distance of a 2D image, as nnU-Net writes it; for one with a geometry: times its largest in-plane spacing
TOLERANCE = 1e-3  # of spacing (relative) and of direction cosines (absolute)
ORIGIN_TOLERANCE = 1e-2  # voxels
CODES = (("R", "L"), ("A", "P"), ("I", "S"))  # of the x, y and z axes of space: where the negative and the positive side point


@dataclass(frozen=True)
class Geometry:
    """An image's own grid, in ITK's order (x, y, z), all of it three-dimensional (a 2D image has one slice).

    Args:
        size: voxels.
        spacing: mm; in ITK's numbers, to the bit.
        origin: mm.
        direction: 9 cosines, row by row; a column is the direction of an index axis.
        dimension: 2 or 3, as the file has it.
        has_spacing: whether the file says where it lies; not so for natural images and TIFF without sidecar.
        permutation: canonical array axis i is axis permutation[i] of the file's array (z, y, x).
        flips: whether the canonical array axis is reversed.
        header: of the NIfTI or NRRD file it was read from, as it stands there.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    dimension: int = 3
    has_spacing: bool = True
    permutation: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    header: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Canonical shape (z, y, x)."""
        return tuple(self.size[::-1][axis] for axis in self.permutation)  # type: ignore[return-value]

    @property
    def canonical_spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm of the canonical array."""
        return tuple(float(self.spacing[::-1][axis]) for axis in self.permutation)  # type: ignore[return-value]

    @property
    def orientation(self) -> str:
        """Three letters: where the file's x, y and z index grow to, for instance "LPS" (canonical) or "RAS"."""
        matrix = np.array(self.direction).reshape(3, 3)
        axes = _nearest_axes(matrix)
        return "".join(CODES[axes.index(column)][int(matrix[axes.index(column), column] > 0)] for column in range(3))

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis - 3 for axis, flip in enumerate(self.flips) if flip)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """An array (..., z, y, x) on the file's grid in canonical orientation (a view)."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + axis for axis in self.permutation))
        return np.flip(moved, self._flipped)

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """The reverse of `to_canonical`."""
        lead = array.ndim - 3
        flipped = np.flip(array, self._flipped)
        return flipped.transpose(*range(lead), *(lead + int(axis) for axis in np.argsort(self.permutation)))


def oriented(
    size: tuple[int, int, int], spacing: tuple[float, float, float], origin: tuple[float, float, float], direction: tuple[float, ...],
    dimension: int, header: bytes | None,
) -> Geometry:  # fmt: skip
    """A geometry with the permutation and flips that its direction asks for."""
    matrix = np.array(direction).reshape(3, 3)
    axes = _nearest_axes(matrix)
    permutation = tuple(2 - axes[world] for world in (2, 1, 0))
    flips = tuple(bool(matrix[world, axes[world]] < 0) for world in (2, 1, 0))
    return Geometry(size, spacing, origin, direction, dimension, True, permutation, flips, header)  # type: ignore[arg-type]


def _nearest_axes(matrix: np.ndarray) -> tuple[int, ...]:
    """The index axis that runs along each axis (x, y, z) of space: of all assignments the one with the largest sum of cosines."""
    sizes = np.abs(matrix)
    # rounding keeps images turned by exactly 45 degrees from hanging on the last bit; the first in order wins then
    return max(itertools.permutations(range(3)), key=lambda p: round(float(sum(sizes[world, p[world]] for world in range(3))), 6))


def check_direction(direction: tuple[float, ...], path: Path) -> None:
    """Raises DatasetError unless the direction matrix is orthonormal (rotations and mirrorings, no shear)."""
    matrix = np.array(direction).reshape(3, 3)
    if not np.isfinite(matrix).all() or np.abs(matrix.T @ matrix - np.eye(3)).max() > TOLERANCE:
        shown = np.round(matrix, 4).tolist()
        raise DatasetError(f"image {path}: direction {shown} is not orthonormal (it shears or scales). Resample it to a regular grid.")


def differences(first: Geometry, second: Geometry) -> list[str]:
    """What differs between two grids, beyond rounding: size always, spacing, origin and direction where both files have them."""
    found = []
    if first.size != second.size:
        found.append(f"size {first.size} and {second.size} (x, y, z)")
    if not (first.has_spacing and second.has_spacing):
        return found
    if not np.allclose(first.spacing, second.spacing, rtol=TOLERANCE, atol=0):
        found.append(f"spacing {_shown(first.spacing)} and {_shown(second.spacing)} mm (x, y, z)")
    if np.any(np.abs(np.subtract(first.origin, second.origin)) > ORIGIN_TOLERANCE * min(first.spacing[: first.dimension])):
        found.append(f"origin {_shown(first.origin)} and {_shown(second.origin)} mm (x, y, z)")
    if not np.allclose(first.direction, second.direction, rtol=0, atol=TOLERANCE):
        found.append(f"direction {_shown(first.direction)} and {_shown(second.direction)}")
    return found


def _shown(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{n:.6g}" for n in numbers) + ")"
