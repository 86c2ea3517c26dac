"""Validation on whole cases at the end of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.inference.window import SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.preprocessing.case import scores_to_indices
from ldseg_auto.preprocessing.store import load_case, load_reference
from ldseg_auto.progress import Progress, silent


def validate_cases(
    model: LDSeg, identifiers: Sequence[str], folder: Path, plans: Plans, configuration: Configuration, labels: LabelSpec,
    steps: int, device: torch.device, seed: int, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Predicts whole cases on their own grid and compares with every rater.

    Args:
        folder: preprocessed/DatasetXXX_Name.

    Returns:
        `{"mean": Dice or None, "per_class": {...}, "cases": {identifier: {rater: {class: metrics}}}}`.
    """
    window = SlidingWindow(configuration, device, configuration.inference.tile_batch)
    cases: dict[str, Any] = {}
    for identifier in progress(identifiers, "validation", total=len(identifiers)):
        case = load_case(folder / configuration.data_identifier, identifier)
        scores = window.probabilities([model], case.image[:], identifier, seed, steps, 1, labels.has_regions)
        predicted = scores_to_indices(scores - 0.5 if labels.has_regions else scores, case.properties, plans, labels)
        reference, spacing = load_reference(folder / "gt_segmentations", identifier)
        cases[identifier] = {str(r): evaluate_case(reference[r], predicted, labels, spacing, surface=False) for r in range(len(reference))}
    return {**_summary(cases, labels), "steps": steps, "cases": cases}


def _summary(cases: dict[str, Any], labels: LabelSpec) -> dict[str, Any]:
    per_class: dict[str, float | None] = {}
    for name in labels.foreground_names:
        values = [raters[r][name]["dice"] for raters in cases.values() for r in raters]
        values = [v for v in values if v is not None and v == v]
        per_class[name] = float(np.mean(values)) if values else None
    present = [v for v in per_class.values() if v is not None]
    raters = sorted({r for case in cases.values() for r in case})
    return {
        "mean": float(np.mean(present)) if present else None,
        "per_class": per_class,
        "per_rater": {r: _rater_mean(cases, r) for r in raters},
    }


def _rater_mean(cases: dict[str, Any], rater: str) -> float | None:
    values = [
        m["dice"] for case in cases.values() for m in case.get(rater, {}).values() if m["dice"] is not None and m["dice"] == m["dice"]
    ]
    return float(np.mean(values)) if values else None
