"""Calibration of probabilities: does a confidence of 0.9 mean that 90 % of such voxels are right?

Most voxels of a medical image are background that every model gets right with confidence 1. They swamp the figure: over whole images every
model looks calibrated. Use `near_foreground` to look at the voxels where a decision is made, and say with which margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.metrics import bounding_box

SUM_TOLERANCE = 0.01  # of probabilities over classes: half precision passes, sigmoids of regions do not


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram over equal-width bins of confidence. `a + b` is that of both sets of voxels together."""

    confidence: np.ndarray
    """mean confidence of each bin `(bins,)`; NaN for an empty bin."""
    accuracy: np.ndarray
    """share of right voxels in each bin `(bins,)`; NaN for an empty bin."""
    count: np.ndarray
    """voxels in each bin `(bins,)`."""

    def __post_init__(self) -> None:
        shapes = [self.confidence.shape, self.accuracy.shape, self.count.shape]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise InputError(f"confidence, accuracy and count have shapes {shapes}: expected three times (bins,).")

    @property
    def ece(self) -> float:
        """Expected calibration error, sum over bins of count / N |accuracy - confidence| (Guo et al. 2017, eq. 3); NaN without voxels."""
        gap = self._gaps()
        return float(np.average(gap, weights=self.count[self.count > 0])) if len(gap) else math.nan

    @property
    def mce(self) -> float:
        """Maximum calibration error, the largest |accuracy - confidence| of a bin (Guo et al. 2017, eq. 5); NaN without voxels.

        A bin of one voxel weighs as much as any other.
        """
        gap = self._gaps()
        return float(gap.max()) if len(gap) else math.nan

    def __add__(self, other: Reliability) -> Reliability:
        """Both sets of voxels in one diagram, so that cases add up without holding their voxels.

        Raises:
            InputError: the numbers of bins differ.
        """
        if not isinstance(other, Reliability):
            return NotImplemented
        if len(self.count) != len(other.count):
            raise InputError(f"reliabilities of {len(self.count)} and {len(other.count)} bins cannot be added: use equal bins.")
        (confidence, right), (confidence_other, right_other) = self._sums(), other._sums()
        return _of_sums(confidence + confidence_other, right + right_other, self.count + other.count)

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum of the confidences and number of right voxels of each bin, both `(bins,)`."""
        return np.nan_to_num(self.confidence) * self.count, np.nan_to_num(self.accuracy) * self.count

    def _gaps(self) -> np.ndarray:
        """|accuracy - confidence| of the bins that hold voxels."""
        return np.abs(self.accuracy - self.confidence)[self.count > 0]


def reliability(probabilities: np.ndarray, label: np.ndarray, bins: int = 15, mask: np.ndarray | None = None) -> Reliability:
    """Reliability of the most probable class (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2).

    Bin m of M holds confidences in ((m - 1) / M, m / M].

    Args:
        probabilities: softmax over classes with background `(classes, *spatial)`.
        label: class of each voxel `(*spatial)`, integers.
        bins: number of bins of equal width on [0, 1].
        mask: bool `(*spatial)`, the voxels that count (`near_foreground`, without ignored voxels); all by default.

    Raises:
        InputError: shapes or bins do not fit, probabilities do not sum to 1, or the label holds undeclared classes where the mask is true.
    """
    if probabilities.shape[1:] != label.shape or probabilities.ndim < 2:
        raise InputError(f"probabilities {probabilities.shape} and label {label.shape}: expected (classes, *spatial) and (*spatial).")
    if bins < 1:
        raise InputError(f"bins is {bins}: expected 1 or more.")
    if mask is not None and (mask.shape != label.shape or mask.dtype != bool):
        raise InputError(f"mask is {mask.dtype} {mask.shape}: expected bool of the label's shape {label.shape}.")
    keep = np.ones(label.shape, bool) if mask is None else mask
    chosen, truth = probabilities[:, keep], label[keep]
    _check_values(chosen, truth)
    return reliability_of(chosen.max(0), chosen.argmax(0) == truth, bins)


def reliability_of(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Reliability:
    """The same from each voxel's confidence in [0, 1] and whether it is right, both `(n,)`: no probabilities of all classes are held."""
    confidence = confidence.astype(float)
    position = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    sums, hits = np.bincount(position, confidence, bins), np.bincount(position, right, bins)
    return _of_sums(sums, hits, np.bincount(position, minlength=bins))


def near_foreground(predicted: np.ndarray, reference: np.ndarray, margin: int) -> np.ndarray:
    """Voxels of either foreground, or within `margin` steps between face neighbours of it.

    Args:
        predicted, reference: label maps or bool masks `(*spatial)`; foreground is what is not 0, so set ignored voxels to 0 first.
        margin: steps of the dilation, 0 or more.

    Returns:
        bool `(*spatial)`.

    Raises:
        InputError: the shapes differ, or the margin is negative.
    """
    if predicted.shape != reference.shape:
        raise InputError(f"predicted {predicted.shape} and reference {reference.shape} must have one shape (*spatial).")
    if margin < 0:
        raise InputError(f"margin is {margin}: expected 0 or more voxels.")
    union = (predicted != 0) | (reference != 0)
    if margin and union.any():  # scipy takes 0 iterations as "until nothing changes"
        box = bounding_box(union, margin)
        union[box] = ndimage.binary_dilation(union[box], iterations=margin)
    return union


def _of_sums(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> Reliability:
    """Means per bin from sums per bin, all `(bins,)`."""
    with np.errstate(invalid="ignore"):
        return Reliability(confidence / count, accuracy / count, count)


def _check_values(probabilities: np.ndarray, label: np.ndarray) -> None:
    """Refuses `(classes, n)` that is no softmax and `(n,)` with classes beyond it."""
    if not label.size:
        return
    low, error = float(probabilities.min()), float(np.abs(probabilities.sum(0, dtype=float) - 1).max())
    if not (low >= 0 and error <= SUM_TOLERANCE):
        raise InputError(f"probabilities reach down to {low:.3g} and miss a sum of 1 by up to {error:.3g}: expected a softmax.")
    if label.min() < 0 or label.max() >= len(probabilities):
        highest = len(probabilities) - 1
        raise InputError(f"label holds {label.min()} to {label.max()}: expected 0 to {highest}. Take the ignore label out by the mask.")
