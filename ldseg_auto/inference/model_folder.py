"""The model folder: `results/DatasetXXX_Name/PLANS__CONFIG/` with plans.json, dataset.json and fold_K/ of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldseg_auto.data.dataset import Description
from ldseg_auto.errors import ModelError
from ldseg_auto.evaluation.predicted_dice import NAME, PredictedDice
from ldseg_auto.files import read_json
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.training import checkpoint

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")  # in order of preference


@dataclass(frozen=True)
class ModelFolder:
    """What prediction needs, read and checked."""

    path: Path
    plans: Plans
    configuration: Configuration  # the plans' default one: training writes there what it trained
    description: Description
    folds: dict[str, Path]  # fold -> its checkpoint


def trained_folds(folder: Path) -> dict[str, Path]:
    """Folds of a model folder that hold a checkpoint, with the best kind there is."""
    found = {}
    for fold in sorted(folder.glob("fold_*")):
        present = [fold / name for name in CHECKPOINTS if (fold / name).exists()]
        if present:
            found[fold.name.removeprefix("fold_")] = present[0]
    return found


def find_models(
    results: Path, dataset_id: int | None = None, configuration: str | None = None, plans_name: str | None = None
) -> list[Path]:  # fmt: skip
    """Model folders below `results` with at least one trained fold, filtered by dataset, configuration and plans."""
    models = []
    for folder in sorted(results.glob("Dataset*/*__*")):
        number = re.match(r"Dataset(\d+)_", folder.parent.name)
        if dataset_id is not None and (not number or int(number[1]) != dataset_id):
            continue
        plans, _, trained = folder.name.rpartition("__")
        if configuration not in (None, trained) or plans_name not in (None, plans):
            continue
        if trained_folds(folder):
            models.append(folder)
    return models


def read_model_folder(folder: Path, folds: Sequence[str] | None = None) -> ModelFolder:
    """Reads a model folder.

    Args:
        folds: names such as "0" or "all"; None takes all that are trained.

    Raises:
        ModelError: not a model folder, or a fold that is not trained (says which are).
        PlansError, DatasetError: its files are damaged.
    """
    if not (folder / "plans.json").exists():
        raise ModelError(f"{folder} is no model folder: it has no plans.json. Expected results/DatasetXXX_Name/PLANS__CONFIG.")
    plans = Plans.load(folder / "plans.json")
    description = Description.from_dict(read_json(folder / "dataset.json", ModelError), str(folder / "dataset.json"))
    there = trained_folds(folder)
    wanted = list(there) if folds is None else [str(f) for f in folds]
    missing = [f for f in wanted if f not in there]
    if missing or not wanted:
        raise ModelError(
            f"fold {', '.join(missing) or 'any'} is not trained in {folder}; trained: {', '.join(there) or 'none'}. Run ldseg_train."
        )
    return ModelFolder(folder, plans, plans.configuration(), description, {f: there[f] for f in wanted})


def load_network(folder: ModelFolder, fold: str, device: torch.device) -> LDSeg:
    """The fold's EMA weights in evaluation mode.

    Raises:
        ModelError: the checkpoint is damaged, of another dataset or configuration, or does not fit the plans.
    """
    path = folder.folds[fold]
    content = checkpoint.load(path)
    checkpoint.check_origin(content, folder.plans.dataset_name, folder.plans.fingerprint_hash, path)
    checkpoint.check_configuration(content, folder.plans.default_configuration, path)
    model = LDSeg(folder.configuration, folder.description.labels.num_heads)
    try:
        model.load_state_dict(content["ema"])
    except (RuntimeError, KeyError) as cause:
        first = str(cause).strip().splitlines()[0]
        raise ModelError(
            f"checkpoint {path} does not fit {folder.path / 'plans.json'} ({first}); were the plans edited after training?"
        ) from cause
    return model.eval().requires_grad_(False).to(device)


def measured_steps(folder: ModelFolder, key: str = "chosen") -> int | None:
    """The number of sampling steps that the folds' validation chose (steps.json), the largest of them; None without.

    Args:
        key: `chosen` by Dice, for one sample; `chosen_for_samples` for several, by Dice or the distance to several raters.
    """
    chosen = []
    for path in folder.folds.values():
        if (path.parent / "steps.json").exists():
            content = read_json(path.parent / "steps.json", ModelError)
            chosen += [int(content[key])] if key in content else []
    return max(chosen, default=None)


def predicted_dice(folder: ModelFolder) -> dict[str, PredictedDice]:
    """Fold -> its fit of the Dice from what a prediction says of itself, where it was validated (predicted_dice.json).

    Raises:
        ModelError: a file is damaged.
    """
    paths = {fold: checkpoint.parent / NAME for fold, checkpoint in folder.folds.items()}
    return {fold: PredictedDice.load(path) for fold, path in paths.items() if path.exists()}


def check_together(folders: Sequence[ModelFolder]) -> None:
    """Checks that the probabilities of several model folders can be averaged plane by plane.

    Raises:
        ModelError: they cannot, for their labels, channels or axes differ.
    """
    first, *others = folders
    for other in others:
        for name, one, two in (
            ("labels", first.description.labels, other.description.labels),
            ("image channels", first.configuration.channels, other.configuration.channels),
            ("transpose_forward", first.plans.transpose_forward, other.plans.transpose_forward),
        ):
            if one != two:
                raise ModelError(
                    f"models {first.path} and {other.path} cannot be averaged: their {name} differ ({one} and {two}). Predict with each, "
                    "with --save-probabilities npz, and average with ldseg_ensemble, if their labels are the same."
                )
