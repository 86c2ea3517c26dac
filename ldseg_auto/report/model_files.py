"""What a model folder's files say, read for its report: what is missing or damaged is named, and ends nothing."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ldseg_auto.errors import LdsegError
from ldseg_auto.evaluation.predicted_dice import NAME as PREDICTED_DICE
from ldseg_auto.evaluation.predicted_dice import PredictedDice
from ldseg_auto.files import read_json

T = TypeVar("T")
Row = dict[str, float | None]


@dataclass(frozen=True)
class Score:
    """A validation case, mean over its raters."""

    case: str
    fold: str
    classes: dict[str, float | None]
    """class -> Dice; None where neither the prediction nor a rater has it."""
    volumes: tuple[float, float] | None
    """ml over all classes, of the reference and of the prediction; None for 2D images."""

    @property
    def dice(self) -> float | None:
        """Mean over the classes that have one."""
        values = [d for d in self.classes.values() if d is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class FoldFiles:
    """One fold; what is missing is empty or None."""

    fold: str
    manifest: dict[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()  # of training_log.csv
    steps: dict[str, Any] = field(default_factory=dict)
    latent: dict[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    predicted: PredictedDice | None = None
    overlays: Sequence[Path] = ()
    finished: bool = False  # whether there is a final checkpoint
    missing: Sequence[str] = ()  # files that are not there, or that cannot be read, and why


def read_fold(folder: Path) -> FoldFiles:
    """Reads fold_K."""
    missing: list[str] = []

    def take(name: str, read: Callable[[Path], T]) -> T | None:
        path = folder / name
        if not path.exists():
            missing.append(name)
            return None
        try:
            return read(path)
        except (LdsegError, OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            missing.append(f"{name} (it cannot be read: {cause})")
            return None

    fold = folder.name.removeprefix("fold_")
    return FoldFiles(
        fold,
        take("manifest.json", read_json) or {},
        take("training_log.csv", read_log) or [],
        take("steps.json", read_curves) or {},
        take("latent.json", read_curves) or {},
        take("validation/summary.json", lambda path: read_scores(path, fold)) or [],
        take(PREDICTED_DICE, PredictedDice.load),
        sorted((folder / "overlays").glob("epoch_*.png")),
        (folder / "checkpoint_final.pth").exists(),
        missing,
    )


def read_curves(path: Path) -> dict[str, Any]:
    """A JSON object whose values are numbers, or objects of numbers and null (steps.json, latent.json).

    Raises:
        LdsegError: no JSON object; ValueError: other values.
    """
    content = read_json(path)
    for name, value in content.items():
        numbers = list(value.values()) if isinstance(value, dict) else [value]
        if not all(v is None or isinstance(v, (int, float)) for v in numbers):
            raise ValueError(f"{name} = {value!r}, expected numbers")
    return content


def read_log(path: Path) -> list[Row]:
    """The rows of a training_log.csv: numbers, None for an empty field or one that is no number."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [{key: _number(text) for key, text in row.items() if key} for row in csv.DictReader(stream)]
    return [row for row in rows if row.get("iteration") is not None]


def read_scores(path: Path, fold: str) -> list[Score]:
    """The cases of a validation/summary.json.

    Raises:
        LdsegError, KeyError, TypeError, AttributeError: damaged.
    """
    return [_score(case, fold, list(raters.values())) for case, raters in read_json(path)["cases"].items()]


def _score(case: str, fold: str, raters: Sequence[dict[str, Any]]) -> Score:
    names = list(dict.fromkeys(name for table in raters for name in table))
    classes = {name: _mean([table[name]["dice"] for table in raters if name in table]) for name in names}
    keys = ("volume_reference_ml", "volume_predicted_ml")
    sums = [[_sum([m.get(key) for m in table.values()]) for table in raters] for key in keys]
    reference, predicted = (_mean(values) for values in sums)
    return Score(case, fold, classes, None if reference is None or predicted is None else (reference, predicted))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
