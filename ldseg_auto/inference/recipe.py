"""inference.json: which models predict, and how; `ldseg_find_best` writes it and `ldseg_predict` follows it.

One lies beside a dataset's model folders, and one in each of them for that model alone. Checkpoints are named by their hashes: what was
measured holds for them and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldseg_auto.errors import ModelError, PlansError
from ldseg_auto.files import hash_file, read_json, write_json
from ldseg_auto.inference.device import choose_device
from ldseg_auto.inference.member import DEFAULT, Options, load_member
from ldseg_auto.inference.model_folder import ModelFolder, read_model_folder, trained_folds
from ldseg_auto.inference.postprocess import Rule, check_rules
from ldseg_auto.inference.predictor import Predictor
from ldseg_auto.planners.names import is_name
from ldseg_auto.planners.serialise import from_dict, require, to_dict

NAME = "inference.json"
VERSION = 1
ADVICE = "Run ldseg_find_best again, or predict without it (--no-recipe)."


@dataclass(frozen=True)
class Part:
    """One model folder of a recipe."""

    folder: str
    """its name beside inference.json; "." where inference.json lies in it."""
    checkpoints: dict[str, str]
    """fold -> SHA-256 of its checkpoint."""
    steps: int
    """sampling steps."""

    def __post_init__(self) -> None:
        names = self.folder.split("__")
        require(self.folder == "." or all(map(is_name, names)), "folder", self.folder, 'the name of a model folder, or "."')
        require(bool(self.checkpoints), "checkpoints", self.checkpoints, "one fold or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")


@dataclass(frozen=True)
class Recipe:
    """Content of an inference.json."""

    dataset: str
    ldseg_auto: str  # version that wrote it
    models: tuple[Part, ...]
    samples: int = 1
    """per model and fold, averaged."""
    unit: str = "ml"
    """of sizes in `postprocessing`, for people."""
    postprocessing: tuple[Rule, ...] = ()
    version: int = VERSION
    measured: dict[str, Any] = field(default_factory=dict, compare=False)
    """what it was chosen by; not read."""

    def __post_init__(self) -> None:
        require(self.version == VERSION, "version", self.version, str(VERSION))
        require(bool(self.models), "models", self.models, "one or more")
        require(self.samples >= 1, "samples", self.samples, "1 or more")

    def save(self, path: Path) -> None:
        """Writes inference.json."""
        write_json(path, to_dict(self))

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Reads inference.json.

        Raises:
            ModelError: missing, damaged, unknown keys or impossible values.
        """
        content = read_json(path, ModelError)
        measured = content.pop("measured", {})
        try:
            return cls(**{**vars(from_dict(cls, content, str(path))), "measured": measured})
        except PlansError as cause:
            raise ModelError(f"{cause} {ADVICE}") from None

    def words(self) -> str:
        """One line for the log."""
        models = " + ".join(part.folder for part in self.models)
        folds, steps = sorted({f for part in self.models for f in part.checkpoints}), sorted({part.steps for part in self.models})
        rules = "; ".join(rule.words(self.unit) for rule in self.postprocessing) or "none"
        return f"{models}, folds {' '.join(folds)}, steps {' '.join(map(str, steps))}, samples {self.samples}, post-processing: {rules}"


@dataclass(frozen=True)
class Overrides:
    """What a caller wants otherwise than the recipe says; None follows it."""

    folds: Sequence[str] | None = None
    steps: int | None = None
    samples: int | None = None


FOLLOW = Overrides()


def follow(
    path: Path,
    device: str = "auto",
    seed: int = 0,
    tile_batch: int | None = None,
    options: Options = DEFAULT,
    overrides: Overrides = FOLLOW,
) -> Predictor:
    """Loads the models that an inference.json names; the predictor also does its post-processing, and its manifests say so.

    Args:
        path: of inference.json.
        device, seed, tile_batch, options: as Predictor.from_folder.
        overrides: another number of samples takes the steps that validation chose for it.

    Raises:
        ModelError: inference.json is damaged, names a model, fold or class that is not there, or a checkpoint has changed since.
        InputError: impossible values; see Predictor.from_folder.
    """
    recipe = Recipe.load(path)
    folders = [read_part(path, part, recipe, overrides.folds) for part in recipe.models]
    samples, chosen = overrides.samples or recipe.samples, choose_device(device)
    recorded = [part.steps if samples == recipe.samples else None for part in recipe.models]
    members = [
        load_member(folder, chosen, overrides.steps or steps, samples, tile_batch, options)
        for folder, steps in zip(folders, recorded, strict=True)
    ]
    return Predictor(members, chosen, samples, seed, recipe.postprocessing, hash_file(path))


def read_part(path: Path, part: Part, recipe: Recipe, folds: Sequence[str] | None = None) -> ModelFolder:
    """A model folder of a recipe, checked.

    Args:
        path: of inference.json.
        folds: in place of the recipe's.

    Raises:
        ModelError: a fold is gone, a checkpoint is another than the one that was measured, or its labels lack a class.
    """
    folder = path.parent / part.folder
    there, wanted = trained_folds(folder), list(part.checkpoints) if folds is None else list(folds)
    gone = [fold for fold in wanted if fold not in there]
    if gone:
        raise ModelError(f"{path} names fold {', '.join(gone)} of {folder}, which is not there. {ADVICE}")
    changed = [f for f in wanted if f in part.checkpoints and hash_file(there[f]) != part.checkpoints[f]]
    if changed:
        raise ModelError(f"{path} was written before {there[changed[0]]} was trained further or replaced. {ADVICE}")
    read = read_model_folder(folder, wanted)
    lacking = check_rules(recipe.postprocessing, read.description.labels)
    if lacking is not None:
        raise ModelError(f"{path}: postprocessing names {lacking}, which is no class of {folder}. {ADVICE}")
    return read


def checkpoints(folder: ModelFolder) -> Mapping[str, str]:
    """Fold -> SHA-256 of its checkpoint."""
    return {fold: hash_file(path) for fold, path in folder.folds.items()}
