"""Validation: fixed patches each epoch, whole cases at the end, and the curve over sampling steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

NEAR_BEST = 0.001  # Dice: the fewest steps within this of the best are chosen (design.md 4)
Patches = Sequence[tuple[torch.Tensor, torch.Tensor]]


@torch.inference_mode()
def patch_dice(model: LDSeg, patches: Patches, labels: LabelSpec, steps: int, device: torch.device) -> np.ndarray:
    """Pseudo-Dice per foreground head: overlaps summed over all patches as if they were one image; NaN where a class is absent.

    Args:
        patches: `(image (b, c, *patch), label (b, *patch))`; noise is fixed by the patch's number.
    """
    counts = np.zeros((3, len(labels.foreground_names)))
    table = torch.from_numpy(labels.table)
    first = 0 if labels.has_regions else 1
    for i, (image, label) in enumerate(patches):
        draw = _noise(i, (len(image), *model.latent_shape(tuple(image.shape[2:]))), device)
        logits = model.predict(image.to(device), draw(-1), steps, draw).cpu()
        predicted = (logits > 0) if labels.has_regions else table[logits.argmax(1)].movedim(-1, 1) > 0
        true, predicted = table[label].movedim(-1, 1)[:, first:] > 0, predicted[:, first:]
        valid = (label != labels.ignore_index)[:, None] if labels.ignore_index is not None else torch.ones_like(true[:, :1])
        axes = (0, *range(2, true.ndim))
        for row, mask in enumerate((true & predicted, true, predicted)):
            counts[row] += (mask & valid).sum(axes).numpy()
    with np.errstate(invalid="ignore"):
        return 2 * counts[0] / (counts[1] + counts[2])


def _noise(seed: int, shape: tuple[int, ...], device: torch.device) -> Callable[[int], torch.Tensor]:
    """Standard normal noise of `shape` for the start (-1) and each step, drawn in the order of the calls."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(shape, generator=generator).to(device)


def step_curve(model: LDSeg, patches: Patches, labels: LabelSpec, planned: int, device: torch.device) -> dict[str, Any]:
    """Mean Dice over 1, 2, 4, ... planned steps, and the fewest steps within 0.1 Dice points of the best."""
    counts = sorted({min(2**i, planned) for i in range(planned.bit_length() + 1)})
    curve = {n: mean_dice(patch_dice(model, patches, labels, n, device)) for n in counts}
    best = max(curve.values())
    return {"dice": {str(n): d for n, d in curve.items()}, "chosen": next(n for n in counts if curve[n] >= best - NEAR_BEST)}


def mean_dice(per_class: np.ndarray) -> float:
    """Mean over the classes that are there; 0 when none is."""
    present = per_class[~np.isnan(per_class)]
    return float(present.mean()) if len(present) else 0.0


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
