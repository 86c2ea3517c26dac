"""All folds of a cross-validation: which there are, how far each is, and what they came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldseg_auto.errors import InputError
from ldseg_auto.files import read_json
from ldseg_auto.training.checkpoint import CONTINUABLE, FINAL
from ldseg_auto.training.options import Options
from ldseg_auto.training.prepare import prepare


@dataclass(frozen=True)
class Fold:
    """One fold of a model folder."""

    number: int
    folder: Path

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return any((self.folder / name).exists() for name in CONTINUABLE)

    @property
    def finished(self) -> bool:
        """Whether it is trained to the end and validated."""
        return (self.folder / FINAL).exists() and self._summary.exists()

    @property
    def _summary(self) -> Path:
        return self.folder / "validation" / "summary.json"

    def summary(self) -> dict[str, Any]:
        """validation/summary.json."""
        return read_json(self._summary)


def all_folds(preprocessed: Path, results: Path, options: Options) -> list[Fold]:
    """The folds of splits_final.json, with their folders below `results`; what all would fail for is found here.

    Raises:
        InputError: not preprocessed, an impossible setting, or nothing to continue.
    """
    prepared = prepare(preprocessed, 0, options.configuration, options.plans_name, options.all_settings())
    model = results / preprocessed.name / f"{options.plans_name}__{prepared.name}"
    count = len(json.loads((preprocessed / "splits_final.json").read_text(encoding="utf-8")))
    folds = [Fold(number, model / f"fold_{number}") for number in range(count)]
    if options.resume and not any(f.begun for f in folds):
        raise InputError(f"--continue: no fold in {model} holds a checkpoint to continue from. Start without --continue.")
    return folds


def table(folds: Sequence[Fold]) -> list[str]:
    """Validation Dice of the finished folds, a line each, then their mean: over classes, and of each class.

    A class that is in no case of a fold has no Dice there, and the mean is over the others.
    """
    summaries = {str(f.number): f.summary() for f in folds if f.finished}
    if not summaries:
        return []
    classes = list(next(iter(summaries.values()))["per_class"])
    rows = {name: [s["mean"], *(s["per_class"].get(c) for c in classes)] for name, s in summaries.items()}
    means = [_mean([row[i] for row in rows.values()]) for i in range(len(classes) + 1)]
    cells = [["fold", "Dice", *classes], *([name, *map(_figure, row)] for name, row in {**rows, "mean": means}.items())]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
