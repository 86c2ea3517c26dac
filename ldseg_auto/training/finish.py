"""After the last iteration: what the latent and the steps are worth, and the validation cases as the predictor predicts them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ldseg_auto.data.cases import evenly
from ldseg_auto.evaluation.coverage import coverage
from ldseg_auto.evaluation.intervals import fit_intervals
from ldseg_auto.evaluation.predicted_dice import FEWEST, PredictedDice, fit_file
from ldseg_auto.evaluation.predicted_dice import NAME as PREDICTED_DICE
from ldseg_auto.evaluation.report import without_nan
from ldseg_auto.files import read_json, write_json
from ldseg_auto.progress import Progress
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.patches import Patches, distance_curve, reconstruction_dice, step_curve
from ldseg_auto.training.prepare import Prepared, validation_patches
from ldseg_auto.training.pretrained import cases_seen
from ldseg_auto.training.ranks import ALONE, Ranks
from ldseg_auto.training.validation import pairs_of, validate_cases

logger = logging.getLogger(__name__)
FEW_SAMPLES, FEW_CASES = 4, 40  # of the validation cases, to learn what the agreement of samples says of Dice


def measure_method(prepared: Prepared, trainer: Trainer, patches: Patches) -> int:
    """steps.json and latent.json from the fixed patches, with the EMA weights; returns the steps for one sample."""
    labels, configuration, device = prepared.description.labels, prepared.configuration, trainer.fabric.device
    ranks = trainer.ranks
    model, direct, raters = trainer.ema.model, configuration.network.variant == "direct", len(prepared.description.raters)
    planned = 1 if direct else configuration.sampling.steps
    with trainer.fabric.autocast():
        curve = step_curve(model, patches, labels, planned, device, ranks)
        if raters > 1:
            by_rater = [validation_patches(prepared, rater) for rater in range(raters)]
            curve |= distance_curve(model, by_rater, labels, planned, device, ranks)
        rebuilt = {} if direct else reconstruction_dice(model, patches, labels, device, ranks)
    if ranks.first:
        write_json(trainer.folder / "steps.json", curve)
    if ranks.first and rebuilt:
        planned_dice, worst = planned_ceilings(prepared), configuration.latent.ceiling
        content = {"reconstruction": rebuilt, "ceilings": planned_dice, "ceiling": worst}
        write_json(trainer.folder / "latent.json", without_nan(content))
        shown = ", ".join(f"{name} {dice:.4f} ({planned_dice.get(name, math.nan):.4f})" for name, dice in rebuilt.items())
        logger.info("label autoencoder with the image switched off, Dice (planned ceiling): %s; worst class planned %.3f", shown, worst)
    return int(curve["chosen"])


def planned_ceilings(prepared: Prepared) -> dict[str, float]:
    """Class -> reconstruction Dice that the planner measured for the latent that is trained; empty where it did not.

    It is looked up in the fingerprint by the configuration (or the one that it inherits from) and its spacing: the patch has no part in it.
    """
    configuration, path = prepared.configuration, prepared.folder / "dataset_fingerprint.json"
    names, latent = (prepared.name, configuration.inherits_from), configuration.latent
    spacing = " x ".join(f"{s:.6g}" for s in configuration.spacing)
    grids = read_json(path).get("latent", {}) if path.exists() else {}
    like = [grids[key] for key in sorted(grids) if any(key.startswith(f"{name}: {spacing} mm,") for name in names)]
    measured = [c["ceilings"] for candidates in like for c in candidates if tuple(c["factor"]) == latent.factor]
    return next((curve[str(latent.channels)] for curve in measured if str(latent.channels) in curve), {})


def final_validation(prepared: Prepared, trainer: Trainer, steps: int, progress: Progress) -> None:
    """validation/summary.json and predicted_dice.json from whole cases with the EMA weights."""
    predict = partial(
        validate_cases, trainer.ema.model, folder=prepared.folder, plans=prepared.plans, configuration=prepared.configuration,
        labels=prepared.description.labels, device=trainer.fabric.device, seed=trainer.seed, progress=progress,
        ranks=trainer.ranks,
    )  # fmt: skip
    summary = predict(identifiers=prepared.validation, steps=steps)
    if trainer.ranks.first:
        write_json(trainer.folder / "validation" / "summary.json", without_nan(summary))
        logger.info("validation: mean Dice %s, per class %s", summary["mean"], summary["per_class"])
    fits = fit_predicted_dice(prepared, trainer.folder, summary, predict, trainer.ranks)
    if not trainer.ranks.first:
        return
    fits.save(trainer.folder / PREDICTED_DICE)
    named = (("one sample", fits.single), ("several samples", fits.several))
    logger.info("predicted Dice: %s", "; ".join(f"{name}: {fit.sentence}" for name, fit in named if fit) or fits.note)
    for samples in (1,) if fits.equal_samples or not fits.coverage else (1, FEW_SAMPLES):
        logger.info("volumes of %s: %s", "one sample" if samples == 1 else f"{samples} samples", fits.words_of_volumes(samples))


def fit_predicted_dice(
    prepared: Prepared, folder: Path, summary: dict[str, Any], predict: Callable[..., dict[str, Any]], ranks: Ranks = ALONE
) -> PredictedDice:
    """From the validation cases that training has not seen; for several samples some of them are predicted once more.

    Args:
        folder: of the fold, with steps.json.
        summary: of the validation cases with one sample (validation.validate_cases).
        predict: that function, but for `identifiers`, `steps` and `samples`; `ranks` share its work.
    """
    known = [sorted(cases_seen(folder)), read_json(folder / "steps.json").get("chosen_for_samples")] if ranks.first else None
    seen, steps = ranks.told(known)
    unseen = sorted(set(prepared.validation) - set(prepared.train) - set(seen))
    if not unseen:
        return PredictedDice(None, None, "the validation cases were trained on: their Dice says nothing of other cases.")
    single = [pair for pair in pairs_of(summary) if pair.case in unseen]
    volumes = fit_intervals({case: found for case, found in summary["volumes"].items() if case in unseen})
    if prepared.configuration.network.variant == "direct":
        return replace(fit_file(single, None), single_volumes=volumes)
    if len(single) < FEWEST:
        return replace(fit_file(single, single), single_volumes=volumes)
    steps = steps or prepared.configuration.sampling.steps
    chosen = evenly(unseen, FEW_CASES)
    several = predict(identifiers=chosen, steps=steps, samples=FEW_SAMPLES)
    fits, spans = fit_file(single, pairs_of(several)), several["volumes"]
    return replace(fits, coverage=coverage(spans, FEW_SAMPLES), single_volumes=volumes, several_volumes=fit_intervals(spans))
