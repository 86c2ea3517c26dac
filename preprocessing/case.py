"""One case from canonical arrays to the network's grid, and scores back."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import DatasetError
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.preprocessing.crop import nonzero_box, nonzero_mask, slices
from ldseg_auto.preprocessing.normalise import Planes, normalised_planes
from ldseg_auto.preprocessing.resample import coarse_axis, new_shape, resample_label, resample_planes, resample_score
from ldseg_auto.preprocessing.store import Properties
from ldseg_auto.scratch import Room, Scratch

MEMORY = Room(limit=sys.maxsize)
LOCATIONS = 10_000  # voxels kept per class, or 1% of them where that is more
LOCATIONS_SHARE = 0.01


def target_spacing(spacing: Sequence[float], configuration: Configuration) -> tuple[float, ...]:
    """Transposed spacing (mm) after resampling: a 2D configuration leaves the first axis as it is."""
    return (*spacing[: 3 - configuration.dimensions], *configuration.spacing)


def preprocess_array(
    image: np.ndarray, spacing: Sequence[float], plans: Plans, configuration: Configuration
) -> tuple[np.ndarray, Properties]:
    """Transposes, crops to non-zero, normalises and resamples an image: `preprocess` in memory.

    Returns:
        Image `(c, z, y, x)` float32 on the network's grid, and what was done (without class_locations).
    """
    scratch, properties = preprocess(image, spacing, plans, configuration, MEMORY)
    return scratch.array, properties


def preprocess(
    image: np.ndarray, spacing: Sequence[float], plans: Plans, configuration: Configuration, room: Room
) -> tuple[Scratch, Properties]:
    """Transposes, crops to non-zero, normalises and resamples an image.

    Args:
        image: `(c, z, y, x)` float32, canonical.
        spacing: (z, y, x), mm.
        room: for the result, which can be many times larger than the image.

    Returns:
        Image `(c, z, y, x)` float32 on the network's grid, and what was done (without class_locations).

    Raises:
        DatasetError: the image has another number of channels than the plans.
    """
    if len(image) != configuration.channels:
        raise DatasetError(f"the image has {len(image)} channels, the plans of {plans.dataset_name} have {configuration.channels}.")
    shape, moved = image.shape[1:], [spacing[a] for a in plans.transpose_forward]
    image = _transposed(image, plans)
    box = nonzero_box(image)
    image = image[(slice(None), *slices(box))]
    mask = nonzero_mask(image) if any(configuration.use_mask_for_norm) else None
    channels = normalised_planes(image, mask, configuration, plans.foreground_intensities)
    target = target_spacing(moved, configuration)
    resampled = new_shape(image.shape[1:], moved, target)
    separate = coarse_axis(moved, target, configuration.resampling.separate_axis_threshold)
    properties = Properties(tuple(map(float, spacing)), tuple(shape), box, image.shape[1:], resampled, separate)
    out = Scratch((len(channels), *resampled), room)
    for planes, grid in zip(channels, out.array, strict=True):
        resample_planes(_letting_go(planes, out), image.shape[1:], grid, separate, configuration.resampling.order_image)
    out.let_go()
    return out, properties


def _letting_go(planes: Planes, scratch: Scratch) -> Planes:
    """The planes; whenever one is asked for, what has been written lets go of memory."""

    def plane(z: int) -> np.ndarray:
        scratch.let_go()
        return planes(z)

    return plane


def preprocess_labels(labels: np.ndarray, properties: Properties, plans: Plans, configuration: Configuration) -> np.ndarray:
    """Labels `(raters, z, y, x)` indices, canonical, onto the grid of the preprocessed image that `properties` belong to."""
    inside = (slice(None), *slices(properties.box))
    cropped = _transposed(labels, plans)[inside]
    return np.stack([resample_label(x, properties.preprocessed_shape, properties.separate_axis, configuration.resampling) for x in cropped])


def _transposed(array: np.ndarray, plans: Plans) -> np.ndarray:
    return array.transpose(0, *(a + 1 for a in plans.transpose_forward))


def class_locations(labels: np.ndarray, spec: LabelSpec, identifier: str) -> dict[int, np.ndarray]:
    """Sampled voxels (n, 3) of each foreground index in any rater's labels `(raters, z, y, x)`; a function of the case alone.

    Where all raters left voxels to be ignored, index 0 stands for the others, of any class: patches elsewhere would teach nothing.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "little"))
    found = {}
    for index, box in enumerate(_joined_boxes(labels, len(spec.values) - 1), start=1):
        voxels = np.argwhere((labels[(slice(None), *box)] == index).any(0)) + [side.start for side in box]
        limit = max(LOCATIONS, round(LOCATIONS_SHARE * len(voxels)))
        if len(voxels) > limit:
            voxels = voxels[np.sort(rng.choice(len(voxels), limit, replace=False))]
        if len(voxels):
            found[index] = voxels.astype(np.int32)
    if spec.ignore_index is not None and (labels == spec.ignore_index).all(0).any():
        found |= _annotated(labels, spec.ignore_index, rng)
    return found


def _annotated(labels: np.ndarray, ignored: int, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """{0: at most LOCATIONS voxels (n, 3)} that are not `ignored` by all raters, drawn plane by plane; empty where there is none."""
    planes = labels.shape[1]
    last = np.cumsum([np.count_nonzero((labels[:, z] != ignored).any(0)) for z in range(planes)])
    if not last[-1]:
        return {}
    ranks = np.unique(rng.integers(last[-1], size=LOCATIONS))
    out = []
    for z, chosen in enumerate(np.split(ranks, np.searchsorted(ranks, last[:-1]))):
        if len(chosen):
            inside = np.argwhere((labels[:, z] != ignored).any(0))[chosen - (last[z - 1] if z else 0)]
            out.append(np.column_stack([np.full(len(inside), z), inside]))
    return {0: np.concatenate(out).astype(np.int32)}


def _joined_boxes(labels: np.ndarray, count: int) -> list[tuple[slice, ...]]:
    """Around each index from 1 to `count` in `labels` (raters, z, y, x), all raters together; empty where there is none."""
    per_rater = [find_objects(label, count) for label in labels]
    out = []
    for found in zip(*per_rater, strict=True):
        boxes = [b for b in found if b is not None]
        out.append(tuple(slice(min((b[a].start for b in boxes), default=0), max((b[a].stop for b in boxes), default=0)) for a in range(3)))
    return out


def scores_to_indices(scores: np.ndarray, properties: Properties, plans: Plans, labels: LabelSpec) -> np.ndarray:
    """Scores on the preprocessed grid to a label map on the canonical grid, head by head: two volumes are held at a time.

    Args:
        scores: `(heads, z, y, x)` float32; the highest class wins, a region is present where its score is above 0.

    Returns:
        Indices (z, y, x) int16; background outside the crop.
    """
    heads = (resample_score(head, properties.cropped_shape, properties.separate_axis) for head in scores)
    out = np.zeros([properties.shape[a] for a in plans.transpose_forward], np.int16)
    out[slices(properties.box)] = labels.assign(heads)
    return np.ascontiguousarray(out.transpose(plans.transpose_backward))
