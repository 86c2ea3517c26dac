"""Interpolation along one axis as a sparse matrix.

On grids that share their borders, splines of any order are tensor products: the same matrix acts on every line of an axis. It is read off
scipy's own zoom, as the answers to unit impulses, so that the rule stays scipy's; applied as a matrix it is an order of magnitude faster,
works plane by plane, and adds in a fixed order, whatever the processor's matrix library does.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import zoom
from scipy.sparse import coo_array, csr_array

REACH = 32  # old voxels beyond which an impulse answers with less than NEGLIGIBLE: the largest pole is 0.43 (order 5), 0.43^32 = 2e-12
NEGLIGIBLE = 1e-7  # weights below are dropped: a row's sum changes by less than 3e-7 for order 3, 1e-6 for order 5
COLUMNS = 4096  # of a matrix product at a time: they stay in the cache


@lru_cache(maxsize=64)
def spline(old: int, new: int, order: int) -> csr_array:
    """The matrix (new, old) float32 of a spline of `order` (0 to 5) from `old` to `new` voxels, the border value outside.

    New voxel centre i lies at old coordinate `(i + 0.5) old / new - 0.5`.
    """
    if order == 0 or old == new:
        return nearest(old, new)
    period = 2 * REACH
    comb = np.zeros((old, period))
    comb[np.arange(old), np.arange(old) % period] = 1  # impulses a period apart do not meet, so one line answers for all of them
    answers = zoom(comb, (new / old, 1), order=order, mode="nearest", grid_mode=True)
    middle = np.rint((np.arange(new) + 0.5) * old / new - 0.5).astype(np.int64)
    columns = middle[:, None] + np.arange(-REACH, REACH)
    rows = np.broadcast_to(np.arange(new)[:, None], columns.shape)
    weights = np.take_along_axis(answers, columns % period, axis=1)
    kept = (columns >= 0) & (columns < old) & (np.abs(weights) > NEGLIGIBLE)
    return coo_array((weights[kept].astype(np.float32), (rows[kept], columns[kept])), shape=(new, old)).tocsr()


@lru_cache(maxsize=64)
def nearest(old: int, new: int) -> csr_array:
    """The matrix (new, old) that takes the nearest old voxel; halfway between two the upper one."""
    return csr_array((np.ones(new, np.float32), (np.arange(new), nearest_index(old, new))), shape=(new, old))


def nearest_index(old: int, new: int) -> np.ndarray:
    """The nearest old voxel of each of `new` voxels; halfway between two the upper one."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)


def along_first(matrix: csr_array, array: np.ndarray) -> np.ndarray:
    """`matrix` (m, n) on the first axis of `array` (n, y, x) float32: (m, y, x)."""
    flat = array.reshape(len(array), -1)
    out = np.empty((matrix.shape[0], flat.shape[1]), np.float32)
    for start in range(0, flat.shape[1], COLUMNS):
        out[:, start : start + COLUMNS] = matrix @ flat[:, start : start + COLUMNS]
    return out.reshape(-1, *array.shape[1:])


def in_plane(plane: np.ndarray, rows: csr_array | None, columns: csr_array | None) -> np.ndarray:
    """Both axes of `plane` (y, x) float32, None leaves one as it is; the result may be a transposed view."""
    plane = plane if rows is None else rows @ plane
    return plane if columns is None else (columns @ plane.T).T


def reached(matrix: csr_array, span: slice) -> slice:
    """The new voxels that old ones within `span` have a part in; empty where there are none."""
    first, last = matrix.indices[matrix.indptr[:-1]], matrix.indices[matrix.indptr[1:] - 1]
    found = np.flatnonzero((last >= span.start) & (first < span.stop))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)
