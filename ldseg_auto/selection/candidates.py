"""What is compared: single models and pairs, each with its sampling steps and samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldseg_auto.errors import ModelError
from ldseg_auto.files import read_json
from ldseg_auto.inference.model_folder import check_together, measured_steps
from ldseg_auto.selection.trained import Trained

TOLERANCE = 0.001  # Dice below the best of the steps' curve that fewer steps may cost; as training chooses (training/patches.py)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One model, or two whose probabilities are averaged."""

    models: tuple[Trained, ...]
    steps: tuple[int, ...]  # of each model
    samples: int

    @property
    def name(self) -> str:
        """Of its models."""
        return " + ".join(m.name for m in self.models)


def single(model: Trained, samples: int, steps: int | None = None) -> Candidate:
    """A model by itself; `steps` None takes those that validation chose for so many samples."""
    return Candidate((model,), (steps or chosen_steps(model, samples),), samples)


def pairs(singles: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
    """All pairs whose probabilities can be averaged, and why others cannot."""
    found, reasons = [], []
    for a, b in itertools.combinations(singles, 2):
        try:
            check_together([m.folder for m in (*a.models, *b.models)])
        except ModelError as cause:
            reasons.append(str(cause))
            continue
        found.append(Candidate(a.models + b.models, a.steps + b.steps, a.samples))
    return found, reasons


def with_samples(candidate: Candidate, samples: int, steps: int | None = None) -> Candidate:
    """The same models with another number of samples, and the steps that belong to it."""
    return Candidate(candidate.models, tuple(steps or chosen_steps(m, samples) for m in candidate.models), samples)


def is_direct(candidate: Candidate) -> bool:
    """Whether all samples of its models are equal."""
    return all(m.folder.configuration.network.variant == "direct" for m in candidate.models)


def chosen_steps(model: Trained, samples: int) -> int:
    """Sampling steps from what training measured on the folds' validation patches (steps.json).

    One sample: the fewest steps whose Dice, averaged over the folds, is within 0.001 of the best. Several: what training chose for
    them (training/patches.py), the largest over folds. Without a measurement the planned number.
    """
    folder = model.folder
    planned = folder.configuration.sampling.steps
    if samples > 1:
        return measured_steps(folder, "chosen_for_samples") or planned
    curve = step_curve(model)
    good = [steps for steps, dice in curve.items() if dice >= max(curve.values()) - TOLERANCE]
    return min(good, default=measured_steps(folder) or planned)


def step_curve(model: Trained) -> dict[int, float]:
    """Steps -> Dice on validation patches, mean over the folds; only steps that all folds measured, empty without any.

    Raises:
        ModelError: a steps.json is damaged.
    """
    curves = [_curve(path.parent / "steps.json") for path in model.folder.folds.values()]
    common = sorted(set.intersection(*(set(c) for c in curves)))
    return {steps: float(np.mean([c[steps] for c in curves])) for steps in common}


def _curve(path: Path) -> dict[int, float]:
    content = read_json(path, ModelError).get("dice", {}) if path.exists() else {}
    return {int(steps): float(dice) for steps, dice in content.items() if dice is not None}
