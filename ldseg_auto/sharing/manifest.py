"""manifest.json of an archive: what it holds, and which files a model may have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ldseg_auto.planners.serialise import require

NAME = "manifest.json"
RECORD = "imported.json"  # of an imported model, beside plans.json: the archive's manifest and SHA-256
FORMAT, VERSION = "ldseg_auto model", 1
REQUIRED = ("plans.json", "dataset.json")
MODEL_FILES = (*REQUIRED, "dataset_fingerprint.json", "inference.json")
WEIGHTS = "weights.npz"
FOLD_FILES = (
    "plans.json", "manifest.json", "training_log.csv", "steps.json", "latent.json", "predicted_dice.json", "validation/summary.json"
)  # fmt: skip
KINDS = ("final", "best")  # of checkpoint
FOLDER = re.compile(r"Dataset\d+_[^/\\:*?\"<>|\x00-\x1f]{0,150}[^/\\:*?\"<>|\x00-\x1f .]")  # a name that every file system takes
PART = r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*"  # of PLANS__CONFIG: letters, digits, single _ and -
MODEL = re.compile(rf"{PART}__{PART}")
FOLD = re.compile(r"\d{1,4}|all")
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A file of the archive."""

    size: int  # bytes
    sha256: str

    def __post_init__(self) -> None:
        require(self.size >= 0, "size", self.size, "0 or more")
        require(bool(HASH.fullmatch(self.sha256)), "sha256", self.sha256, "64 hexadecimal digits")


@dataclass(frozen=True)
class Fold:
    """Where a fold's weights come from."""

    checkpoint: str  # final | best
    sha256: str  # of the checkpoint that they were taken from
    seed: int
    iteration: int

    def __post_init__(self) -> None:
        require(self.checkpoint in KINDS, "checkpoint", self.checkpoint, f"one of {KINDS}")
        require(bool(HASH.fullmatch(self.sha256)), "sha256", self.sha256, "64 hexadecimal digits")


@dataclass(frozen=True)
class Manifest:
    """The archive's table of contents."""

    dataset: str  # DatasetXXX_Name
    model: str  # PLANS__CONFIG, the folder's name
    configuration: str
    folds: dict[str, Fold]
    files: dict[str, Entry]  # every file but this one
    ldseg_auto: str  # version that wrote it
    licence: str = ""  # under which the weights may be used; empty: not stated
    anonymous: bool = False  # names of training cases were left out
    format: str = field(default=FORMAT)
    version: int = VERSION

    def __post_init__(self) -> None:
        require(bool(FOLDER.fullmatch(self.dataset)), "dataset", self.dataset, "a folder's name such as Dataset004_Hippocampus")
        require(bool(MODEL.fullmatch(self.model)), "model", self.model, "a folder's name such as ldsegPlans__3d_fullres")
        require(len(self.folds) > 0, "folds", list(self.folds), "one or more")
        for name in self.folds:
            require(bool(FOLD.fullmatch(name)), "folds", name, "a fold's number, or all")
        strange = next((name for name in self.files if not is_known(name)), None)
        require(strange is None, "files", strange, "only the files of a model")
        needed = {*REQUIRED, *(f"fold_{name}/{WEIGHTS}" for name in self.folds)}
        require(needed <= set(self.files), "files", sorted(self.files), f"among them {sorted(needed - set(self.files))}")
        folders = {name.partition("/")[0].removeprefix("fold_") for name in self.files if "/" in name}
        require(folders <= set(self.folds), "folds", list(self.folds), f"one entry for each of the folders of {sorted(folders)}")


def is_known(name: str) -> bool:
    """Whether a model has a file of this name, which no path that leads elsewhere has."""
    folder, slash, rest = name.partition("/")
    if not slash:
        return name in MODEL_FILES
    prefix, _, fold = folder.partition("_")
    return prefix == "fold" and bool(FOLD.fullmatch(fold)) and rest in (WEIGHTS, *FOLD_FILES)
