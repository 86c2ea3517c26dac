"""Metrics of a case, class by class (or region by region), and their means over cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.metrics import bounding_box, overlap, surface_metrics, volumes

SCORES = ("dice", "iou", "hd95", "nsd")  # the metrics that have a mean; the others are counts and volumes
CaseMetrics = Mapping[str, Mapping[str, float]]  # class -> metric -> value


def evaluate_case(
    reference: np.ndarray, predicted: np.ndarray, labels: LabelSpec, spacing: Sequence[float], surface: bool = True, tolerance: float = 1.0
) -> dict[str, dict[str, float]]:
    """Compares two label maps; voxels whose reference is the ignore label count for neither.

    Args:
        reference, predicted: label indices `(z, y, x)`, as LabelSpec.encode gives them.
        spacing: mm `(z, y, x)`.
        surface: whether to measure HD95 and NSD, which take most of the time.
        tolerance: of NSD, in mm (in pixels for natural 2D images).

    Returns:
        For each class or region: `dice, iou, tp, fp, fn, n_reference, n_predicted, volume_reference_ml, volume_predicted_ml` and, with
        `surface`, `hd95, nsd`. What has no value is NaN; a distance to nothing is infinite (see metrics.py).

    Raises:
        InputError: the two shapes differ.
    """
    if reference.shape != predicted.shape:
        raise InputError(f"the prediction has shape {predicted.shape} and the reference {reference.shape} (z, y, x): they must be equal.")
    if labels.ignore_index is not None:
        keep = reference != labels.ignore_index
        reference, predicted = np.where(keep, reference, 0), np.where(keep, predicted, 0)
    # A margin of one, so that no axis shrinks to one voxel, which would count as a 2D image.
    box = bounding_box((reference > 0) | (predicted > 0), margin=1)
    reference, predicted = reference[box], predicted[box]
    members = labels.table.T > 0 if labels.has_regions else labels.table.T[1:] > 0
    counts = confusion(reference, predicted, members.shape[1])
    out = {}
    for name, member in zip(labels.foreground_names, members, strict=True):
        tp, n_reference, n_predicted = (int(n) for n in (member @ counts @ member, member @ counts.sum(1), member @ counts.sum(0)))
        out[name] = overlap(tp, n_reference, n_predicted) | volumes(n_reference, n_predicted, spacing)
        if surface:
            out[name] |= surface_metrics(member[reference], member[predicted], spacing, tolerance)
    return out


def confusion(reference: np.ndarray, predicted: np.ndarray, n: int) -> np.ndarray:
    """Voxels of each pair of indices `(n, n)`: rows the reference's, columns the prediction's."""
    pairs = reference.astype(np.int64).ravel() * n + predicted.ravel()
    return np.bincount(pairs, minlength=n * n).reshape(n, n)


def summarise(cases: Mapping[str, CaseMetrics], names: Sequence[str]) -> dict[str, Any]:
    """Means over cases and classes.

    Args:
        cases: case -> class -> metric -> value.
        names: the classes or regions.

    Returns:
        `per_class`: class -> metric -> `{"mean", "n"}` over the cases where it is finite, `hd95` with `n_infinite` beside them;
        `foreground_mean`: metric -> mean of the class means; `cases` as given. A mean of nothing is NaN.
    """
    per_class = {name: {m: _mean([case[name][m] for case in cases.values()]) for m in SCORES} for name in names}
    for name in names:
        per_class[name]["hd95"]["n_infinite"] = sum(math.isinf(case[name]["hd95"]) for case in cases.values())
    foreground = {m: _mean([per_class[name][m]["mean"] for name in names])["mean"] for m in SCORES}
    return {"foreground_mean": foreground, "per_class": per_class, "cases": dict(cases)}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    finite = [v for v in values if math.isfinite(v)]
    return {"mean": sum(finite) / len(finite) if finite else math.nan, "n": len(finite)}
