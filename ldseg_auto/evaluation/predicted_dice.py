"""Predicted Dice: what Dice did cases have, on the validation fold, whose prediction looked as sure as this one?

A fit from what a prediction says of itself (softmax response, soft Dice, agreement of its draws, size of its foreground) to the Dice that
validation cases reached. Which fit is chosen by leave-one-out error among few, the constant first; its error is measured on held-out cases
by cross-fitting, the choice included. It is a regression on few cases of one dataset, no probability of error, and knows nothing of images
unlike those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldseg_auto.errors import ModelError, PlansError
from ldseg_auto.evaluation.coverage import Coverage
from ldseg_auto.evaluation.intervals import FEWEST as FEWEST_STRETCHED
from ldseg_auto.evaluation.intervals import Intervals, factors_of, stretched
from ldseg_auto.files import read_json, write_json
from ldseg_auto.planners.serialise import from_dict, require, to_dict

VERSION = 1
NAME = "predicted_dice.json"
FEWEST = 8  # cases that a fit needs
FOLDS = 10  # of the cross-fit; leave-one-out for up to as many cases
LARGEST = 100  # cases left out one by one when a curve is chosen; with more they go out in as many parts
KINDS = ("constant", "isotonic", "linear")
UNSTRETCHED = (
    f"there is no likely low to high: it takes {FEWEST_STRETCHED} validation cases that training had not seen and that predict the class"
)
SOFTMAX, AGREEMENT, SOFT_DICE, SIZE = "softmax", "agreement", "soft_dice", "log_foreground"
FEATURES = (SOFTMAX, AGREEMENT, SOFT_DICE, SIZE)
# In order of preference among equals. More confidence never means a lower Dice: isotonic, and linear with weights of 0 and above.
CANDIDATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("constant", ()), ("linear", (SOFTMAX,)), ("isotonic", (SOFTMAX,)), ("linear", (SOFTMAX, SIZE)),
    ("linear", (SOFT_DICE,)), ("isotonic", (SOFT_DICE,)), ("linear", (SOFT_DICE, SIZE)),
    ("linear", (AGREEMENT,)), ("isotonic", (AGREEMENT,)), ("linear", (AGREEMENT, SIZE)), ("linear", (SOFTMAX, AGREEMENT)),
    ("linear", (SOFT_DICE, AGREEMENT)),
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What a prediction says of itself (inference/case_score.py)."""

    softmax: float
    """softmax response in the predicted foreground, 0 to 1."""
    foreground: float
    """size of the predicted foreground, ml or mm2."""
    agreement: float | None = None
    """mean pairwise Dice of the draws; None for one."""
    soft_dice: float | None = None
    """soft Dice confidence, 0 to 1; None in files of before there was one."""

    @property
    def values(self) -> dict[str, float]:
        """Feature -> value; NaN for what is not there, as the logarithm of nothing."""
        size = math.log(self.foreground) if self.foreground > 0 else math.nan
        optional = {name: math.nan if v is None else v for name, v in ((AGREEMENT, self.agreement), (SOFT_DICE, self.soft_dice))}
        return {SOFTMAX: self.softmax, **optional, SIZE: size}


@dataclass(frozen=True)
class Pair:
    """One validation case."""

    case: str
    evidence: Evidence
    dice: float
    """mean over the foreground classes that have a Dice, and over raters."""

    def __post_init__(self) -> None:
        require(0 <= self.dice <= 1, "dice", self.dice, "a number from 0 to 1")


@dataclass(frozen=True)
class Curve:
    """A function from evidence to Dice."""

    kind: str
    """constant, isotonic or linear."""
    features: tuple[str, ...] = ()
    """one for isotonic: softmax, agreement or soft_dice."""
    intercept: float = 0.0
    """constant and linear."""
    weights: tuple[float, ...] = ()
    """linear: one per feature."""
    knots: tuple[tuple[float, float], ...] = ()
    """isotonic: (feature, Dice), both rising; between them straight lines, beyond them the end's Dice."""
    sizes: tuple[float, float] | None = None
    """smallest and largest log_foreground fitted to, a size beyond counts as that; None where the size is no feature."""

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", self.kind, f"one of {', '.join(KINDS)}")
        require(all(f in FEATURES for f in self.features), "features", self.features, f"names among {', '.join(FEATURES)}")
        wanted = {"constant": 0, "isotonic": 1}.get(self.kind, len(self.features))
        require(len(self.features) == wanted, "features", self.features, f"{wanted} for {self.kind}")
        require(len(self.weights) == (wanted if self.kind == "linear" else 0), "weights", self.weights, "one per feature of a linear fit")
        flat = [v for k in self.knots for v in k]
        rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in zip(self.knots, self.knots[1:], strict=False))
        require(all(len(k) == 2 for k in self.knots) and rising, "knots", self.knots, "rising pairs of feature and Dice")
        require(bool(self.knots) == (self.kind == "isotonic"), "knots", self.knots, "pairs for isotonic, else none")
        require(all(map(math.isfinite, (self.intercept, *self.weights, *flat))), "intercept", self.intercept, "finite numbers everywhere")

    def __call__(self, evidence: Evidence) -> float:
        """Dice in [0, 1]; NaN where the evidence lacks a feature."""
        values = evidence.values
        if self.sizes is not None:
            values[SIZE] = float(np.clip(values[SIZE], *self.sizes))
        given = [values[f] for f in self.features]
        if any(map(math.isnan, given)):
            return math.nan
        if self.kind == "isotonic":
            at, dice = zip(*self.knots, strict=True)
            return float(np.interp(given[0], at, dice))
        return float(np.clip(self.intercept + sum(w * v for w, v in zip(self.weights, given, strict=True)), 0, 1))


@dataclass(frozen=True)
class Fit:
    """The chosen curve, and how far it was off."""

    curve: Curve
    error: float
    """mean abs(predicted - true Dice) of cases that the fit and its choice had not seen (cross-fit)."""
    baseline: float
    """the same of the constant, the mean Dice of the other cases: what `error` has to be compared with."""
    held_out: tuple[float, ...]
    """predicted Dice of each pair by a fit that had not seen it."""
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        require(len(self.pairs) >= FEWEST, "pairs", len(self.pairs), f"{FEWEST} or more")
        require(len(self.held_out) == len(self.pairs), "held_out", len(self.held_out), "one number per pair")
        for name in ("error", "baseline"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")

    @property
    def sentence(self) -> str:
        """What may be said of it."""
        off = f"predicted Dice was off by {self.error:.3f} on average on {len(self.pairs)} held-out validation cases"
        return f"{off} (their mean Dice as the prediction for all: {self.baseline:.3f})"


@dataclass(frozen=True)
class PredictedDice:
    """A fold's file predicted_dice.json."""

    single: Fit | None
    """for one sample per model."""
    several: Fit | None
    """for several."""
    note: str = ""
    """why there is no fit, in words; empty where there are both."""
    equal_samples: bool = False
    """several samples are one and the same (a direct network): the fit for one holds for them."""
    coverage: Coverage | None = None
    """of the intervals of several samples' volumes; None where it was not measured."""
    single_volumes: Intervals | None = None
    """how far the volume of one sample has to be stretched; None where it is not known."""
    several_volumes: Intervals | None = None
    """how far the interval of several samples' volumes."""
    version: int = VERSION

    def __post_init__(self) -> None:
        require(self.version == VERSION, "version", self.version, f"{VERSION}")

    def of(self, samples: int) -> Fit | None:
        """The fit for a number of samples per model."""
        return self.single if samples == 1 or self.equal_samples else self.several

    def volumes(self, samples: int) -> Intervals | None:
        """How far volumes have to be stretched for a number of samples per model."""
        return self.single_volumes if samples == 1 or self.equal_samples else self.several_volumes

    def words(self, samples: int) -> str:
        """What may be said of a predicted Dice for a number of samples per model, or why there is none."""
        fit = self.of(samples)
        return self.note if fit is None else fit.sentence

    def words_of_volumes(self, samples: int) -> str:
        """What may be said of the intervals of volumes for a number of samples per model."""
        found = self.volumes(samples)
        likely = found.sentence if found else UNSTRETCHED
        if samples == 1:
            return likely
        if self.equal_samples:
            return f"all samples are equal, and so are their volumes; {likely}"
        return f"{self.coverage.sentence if self.coverage else 'how often low to high holds was not measured'}; {likely}"

    def save(self, path: Path) -> None:
        """Writes the file, atomically."""
        write_json(path, to_dict(self))

    @classmethod
    def load(cls, path: Path) -> PredictedDice:
        """Reads the file.

        Raises:
            ModelError: damaged, or of another version.
        """
        try:
            return from_dict(cls, read_json(path, ModelError), str(path))
        except PlansError as cause:
            raise ModelError(f"{cause} Run ldseg_train --continue to fit again, or delete the file to do without.") from None


def fit_file(single: Sequence[Pair], several: Sequence[Pair] | None) -> PredictedDice:
    """Both fits of a fold, and in words what there are too few cases for.

    Args:
        single, several: validation cases predicted with one sample, and with several; None where all samples are equal.
    """
    notes: list[str] = []
    one = _fit_of("one sample", single, notes)
    more = None if several is None else _fit_of("several samples", several, notes)
    return PredictedDice(one, more, " ".join(notes), several is None)


def _fit_of(name: str, pairs: Sequence[Pair], notes: list[str]) -> Fit | None:
    usable = [p for p in pairs if p.evidence.foreground > 0]
    if len(usable) >= FEWEST:
        return fit(usable)
    notes.append(f"{name}: a fit needs {FEWEST} validation cases with a predicted foreground and a Dice, there are {len(usable)}.")
    return None


def fit(pairs: Sequence[Pair]) -> Fit:
    """Chooses and fits a curve, and measures how far it is off on held-out cases; a choice that is no better there than the constant is not
    taken.

    The result does not depend on the order of the pairs.

    Args:
        pairs: FEWEST or more, all with a predicted foreground, and all or none with an agreement and a soft Dice.
    """
    pairs = sorted(pairs, key=lambda p: p.case)
    guesses, constants = np.zeros(len(pairs)), np.zeros(len(pairs))
    for held, rest in _parts(pairs, FOLDS):
        chosen, mean = choose(rest), make_curve("constant", (), rest)
        guesses[held] = [chosen(p.evidence) for p in pairs[held]]
        constants[held] = [mean(p.evidence) for p in pairs[held]]
    true = np.array([p.dice for p in pairs])
    error, baseline = float(np.abs(guesses - true).mean()), float(np.abs(constants - true).mean())
    if error >= baseline:  # what the predictions say of themselves did not help
        return Fit(make_curve("constant", (), pairs), baseline, baseline, tuple(constants.tolist()), tuple(pairs))
    return Fit(choose(pairs), error, baseline, tuple(guesses.tolist()), tuple(pairs))


def choose(pairs: Sequence[Pair]) -> Curve:
    """The curve of the candidate with the lowest leave-one-out mean absolute error; the first of equals."""
    there = {name for name, value in pairs[0].evidence.values.items() if not math.isnan(value)}
    candidates = [c for c in CANDIDATES if there.issuperset(c[1])]
    errors = [leave_one_out(kind, features, pairs) for kind, features in candidates]
    return make_curve(*candidates[int(np.argmin(errors))], pairs)


def leave_one_out(kind: str, features: tuple[str, ...], pairs: Sequence[Pair]) -> float:
    """Mean absolute error of each pair's Dice as predicted by a curve of all others (of more than 100 pairs: of all outside its part)."""
    errors: list[float] = []
    for held, rest in _parts(pairs, LARGEST):
        curve = make_curve(kind, features, rest)
        errors += [abs(curve(p.evidence) - p.dice) for p in pairs[held]]
    return float(np.mean(errors))


def _parts(pairs: Sequence[Pair], most: int) -> Iterator[tuple[slice, list[Pair]]]:
    """At most `most` parts, each every k-th pair, with all pairs outside it."""
    count = min(len(pairs), most)
    for part in range(count):
        yield slice(part, None, count), [p for i, p in enumerate(pairs) if i % count != part]


def make_curve(kind: str, features: tuple[str, ...], pairs: Sequence[Pair]) -> Curve:
    """The least-squares curve of a kind; weights of all but the size are 0 or above."""
    dice = np.array([p.dice for p in pairs])
    if kind == "constant":
        return Curve(kind, intercept=float(dice.mean()))
    values = np.array([[p.evidence.values[f] for f in features] for p in pairs])
    if kind == "isotonic":
        return Curve(kind, features, knots=isotonic(values[:, 0], dice))
    from scipy.optimize import nnls  # here, because prediction, which fits nothing, starts 0.4 s earlier without it

    centre, middle = values.mean(0), float(dice.mean())
    free = [i for i, f in enumerate(features) if f == SIZE]
    table = np.concatenate([values - centre, -(values - centre)[:, free]], axis=1)  # a free weight is a difference of two from 0 up
    found = nnls(table, dice - middle)[0]
    weights = found[: len(features)].copy()
    weights[free] -= found[len(features) :]
    sizes = (float(values[:, free].min()), float(values[:, free].max())) if free else None
    return Curve(kind, features, middle - float(weights @ centre), tuple(weights.tolist()), sizes=sizes)


def isotonic(at: np.ndarray, values: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Knots of the rising function closest to `values` `(n,)` at `at` `(n,)` in least squares, by pooling adjacent violators.

    Barlow et al. 1972. Each block of equal fitted value gives its first and its last place as knots.
    """
    places, group, count = np.unique(at, return_inverse=True, return_counts=True)
    blocks: list[list[float]] = []  # sum of values, weight, first and last place
    for place, total, weight in zip(places.tolist(), np.bincount(group, values).tolist(), count.tolist(), strict=True):
        blocks.append([total, weight, place, place])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total, weight, _, last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + weight, blocks[-1][2], last]
    return tuple((place, total / weight) for total, weight, *ends in blocks for place in sorted(set(ends)))


def likely_volumes(fits: Sequence[PredictedDice], name: str, low: float, high: float, samples: int) -> tuple[float, float] | None:
    """The interval of a class's volume that held 90 % of validation cases, by the geometric mean of the models' factors.

    Args:
        fits: one per model.
        low, high: of the samples' volumes.
        samples: per model, as predicted with.

    Returns:
        None where no model knows a factor, or no sample shows the class.
    """
    return stretched(low, high, factors_of([fit.volumes(samples) for fit in fits], name))


def predict(fits: Sequence[PredictedDice], evidence: Evidence, samples: int) -> tuple[float, float] | None:
    """Predicted Dice of one case and its error, both means over the models that have a fit.

    Args:
        fits: one per model; of several folds each speaks for its own validation cases.
        samples: per model, as predicted with.

    Returns:
        None where no model has a fit for that number of samples, or nothing is predicted.
    """
    if not evidence.foreground > 0:
        return None
    known = [f for f in (each.of(samples) for each in fits) if f is not None]
    values = [(f.curve(evidence), f.error) for f in known]
    values = [v for v in values if not math.isnan(v[0])]
    return None if not values else (float(np.mean([v[0] for v in values])), float(np.mean([v[1] for v in values])))
