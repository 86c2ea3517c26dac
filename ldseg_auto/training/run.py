"""One fold from the preprocessed folder to the model folder."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

import ldseg_auto
from ldseg_auto.data.dataset import Description
from ldseg_auto.data.splits import fold_cases
from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.evaluation.predicted_dice import FEWEST, PredictedDice, fit_file
from ldseg_auto.evaluation.predicted_dice import NAME as PREDICTED_DICE
from ldseg_auto.evaluation.report import without_nan
from ldseg_auto.files import read_json, write_json, write_text
from ldseg_auto.inference.device import choose_device, training_precision
from ldseg_auto.planners.overrides import override
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.preprocessing.settings import settings_hash
from ldseg_auto.progress import Progress, silent
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.loop import Limits, Trainer
from ldseg_auto.training.patches import Patches, distance_curve, reconstruction_dice, step_curve
from ldseg_auto.training.validation import pairs_of, validate_cases

logger = logging.getLogger(__name__)
FEW_SAMPLES, FEW_CASES = 4, 40  # of the validation cases, to learn what the agreement of samples says of Dice
EPOCHS_IN_SHORT_RUN = 20  # --iterations is cut into at least so many epochs
PREPROCESSED = ("data_identifier", "spacing", "normalisation", "use_mask_for_norm", "resampling")  # decided before training
RECORDS = ("median_shape", "prediction_memory_gib", "raters", "memory_gib", "reasons")  # of planning; training does not read them


@dataclass(frozen=True)
class Prepared:
    """A preprocessed dataset, as training reads it."""

    folder: Path
    plans: Plans
    name: str
    description: Description
    train: list[str]
    validation: list[str]

    @property
    def configuration(self) -> Configuration:
        """The one to train."""
        return self.plans.configurations[self.name]


def train_fold(
    preprocessed: Path, results: Path, fold: int | str, *, configuration: str | None = None, settings: Sequence[str] = (),
    epochs: int | None = None, iterations: int | None = None, time_budget: float | None = None, resume: bool = False,
    device: str = "auto", seed: int = 0, plans_name: str = "ldsegPlans", validate: bool = True, progress: Progress = silent,
) -> Path:  # fmt: skip
    """Trains, validates and leaves a complete model folder.

    Args:
        preprocessed: preprocessed/DatasetXXX_Name.
        results: the results root.
        fold: 0 ... or "all".
        configuration: None takes the plans' default.
        settings: `path=value` overrides; the plans saved with the model hold them.
        epochs, iterations: length of training, one or the other; None takes the plans'.
        time_budget: seconds of training at most, its validation of patches included; the learning rate then anneals over it.
        resume: continue from the last checkpoint with its seed; a finished training goes on where the length is now larger, else
            only its validation is done again.
        validate: predict the fold's validation cases at the end; without, only their patches are looked at.
        seed: of weights, patches and noise.

    Returns:
        The fold's folder.

    Raises:
        InputError: not preprocessed, fold out of range, impossible length, nothing to continue, or trained before.
        ModelError: the model folder holds folds of other plans, or the checkpoint to continue from is damaged.
        LdsegError: the loss is not finite, or a process that makes batches died.
    """
    _check_arguments(epochs, iterations, time_budget, seed)
    chosen = choose_device(device)
    prepared = prepare(preprocessed, fold, configuration, plans_name, _with_lengths(settings, epochs, iterations))
    folder = results / preprocessed.name / f"{plans_name}__{prepared.name}" / f"fold_{fold}"
    last = _last_checkpoint(folder, resume)
    _check_siblings(folder.parent, prepared)
    trainer = _trainer(prepared, folder, chosen, seed)
    if last:
        trainer.resume(last)
    _write_record(folder, prepared, fold, trainer.seed, chosen)
    plan = prepared.configuration.training
    limits = Limits(iterations or plan.epochs * plan.iterations_per_epoch, time_budget)
    patches = validation_patches(prepared)
    trainer.fit(_batches(prepared, trainer.seed, limits.iterations), patches, statistics_patches(prepared), limits, progress)
    chosen_steps = _measure_method(prepared, trainer, patches)
    if validate:
        _final_validation(prepared, trainer, chosen_steps, progress)
    return folder


def _check_arguments(epochs: int | None, iterations: int | None, time_budget: float | None, seed: int) -> None:
    if epochs is not None and iterations is not None:
        raise InputError(f"--epochs {epochs} and --iterations {iterations} both set the length: give one of them.")
    if iterations is not None and iterations < 1:
        raise InputError(f"--iterations {iterations}: expected 1 or more.")
    if time_budget is not None and not 0 < time_budget < math.inf:
        raise InputError(f"--time-budget {time_budget}: expected more than 0 seconds.")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more.")


def _last_checkpoint(folder: Path, resume: bool) -> Path | None:
    """The checkpoint to continue from; None for a new training, which never replaces one that is there."""
    there = [p for p in (folder / f"checkpoint_{n}.pth" for n in ("final", "latest")) if p.exists()]
    if resume and not there:
        raise InputError(f"--continue: {folder} holds no checkpoint to continue from. Start without --continue.")
    if there and not resume:
        what = "a finished training" if there[0].name == "checkpoint_final.pth" else "an unfinished training"
        raise InputError(f"{folder} holds {what}. Move it away to train anew, or use --continue to go on with it.")
    return there[0] if resume else None


def prepare(preprocessed: Path, fold: int | str, configuration: str | None, plans_name: str, settings: Sequence[str]) -> Prepared:
    """Reads plans, splits and dataset.json; applies the settings.

    Raises:
        InputError: something is missing (and the command that makes it), or not all cases of the fold are preprocessed.
    """
    path = preprocessed / f"{plans_name}.json"
    if not path.exists():
        raise InputError(f"{path} does not exist. Run ldseg_plan_and_preprocess for this dataset first.")
    plans = Plans.load(path)
    name = configuration or plans.default_configuration
    planned = plans.configuration(name)
    changed = override(planned, settings, name)
    changed = replace(changed, method=changed.method.fixed(changed.network.variant, changed.raters))
    if any(getattr(changed, key) != getattr(planned, key) for key in RECORDS) or changed.latent.ceiling != planned.latent.ceiling:
        names = f"{', '.join(RECORDS)} or latent.ceiling"
        raise InputError(f"--set of {names} has no effect: they record how the plans came about. Leave it out.")
    for key in PREPROCESSED:
        if getattr(changed, key) != getattr(planned, key):
            raise InputError(
                f"--set {key}: the cases are preprocessed with {getattr(planned, key)!r}, training cannot change that. Plan again."
            )
    plans = replace(plans, configurations={**plans.configurations, name: changed}, default_configuration=name)
    split = fold_cases(_read_splits(preprocessed / "splits_final.json"), fold)
    train, validation = split["train"], split["val"]
    description = Description.from_dict(read_json(preprocessed / "dataset.json"), str(preprocessed / "dataset.json"))
    advice = f"Run ldseg_plan_and_preprocess -c {name}" + ("." if plans_name == "ldsegPlans" else f" -p {plans_name}.")
    _check_data(preprocessed, plans, path, advice)
    settings_of_cases = settings_hash(plans, changed, description)
    missing = [c for c in (*train, *validation) if not _is_preprocessed(preprocessed / changed.data_identifier, c, settings_of_cases)]
    if missing:
        raise InputError(f"{len(missing)} cases of fold {fold} are not preprocessed for {name} (first: {missing[0]}). {advice}")
    return Prepared(preprocessed, plans, name, description, list(train), list(validation))


def _check_data(preprocessed: Path, plans: Plans, path: Path, advice: str) -> None:
    """Raises InputError where the plans are of other data than the preprocessed folder's."""
    fingerprint = preprocessed / "dataset_fingerprint.json"
    there = read_json(fingerprint).get("data_hash") if fingerprint.exists() else None
    if there not in (None, plans.fingerprint_hash):
        what = f"{path} is of other data (fingerprint {plans.fingerprint_hash[:12]}) than {fingerprint} ({str(there)[:12]})"
        raise InputError(f"{what}. {advice}")


def _is_preprocessed(folder: Path, identifier: str, settings: str) -> bool:
    """Whether the case is finished, and was made with these settings (a case that does not say is taken as it is)."""
    if not (folder / f"{identifier}.json").exists():
        return False
    return read_json(folder / f"{identifier}.json").get("settings_hash") in (None, "", settings)


def _read_splits(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run ldseg_plan_and_preprocess for this dataset.") from None
    except ValueError as cause:
        raise InputError(f"{path} is not valid JSON: {cause}. Correct it, or delete it and run ldseg_plan_and_preprocess.") from None


def _with_lengths(settings: Sequence[str], epochs: int | None, iterations: int | None) -> list[str]:
    """--epochs and --iterations as settings, so that the saved plans hold them; raises InputError where a setting says otherwise."""
    out = list(settings)
    flag = f"--epochs {epochs}" if iterations is None else f"--iterations {iterations}"
    own = ("epochs",) if iterations is None else ("epochs", "iterations_per_epoch")
    for setting in out if epochs is not None or iterations is not None else ():
        if setting.partition("=")[0].strip().endswith(tuple(f"training.{name}" for name in own)):
            raise InputError(f"{flag} and --set {setting} both set the length of training: give one of them.")
    if iterations is not None:
        per_epoch = min(250, max(1, math.ceil(iterations / EPOCHS_IN_SHORT_RUN)))
        out += [f"training.iterations_per_epoch={per_epoch}", f"training.epochs={math.ceil(iterations / per_epoch)}"]
    elif epochs is not None:
        out.append(f"training.epochs={epochs}")
    return out


def _trainer(prepared: Prepared, folder: Path, device: torch.device, seed: int) -> Trainer:
    precision = training_precision(device, prepared.configuration.training.precision)
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    origin = {"dataset_name": prepared.plans.dataset_name, "fingerprint_hash": prepared.plans.fingerprint_hash}
    return Trainer(prepared.configuration, prepared.description.labels, folder, fabric, seed, origin)


def _batches(prepared: Prepared, seed: int, length: int) -> Batches:
    configuration = prepared.configuration
    cases = prepared.folder / configuration.data_identifier
    return Batches(cases, prepared.train, configuration, seed, length, configuration.training.augmentation)


def validation_patches(prepared: Prepared, rater: int | None = None) -> Patches:
    """The fixed patches of the validation cases: the same for every training of this fold.

    Args:
        rater: whose labels; None draws one per patch.
    """
    return _fixed_patches(prepared, prepared.validation, 1, rater)


def statistics_patches(prepared: Prepared) -> Patches:
    """As many fixed patches of the training cases, not augmented."""
    return _fixed_patches(prepared, prepared.train, 2, None)


def _fixed_patches(prepared: Prepared, identifiers: list[str], seed: int, rater: int | None) -> Patches:
    configuration = prepared.configuration
    cases = prepared.folder / configuration.data_identifier
    length = max(1, round(configuration.training.validation_patches / configuration.batch_size))
    batches = Batches(cases, identifiers, configuration, seed=seed, length=length, augment=False, rater=rater)
    return [batches[i] for i in range(len(batches))]


def _check_siblings(model: Path, prepared: Prepared) -> None:
    """Raises ModelError where the folds that `model` holds already were trained with other plans."""
    path = model / "plans.json"
    if path.exists() and list(model.glob("fold_*/checkpoint_*.pth")):
        there = Plans.load(path)
        if there.fingerprint_hash != prepared.plans.fingerprint_hash or _shape(there, prepared.name) != _shape(
            prepared.plans, prepared.name
        ):
            raise ModelError(f"{model} holds folds trained with other plans. Move it away, or use the same --set values.")


def _write_record(folder: Path, prepared: Prepared, fold: int | str, seed: int, device: torch.device) -> None:
    """plans.json, dataset.json and fingerprint beside the folds; the fold's own plans (lengths may differ) and manifest."""
    model = folder.parent
    prepared.plans.save(model / "plans.json")
    prepared.plans.save(folder / "plans.json")
    for source, target in (("dataset.json", "dataset.json"), ("dataset_fingerprint.json", "dataset_fingerprint.json")):
        if (prepared.folder / source).exists():
            write_text(model / target, (prepared.folder / source).read_text(encoding="utf-8"))
    manifest = {
        "ldseg_auto": ldseg_auto.__version__, "torch": torch.__version__, "python": platform.python_version(), "device": str(device),
        "precision": training_precision(device, prepared.configuration.training.precision), "fold": str(fold), "seed": seed,
        "dataset": prepared.plans.dataset_name,
        "fingerprint_hash": prepared.plans.fingerprint_hash, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "train": prepared.train, "validation": prepared.validation,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)


def _shape(plans: Plans, name: str) -> tuple[object, ...]:
    """What must agree between the folds of one model folder."""
    c = plans.configuration(name)
    return (c.network, c.network_parts, c.latent, c.patch_size, c.sampling.schedule, *(getattr(c, key) for key in PREPROCESSED))


def _measure_method(prepared: Prepared, trainer: Trainer, patches: Patches) -> int:
    """steps.json and latent.json from the fixed patches, with the EMA weights; returns the steps for one sample."""
    labels, configuration, device = prepared.description.labels, prepared.configuration, trainer.fabric.device
    model, direct, raters = trainer.ema.model, configuration.network.variant == "direct", len(prepared.description.raters)
    planned = 1 if direct else configuration.sampling.steps
    with trainer.fabric.autocast():
        curve = step_curve(model, patches, labels, planned, device)
        if raters > 1:
            by_rater = [validation_patches(prepared, rater) for rater in range(raters)]
            curve |= distance_curve(model, by_rater, labels, planned, device)
        rebuilt = {} if direct else reconstruction_dice(model, patches, labels, device)
    write_json(trainer.folder / "steps.json", curve)
    if rebuilt:
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


def _final_validation(prepared: Prepared, trainer: Trainer, steps: int, progress: Progress) -> None:
    """validation/summary.json and predicted_dice.json from whole cases with the EMA weights."""
    predict = partial(
        validate_cases, trainer.ema.model, folder=prepared.folder, plans=prepared.plans, configuration=prepared.configuration,
        labels=prepared.description.labels, device=trainer.fabric.device, seed=trainer.seed, progress=progress,
    )  # fmt: skip
    summary = predict(identifiers=prepared.validation, steps=steps)
    write_json(trainer.folder / "validation" / "summary.json", without_nan(summary))
    logger.info("validation: mean Dice %s, per class %s", summary["mean"], summary["per_class"])
    fits = fit_predicted_dice(prepared, trainer.folder, summary, predict)
    fits.save(trainer.folder / PREDICTED_DICE)
    named = (("one sample", fits.single), ("several samples", fits.several))
    logger.info("predicted Dice: %s", "; ".join(f"{name}: {fit.sentence}" for name, fit in named if fit) or fits.note)


def fit_predicted_dice(prepared: Prepared, folder: Path, summary: dict[str, Any], predict: Callable[..., dict[str, Any]]) -> PredictedDice:
    """From the validation cases that training has not seen; for several samples some of them are predicted once more.

    Args:
        folder: of the fold, with steps.json.
        summary: of the validation cases with one sample (validation.validate_cases).
        predict: that function, but for `identifiers`, `steps` and `samples`.
    """
    unseen = sorted(set(prepared.validation) - set(prepared.train))
    if not unseen:
        return PredictedDice(None, None, "the validation cases were trained on: their Dice says nothing of other cases.")
    single = [pair for pair in pairs_of(summary) if pair.case in unseen]
    if prepared.configuration.network.variant == "direct":
        return fit_file(single, None)
    if len(single) < FEWEST:
        return fit_file(single, single)
    steps = read_json(folder / "steps.json").get("chosen_for_samples") or prepared.configuration.sampling.steps
    chosen = unseen[:: -(-len(unseen) // FEW_CASES)]
    return fit_file(single, pairs_of(predict(identifiers=chosen, steps=steps, samples=FEW_SAMPLES)))
