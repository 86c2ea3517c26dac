"""One slice through an image and its label maps, as radiologists see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import best_slice


@dataclass(frozen=True, eq=False)
class Cut:
    """A slice: patient's right on the left, superior or anterior at the top."""

    image: np.ndarray
    """(c, rows, columns)."""
    masks: tuple[np.ndarray, ...]
    """label indices (rows, columns)."""
    extent: tuple[float, float]
    """mm, height and width."""
    axis: int
    """that it lies across: 0 z, 1 y, 2 x."""
    index: int
    """of the slice, from 0."""
    count: int
    """slices along that axis."""


def cut(image: np.ndarray, masks: Sequence[np.ndarray], spacing: Sequence[float], labels: LabelSpec) -> Cut:
    """The slice across the coarsest axis that shows most of all classes of the first mask, or of the next one where that is empty.

    Args:
        image: canonical `(c, z, y, x)`.
        masks: label indices `(z, y, x)`, one or more.
        spacing: mm `(z, y, x)`.
    """
    shown = next((m for m in masks if ((m > 0) & (m != labels.ignore_index)).any()), masks[0])
    axis, index = best_slice(shown, spacing, labels)
    rows, columns = (a for a in range(3) if a != axis)
    up = slice(None, None, -1 if rows == 0 else 1)  # z grows towards superior, pictures downwards
    extent = image.shape[rows + 1] * spacing[rows], image.shape[columns + 1] * spacing[columns]
    flat = tuple(m.take(index, axis)[up] for m in masks)
    return Cut(image.take(index, axis + 1)[:, up], flat, extent, axis, index, image.shape[axis + 1])
