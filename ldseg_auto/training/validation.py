"""Validation on whole cases at the end of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.evaluation.predicted_dice import Evidence, Pair
from ldseg_auto.inference.case_score import CaseScore, voxel_size
from ldseg_auto.inference.export import Export, Maps, stream_of
from ldseg_auto.inference.fallback import Way, adapted, within_memory
from ldseg_auto.inference.noise import sample_numbers
from ldseg_auto.inference.prediction import Wanted
from ldseg_auto.inference.window import Draws, SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.preprocessing.store import Properties, StoredCase, load_case, load_reference
from ldseg_auto.progress import Progress, silent
from ldseg_auto.training.ranks import ALONE, Ranks


def validate_cases(
    model: LDSeg, identifiers: Sequence[str], folder: Path, plans: Plans, configuration: Configuration, labels: LabelSpec,
    steps: int, device: torch.device, seed: int, progress: Progress = silent, samples: int = 1,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Predicts whole cases on their own grid, as the predictor does, and compares with every rater.

    Args:
        folder: preprocessed/DatasetXXX_Name.
        samples: per case, averaged.
        ranks: share the cases; each gets the whole result.

    Returns:
        `{"mean": Dice or None, "per_class": {...}, "cases": {identifier: {rater: {class: metrics}}}, "evidence": {identifier: what the
        prediction says of itself}, "volumes": {identifier: {class: [[low, high, reference] for each rater]}}}`; volumes are in ml (mm2 in
        2D), and left out where voxels are to be ignored, on which a reference has no volume.
    """
    window = SlidingWindow(configuration, device, configuration.inference.tile_batch)
    cases: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    spans: dict[str, Any] = {}
    numbers = tuple(sample_numbers(configuration, steps, samples))
    mine = [identifiers[i] for i in ranks.mine(len(identifiers))]
    for identifier in progress(mine, "validation", total=len(mine)):
        case = load_case(folder / configuration.data_identifier, identifier)
        draws = Draws(identifier, seed, steps, numbers, labels.has_regions)

        def attempt(way: Way, case: StoredCase = case, draws: Draws = draws) -> Maps:
            models, its_window = adapted(way, [model], window, configuration)
            return _export(its_window.planes(models, case.image[:], draws), case.properties, plans, labels, samples)

        maps, _ = within_memory([window], identifier, attempt)
        reference, spacing = load_reference(folder / "gt_segmentations", identifier)
        who = case.properties.raters or range(len(reference))
        cases[identifier] = {
            str(r): evaluate_case(drawn, maps.indices, labels, spacing, surface=False) for r, drawn in zip(who, reference, strict=True)
        }
        evidence[identifier] = asdict(maps.score.evidence)
        if labels.ignore_index is None:
            spans[identifier] = _spans(maps.score, cases[identifier], voxel_size(spacing)[0])
    parts = ranks.gathered([cases, evidence, spans])
    cases, evidence, spans = ({name: part[k][name] for name in identifiers for part in parts if name in part[k]} for k in range(3))
    return {**_summary(cases, labels), "steps": steps, "evidence": evidence, "volumes": spans, "cases": cases}


def _spans(score: CaseScore, raters: dict[str, Any], voxel: float) -> dict[str, list[list[float]]]:
    """Class -> low and high of the draws' volumes, and the reference's, for each rater; `voxel`: its size in the score's unit."""
    return {
        name: [[v.low, v.high, table[name]["n_reference"] * voxel] for table in raters.values()] for name, v in score.volumes.items()
    }  # fmt: skip


def _export(planes: Iterator[np.ndarray], properties: Properties, plans: Plans, labels: LabelSpec, samples: int) -> Maps:
    """Label indices and score of the probabilities `(samples, heads, planes, y, x)`, some planes at a time."""
    stream = stream_of(planes, samples, labels, properties)
    return Export(labels, properties, plans.transpose_forward, samples, Wanted()).run([stream])


def pairs_of(summary: dict[str, Any]) -> list[Pair]:
    """What each case's prediction says of itself, with its Dice: mean over the classes that have one, and over raters.

    Cases without any are left out: neither the prediction nor a rater has a class there.
    """
    found = {case: _rater_mean({case: raters}, None) for case, raters in summary["cases"].items()}
    return [Pair(case, Evidence(**summary["evidence"][case]), dice) for case, dice in found.items() if dice is not None]


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


def _rater_mean(cases: dict[str, Any], rater: str | None) -> float | None:
    """Mean Dice over cases and classes of one rater, or of all."""
    tables = [table for case in cases.values() for r, table in case.items() if rater in (r, None)]
    values = [m["dice"] for table in tables for m in table.values() if m["dice"] is not None and m["dice"] == m["dice"]]
    return float(np.mean(values)) if values else None
