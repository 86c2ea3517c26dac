"""Resampling of images, labels and scores between grids that share their borders.

Every new voxel centre i lies at old coordinate `(i + 0.5) old / new - 0.5`; outside the outermost centres the border value holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import find_objects
from scipy.sparse import csr_array

from ldseg_auto.planners.plans import Resampling
from ldseg_auto.preprocessing.normalise import Planes
from ldseg_auto.preprocessing.operators import along_first, in_plane, nearest_index, reached, spline

SLAB = 32  # new planes made at a time: what is held beside input and output


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
    if tuple(shape) == image.shape[1:]:
        return image
    out = np.empty((len(image), *shape), np.float32)
    for channel, target in zip(image, out, strict=True):
        resample_planes(channel.__getitem__, channel.shape, target, separate, resampling.order_image)
    return out


def resample_planes(plane: Planes, shape: Sequence[int], out: np.ndarray, separate: int | None, order: int) -> None:
    """Splines of `order` from a volume of `shape`, asked for plane by plane in ascending order, into `out` (z, y, x) float32.

    Beside `out`, SLAB new planes and the old ones that they need are held, never the volume.
    """
    along, rows, columns = _matrices(shape, out.shape, separate, order)
    across = [None if old == new else m for m, old, new in zip((rows, columns), shape[1:], out.shape[1:], strict=True)]
    planes: dict[int, np.ndarray] = {}
    for start in range(0, len(out), SLAB):
        part, target = along[start : start + SLAB], out[start : start + SLAB]
        used = np.unique(part.indices).tolist()
        planes = {z: planes[z] for z in used if z in planes}
        planes.update((z, in_plane(plane(z), *across)) for z in used if z not in planes)
        if part.nnz == len(target):  # one old plane each: nothing to interpolate
            for z, new in zip(part.indices, target, strict=True):
                new[:] = planes[int(z)]
        else:
            target[:] = along_first(part[:, used], np.stack([planes[z] for z in used]))


def _matrices(old: Sequence[int], new: Sequence[int], separate: int | None, order: int) -> list[csr_array]:
    return [spline(o, n, 0 if axis == separate else order) for axis, (o, n) in enumerate(zip(old, new, strict=True))]


def resample_label(label: np.ndarray, shape: Sequence[int], separate: int | None, resampling: Resampling) -> np.ndarray:
    """Label (z, y, x), integers from 0 on, to `shape`: per class by `order_label`, the strongest class wins; no new values appear.

    Of equally strong classes the background wins, then the lowest value. Each class is interpolated within its own box, slab by slab.
    """
    if tuple(shape) == label.shape:
        return label
    if resampling.order_label == 0:
        return nearest(label, shape, None)
    matrices = _matrices(label.shape, shape, separate, 1)
    boxes = {value: box for value, box in enumerate(find_objects(label), start=1) if box is not None}
    out = np.zeros(tuple(shape), label.dtype)
    for start in range(0, len(out), SLAB):
        slab = slice(start, min(start + SLAB, len(out)))
        _label_slab(label, boxes, [matrices[0][slab], *matrices[1:]], out[slab])
    return out


def _label_slab(label: np.ndarray, boxes: Mapping[int, tuple[slice, ...]], matrices: Sequence[csr_array], out: np.ndarray) -> None:
    """Fills `out`, some planes of the new grid. The background's score is what the classes leave of 1."""
    best, background = np.zeros(out.shape, np.float32), np.ones(out.shape, np.float32)
    for value, box in boxes.items():
        where = tuple(reached(m, span) for m, span in zip(matrices, box, strict=True))
        if any(w.start == w.stop for w in where):
            continue
        along, rows, columns = (m[w][:, span] for m, w, span in zip(matrices, where, box, strict=True))
        used = np.unique(along.indices)
        planes = (label[box[0]][z][box[1:]] == value for z in used)
        score = along_first(along[:, used], np.stack([in_plane(p.astype(np.float32), rows, columns) for p in planes]))
        background[where] -= score
        stronger = score > best[where]
        out[where][stronger], best[where][stronger] = value, score[stronger]
    out[background >= best] = 0


def resample_score(score: np.ndarray, shape: Sequence[int], separate: int | None) -> np.ndarray:
    """One head's scores (z, y, x) float32 to `shape`, linear; nearest along axis `separate`."""
    return resample_image(score[None], shape, separate, Resampling(order_image=1))[0]


def nearest(array: np.ndarray, shape: Sequence[int], axis: int | None) -> np.ndarray:
    """Nearest old voxel along `axis` alone, or along all three for None."""
    for a in range(array.ndim) if axis is None else (axis,):
        if array.shape[a] != shape[a]:
            array = array.take(nearest_index(array.shape[a], shape[a]), axis=a)
    return array
