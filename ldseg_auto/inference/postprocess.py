"""Post-processing: connected components of a label map that are left out because they are small, or not the largest.

Rules are what inference.json holds (recipe.py); `ldseg_find_best` chooses them. Neighbours share a face, an edge or a corner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.inference.case_score import CaseScore, voxel_size
from ldseg_auto.planners.serialise import require

LARGEST, SMALLEST = "largest_component", "minimum_size"
ROUNDING = 1e-9  # relative, of sizes


@dataclass(frozen=True)
class Rule:
    """Which components of a class stay.

    Raises:
        RuleBroken: an unknown kind, or a size that does not belong to it.
    """

    kind: str
    """largest_component: the largest one, the first of equals; minimum_size: those of `size` and above."""
    of: str | None = None
    """a class or region; None for all foreground together, whatever its class."""
    size: float = 0.0
    """ml; mm2 for a 2D image (pixels where it has no spacing)."""

    def __post_init__(self) -> None:
        require(self.kind in (LARGEST, SMALLEST), "kind", self.kind, f"{LARGEST} or {SMALLEST}")
        sized = 0 < self.size < math.inf if self.kind == SMALLEST else self.size == 0
        require(sized, "size", self.size, f"above 0 for {SMALLEST}, and 0 for {LARGEST}")

    def words(self, unit: str) -> str:
        """For people; `unit` of the size."""
        name = "all foreground" if self.of is None else self.of
        return f"largest component of {name}" if self.kind == LARGEST else f"components of {name} from {self.size:g} {unit} on"


@dataclass(frozen=True, eq=False)
class Components:
    """Connected components of a mask."""

    numbers: np.ndarray  # (*box) int32, 0 outside the mask
    box: tuple[slice, ...]
    sizes: np.ndarray  # (n,) voxels of components 1, 2, ... n


def components(mask: np.ndarray) -> Components:
    """Of a bool mask (z, y, x); takes 4 bytes for each voxel of the mask's bounding box."""
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        return Components(np.zeros((0,) * mask.ndim, np.int32), (slice(0, 0),) * mask.ndim, np.zeros(0, np.int64))
    numbers, count = ndimage.label(mask[found[0]], np.ones((3,) * mask.ndim))
    return Components(numbers, found[0], _count(numbers, count + 1)[1:])


def _count(values: np.ndarray, n: int) -> np.ndarray:
    """How often each of 0 ... n - 1 occurs, `(n,)`; plane by plane, for numpy counts in 8 bytes per voxel."""
    return np.sum([np.bincount(plane.ravel(), minlength=n) for plane in values], axis=0)


def kept(rule: Rule, sizes: np.ndarray) -> np.ndarray:
    """Which components stay `(n,)`, of their sizes `(n,)` in the unit of the rule."""
    if rule.kind == SMALLEST:
        return sizes >= rule.size * (1 - ROUNDING)
    return np.arange(len(sizes)) == (int(np.argmax(sizes)) if len(sizes) else 0)


def member_mask(indices: np.ndarray, labels: LabelSpec, name: str | None) -> np.ndarray:
    """Bool mask of a class or region of label indices; None is all foreground.

    Raises:
        KeyError: no such class.
    """
    if name is None:
        return indices > 0
    mask = np.zeros(indices.shape, bool)
    for index in np.flatnonzero(labels.table[:, _head(labels, name)]):
        mask |= indices == index
    return mask


def clean(indices: np.ndarray, labels: LabelSpec, spacing: Sequence[float], rules: Sequence[Rule]) -> np.ndarray:
    """Label indices `(z, y, x)` after the rules, one after the other; the input stays as it is.

    A voxel that leaves a class becomes background. One that leaves a region becomes what the regions painted before it give it: the core of
    a tumour becomes the tumour around it.

    Args:
        spacing: mm (z, y, x), of canonical axes.
        rules: their classes are those of `labels`.
    """
    out, (voxel, _) = indices, voxel_size(spacing)
    for rule in rules:
        found = components(member_mask(out, labels, rule.of))
        gone = np.concatenate([[False], ~kept(rule, found.sizes * voxel)])
        if gone.any():
            out, instead = out.copy() if out is indices else out, _without(labels, rule.of)
            for numbers, plane in zip(found.numbers, out[found.box], strict=True):
                leaves = gone[numbers]
                plane[leaves] = instead[plane[leaves]]
    return out


def with_mask(score: CaseScore, indices: np.ndarray, labels: LabelSpec, spacing: Sequence[float]) -> CaseScore:
    """The score with the sizes of another label map `(z, y, x)`; what comes from draws and probabilities stays.

    The predicted Dice was learnt from label maps as the network gives them: complete the score before.
    """
    voxel, _ = voxel_size(spacing)
    counts = _count(indices, len(labels.table))
    counts[0] = 0
    masks = {name: float((labels.table[:, _head(labels, name)] > 0) @ counts * voxel) for name in score.volumes}
    volumes = {name: replace(volume, mask=masks[name]) for name, volume in score.volumes.items()}
    return replace(score, volumes=volumes, foreground=float(counts.sum() * voxel))


def check_rules(rules: Sequence[Rule], labels: LabelSpec) -> str | None:
    """The first class that the rules name and the labels lack; None where there is none."""
    return next((rule.of for rule in rules if rule.of is not None and rule.of not in labels.foreground_names), None)


def _head(labels: LabelSpec, name: str) -> int:
    """Column of the label table."""
    if name not in labels.foreground_names:
        raise KeyError(name)
    return labels.foreground_names.index(name) + (not labels.has_regions)


def _without(labels: LabelSpec, name: str | None) -> np.ndarray:
    """What each label index becomes without a class or region, `(indices,)` int16."""
    out = np.zeros(len(labels.table), np.int16)
    if name is None or not labels.has_regions:
        return out
    region = _head(labels, name)
    for head in range(region):
        painted = labels.values.index(labels.paint[head])
        if not labels.table[painted, region]:
            out[labels.table[:, head] > 0] = painted
    return out
