"""A model folder as one file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import ldseg_auto
from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.files import atomic_path, hash_file, read_json
from ldseg_auto.inference.model_folder import ModelFolder, load_network, read_model_folder
from ldseg_auto.inference.recipe import NAME as RECIPE
from ldseg_auto.inference.recipe import Recipe, read_part
from ldseg_auto.planners.serialise import RuleBroken, to_dict
from ldseg_auto.progress import Progress, silent
from ldseg_auto.sharing import manifest as contents
from ldseg_auto.sharing.anonymous import without_cases
from ldseg_auto.sharing.archive import Writer
from ldseg_auto.sharing.manifest import FOLD_FILES, MODEL, MODEL_FILES, RECORD, WEIGHTS, Fold, Manifest
from ldseg_auto.sharing.weights import to_npz
from ldseg_auto.training import checkpoint

logger = logging.getLogger(__name__)
OF_FINAL = ("steps.json", "latent.json", "predicted_dice.json", "validation/summary.json")  # measured with the final weights
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Export:
    """What to put into the archive."""

    folds: Sequence[str] | None = None  # None: all that are trained
    checkpoint: str = "final"  # final | best
    licence: str | None = None  # of the weights; None: that of dataset.json, if it names one
    anonymous: bool = False  # leave out the names of the training cases, and the files that list them

    def __post_init__(self) -> None:
        if self.checkpoint not in contents.KINDS:
            raise InputError(f"checkpoint = {self.checkpoint!r}: expected one of {', '.join(contents.KINDS)}.")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    size: int  # bytes
    sha256: str  # of the whole archive
    manifest: Manifest


WHOLE = Export()


def export_model(model: Path, output: Path, what: Export = WHOLE, overwrite: bool = False, progress: Progress = silent) -> Exported:
    """Writes what prediction needs into one archive: the same model gives the same bytes.

    Args:
        model: the model folder, results/DatasetXXX_Name/PLANS__CONFIG.
        output: the archive, FILE.zip; written under a temporary name and renamed when whole.
        overwrite: replace a file of that name.

    Raises:
        InputError: `output` is there already, or does not end in .zip.
        ModelError: no model folder, a fold that lacks the checkpoint, weights that do not fit the plans, or an inference.json of others.
        PlansError, DatasetError: the folder's files are damaged.
    """
    if output.suffix.lower() != ".zip":
        raise InputError(f"-o {output}: expected a name that ends in .zip.")
    if output.is_dir() or (output.exists() and not overwrite):
        raise InputError(f"-o {output} exists already; nothing was changed. Choose another name, or --overwrite.")
    folder = _with_checkpoints(_read(model, what.folds), what.checkpoint)
    sources = _sources(folder, what)
    weights = {f"fold_{fold}/{WEIGHTS}": fold for fold in folder.folds}
    names = sorted({*sources, *weights})
    with atomic_path(output) as temporary:
        with Writer(temporary) as out:
            for name in progress(names, "packing", total=len(names)):
                out.add(name, to_npz(load_network(folder, weights[name], CPU)) if name in weights else _content(name, sources[name], what))
            manifest = _manifest(folder, what, out)
            out.add(contents.NAME, _json(to_dict(manifest)))
        size, digest = temporary.stat().st_size, hash_file(temporary)
    return Exported(output, size, digest, manifest)


def _read(model: Path, folds: Sequence[str] | None) -> ModelFolder:
    if model.name.startswith("fold_"):
        raise InputError(f"{model} is a fold. Name its model folder, {model.parent}, with -f {model.name.removeprefix('fold_')}.")
    return read_model_folder(model, folds)


def _with_checkpoints(folder: ModelFolder, kind: str) -> ModelFolder:
    """The folder with that kind of checkpoint for each fold; raises ModelError where one is not there."""
    name = f"checkpoint_{kind}.pth"
    paths = {fold: path.parent / name for fold, path in folder.folds.items()}
    missing = [fold for fold, path in paths.items() if not path.exists()]
    if missing:
        advice = "Finish its training with ldseg_train --continue, or choose others with -f"
        advice += ", or export --checkpoint best." if kind == "final" else "."
        raise ModelError(f"fold {', '.join(missing)} of {folder.path} has no {name}. {advice}")
    return replace(folder, folds=paths)


def _sources(folder: ModelFolder, what: Export) -> dict[str, Path]:
    """Name in the archive -> file, without the weights."""
    final = what.checkpoint == "final"
    left_out = {"dataset_fingerprint.json", "manifest.json", "validation/summary.json"} if what.anonymous else set()
    left_out |= set() if final else set(OF_FINAL)
    left_out |= set() if final and _recipe_holds(folder) else {RECIPE}
    found = {name: folder.path / name for name in MODEL_FILES if name not in left_out}
    for fold, path in folder.folds.items():
        found |= {f"fold_{fold}/{name}": path.parent / name for name in FOLD_FILES if name not in left_out}
    return {name: path for name, path in found.items() if path.exists()}


def _recipe_holds(folder: ModelFolder) -> bool:
    """Whether inference.json is about these folds alone; raises ModelError where it was written for other weights."""
    path = folder.path / RECIPE
    if not path.exists():
        return False
    recipe = Recipe.load(path)
    if [part.folder for part in recipe.models] != ["."] or not set(recipe.models[0].checkpoints) <= set(folder.folds):
        logger.warning("%s is left out: it names models or folds that are not exported.", path)
        return False
    read_part(path, recipe.models[0], recipe)
    return True


def _content(name: str, path: Path, what: Export) -> bytes:
    return _json(without_cases(name, read_json(path, ModelError))) if what.anonymous and path.suffix == ".json" else path.read_bytes()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _manifest(folder: ModelFolder, what: Export, out: Writer) -> Manifest:
    """Raises InputError where dataset or model have names that no folder can have."""
    plans, model = folder.plans, folder.path.resolve().name
    licence = _licence(folder) if what.licence is None else what.licence
    folds = {fold: _fold(path, what.checkpoint) for fold, path in folder.folds.items()}
    try:
        return Manifest(
            plans.dataset_name, model if MODEL.fullmatch(model) else f"{plans.plans_name}__{plans.default_configuration}",
            plans.default_configuration, folds, dict(out.entries), ldseg_auto.__version__, licence, what.anonymous,
        )  # fmt: skip
    except RuleBroken as cause:
        raise InputError(f"{folder.path} cannot be exported: {cause}") from None


def _licence(folder: ModelFolder) -> str:
    """That of the archive that the model came in, or what dataset.json says."""
    path = folder.path / RECORD
    described = folder.description.content
    told = (read_json(path, ModelError).get("licence") if path.exists() else "", described.get("licence"), described.get("license"))
    return str(next((text for text in told if text), ""))


def _fold(path: Path, kind: str) -> Fold:
    content = checkpoint.load(path)
    return Fold(kind, hash_file(path), int(content.get("seed", 0)), int(content.get("iteration", 0)))
