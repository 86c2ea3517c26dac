"""One trained fold, measured: everything that `method.py` reports, as plain JSON. All metrics are on the preprocessed grid.

Samples are drawn once per case, image noise and number of steps, and every metric reads the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldseg_auto.data.cases import evenly
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.agreement import generalised_energy_distance, pairwise_dice, rater_agreement
from ldseg_auto.evaluation.calibration import Reliability, near_foreground, reliability
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.inference.case_score import ScoreAccumulator
from ldseg_auto.inference.model_folder import load_network, measured_steps, read_model_folder
from ldseg_auto.inference.noise import case_noise, sample_numbers
from ldseg_auto.inference.tiles import Layout
from ldseg_auto.inference.window import Draws, SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.preprocessing.case import target_spacing
from ldseg_auto.preprocessing.store import load_case
from ldseg_auto.training.patches import reconstruction_dice
from ldseg_auto.training.prepare import prepare, validation_patches

STEPS = (1, 2, 3, 5, 10)
PLANNED = "planned"  # the key of the plans' number of steps; the others are keyed by their number
ENSEMBLE = 5  # samples whose probabilities are averaged
SIGMAS = (0.25, 0.5, 1.0)  # of the noise added to the preprocessed image
MARGIN = 3  # voxels around the foreground that count for the reliability


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples of one image at one number of steps."""

    indices: np.ndarray
    """label indices `(n, z, y, x)`."""
    masks: np.ndarray
    """bool `(n, classes, z, y, x)`, foreground classes or regions."""
    mean: np.ndarray
    """mean probabilities `(heads, z, y, x)` of the first ENSEMBLE samples (of all, where they are fewer)."""
    combined: np.ndarray
    """label indices `(z, y, x)` of the mean."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and what it needs to draw."""

    model: LDSeg
    window: SlidingWindow
    labels: LabelSpec
    seed: int

    @property
    def direct(self) -> bool:
        """Whether noise and steps have no effect: then one evaluation gives every sample."""
        return self.model.variant == "direct"

    def probabilities(self, image: np.ndarray, case: str, steps: int, numbers: Sequence[int]) -> np.ndarray:
        """Of each sample `(len(numbers), heads, z, y, x)` float32; the image encoder runs once per tile for all."""
        draws = Draws(case, self.seed, steps, tuple(numbers), self.labels.has_regions)
        return np.concatenate(list(self.window.planes([self.model], image, draws)), axis=2)

    def one(self, image: np.ndarray, case: str) -> np.ndarray:
        """Label indices `(z, y, x)` as predicted by default: one sample in one step."""
        numbers = sample_numbers(self.window.configuration, 1, 1)
        found = self.probabilities(image, case, 1, numbers)
        return self.assign(found[0])

    def draw(self, image: np.ndarray, case: str, steps: int, count: int) -> Drawn:
        """`count` samples of a preprocessed image `(c, z, y, x)`."""
        numbers = range(1 if self.direct else count)
        found = self.probabilities(image, case, steps, numbers)
        mean = found[:ENSEMBLE].mean(0)
        indices = np.stack([self.assign(p) for p in found]).repeat(count // len(found), axis=0)
        return Drawn(indices, masks(indices, self.labels), mean, self.assign(mean))

    def mirrored(self, image: np.ndarray, case: str) -> np.ndarray:
        """Label indices `(z, y, x)` of the mean of the ENSEMBLE mirrorings that `auto`'s samples see, in one step."""
        return self.assign(self._turned(True).probabilities(image, case, 1, range(ENSEMBLE)).mean(0))

    def swapped(self, image: np.ndarray, case: str, steps: int) -> float:
        """Dice between two samples that differ in nothing but their noise: mirroring is off."""
        return pairwise_dice(self._turned(False).draw(image, case, steps, 2).masks)

    def _turned(self, turn: bool) -> Subject:
        """The same, each sample mirrored otherwise or none, whatever the method says."""
        return replace(self, window=SlidingWindow(self.window.configuration, self.window.device, 1, turn=turn))

    def assign(self, probabilities: np.ndarray) -> np.ndarray:
        """Label indices `(z, y, x)` of `(heads, z, y, x)`."""
        return self.labels.assign(probabilities - 0.5 if self.labels.has_regions else probabilities)


def masks(indices: np.ndarray, labels: LabelSpec) -> np.ndarray:
    """Label indices `(n, *spatial)` as bool `(n, classes, *spatial)`, foreground classes or regions; nothing for ignored voxels."""
    members = labels.table.T if labels.has_regions else labels.table.T[1:]
    return np.stack([(member > 0)[indices] for member in members], axis=1)


def evaluate_model(fold: Path, preprocessed: Path, settings: Sequence[str], seed: int, limit: int | None, samples: int,
                   device: torch.device) -> dict[str, Any]:  # fmt: skip
    """Every measurement of one trained fold.

    Args:
        fold: results/DatasetXXX_Name/PLANS__CONFIG/fold_K.
        preprocessed: preprocessed/DatasetXXX_Name.
        settings: what the fold was trained with.
        limit: cases at most, evenly spaced among the fold's validation cases; None takes all.
        samples: per case with several raters, at least 2.
    """
    number = fold.name.removeprefix("fold_")
    folder = read_model_folder(fold.parent, [number])
    configuration, labels, plans = folder.configuration, folder.description.labels, folder.plans
    subject = Subject(load_network(folder, number, device), SlidingWindow(configuration, device, 1), labels, seed)
    prepared = prepare(preprocessed, int(number), plans.default_configuration, plans.plans_name, settings)
    planned = configuration.sampling.steps
    cases, diagrams, tiles = {}, [], []
    for identifier in evenly(sorted(prepared.validation), limit or len(prepared.validation)):
        case = load_case(preprocessed / configuration.data_identifier, identifier)
        spacing = target_spacing([case.properties.spacing[a] for a in plans.transpose_forward], configuration)
        cases[identifier], diagram = evaluate_one(subject, case.image[:], case.labels[:], identifier, spacing, planned, samples)
        diagrams.append(diagram)
        tiles.append(tile_count(subject.window, case.image.shape[1:]))
    total = sum(diagrams[1:], diagrams[0])
    reconstruction = None
    if not subject.direct:
        with subject.window.autocast():
            reconstruction = reconstruction_dice(subject.model, validation_patches(prepared), labels, device)
    return {
        "classes": list(labels.foreground_names), "planned_steps": 1 if subject.direct else planned, "chosen_steps": measured_steps(folder),
        "tiles": float(np.mean(tiles)), "samples": samples, "reconstruction": reconstruction, "cases": cases,
        "reliability": {k: getattr(total, k).tolist() for k in ("confidence", "accuracy", "count")},
    }  # fmt: skip


def tile_count(window: SlidingWindow, shape: Sequence[int]) -> int:
    """Tiles of an image of `shape` (z, y, x)."""
    return len(Layout.of(window.configuration, shape).boxes())


def evaluate_one(
    subject: Subject, image: np.ndarray, raters: np.ndarray, case: str, spacing: Sequence[float], planned: int, samples: int
) -> tuple[dict[str, Any], Reliability]:
    """The record of one case, and its reliability.

    Args:
        image: preprocessed `(c, z, y, x)`.
        raters: label indices `(m, z, y, x)`.
        spacing: mm `(z, y, x)`.
        planned: the plans' number of steps.
    """
    raters, seconds = raters.astype(np.int16), time_one(subject, image, case)
    several = len(raters) > 1
    counts = {s: samples if several else ENSEMBLE if s in (1, planned) else 1 for s in (*STEPS, planned)}
    if several:
        counts = {s: max(n, ENSEMBLE) for s, n in counts.items()}
    if subject.direct:
        once = subject.draw(image, case, 1, max(counts.values()))
    draws = {s: once if subject.direct else subject.draw(image, case, s, n) for s, n in counts.items()}
    named: dict[str, Drawn] = {**{str(s): draws[s] for s in STEPS}, PLANNED: draws[planned]}
    record: dict[str, Any] = {"seconds": seconds}
    single = subject.one(image, case)
    record["one"] = {k: score(d.indices[0], raters, subject.labels, spacing) for k, d in named.items()}
    record["one"]["1"] = score(single, raters, subject.labels, spacing, surface=True)
    record["ensemble"] = {k: score(named[k].combined, raters, subject.labels, spacing, surface=True) for k in ("1", PLANNED)}
    record["agreement"] = {k: pairwise_dice(named[k].masks[:ENSEMBLE]) for k in ("1", PLANNED)}
    record["swap"] = subject.swapped(image, case, planned)
    record["volume"] = volume_record(named[PLANNED], raters, subject.labels)
    record["noise"] = {"0": confidence_record(single, named[PLANNED], raters, subject.labels, spacing)}
    for sigma in SIGMAS:
        first, last = noisy_draws(subject, noisy(image, case, sigma), case, planned)
        record["noise"][f"{sigma:g}"] = confidence_record(first, last, raters, subject.labels, spacing)
    if subject.direct:
        for sigma in (0, *SIGMAS):
            found = subject.mirrored(noisy(image, case, sigma), case)
            record["noise"][f"{sigma:g}"]["mirrored"] = score(found, raters, subject.labels, spacing)["mean"]
    if several:
        record["raters"] = rater_record(named, raters, subject.labels, samples)
        record["raters"]["dice"] = [score(named[PLANNED].combined, r[None], subject.labels, spacing)["mean"] for r in raters]
    return record, case_reliability(named[PLANNED], raters, subject.labels)


def time_one(subject: Subject, image: np.ndarray, case: str) -> float:
    """Seconds of one sample at one step by the public window."""
    start = time.perf_counter()
    subject.window.probabilities([subject.model], image, case, subject.seed, 1, 1, subject.labels.has_regions)
    return time.perf_counter() - start


def noisy(image: np.ndarray, case: str, sigma: float) -> np.ndarray:
    """The image with noise, the same for every model."""
    return image + sigma * case_noise(0, f"image noise {sigma:g} {case}", 0, image.shape).numpy() if sigma else image


def noisy_draws(subject: Subject, image: np.ndarray, case: str, planned: int) -> tuple[np.ndarray, Drawn]:
    """Label indices of one sample at one step, and draws at the planned steps."""
    last = subject.draw(image, case, 1 if subject.direct else planned, ENSEMBLE)
    return last.indices[0] if subject.direct else subject.one(image, case), last


def score(predicted: np.ndarray, raters: np.ndarray, labels: LabelSpec, spacing: Sequence[float], surface: bool = False) -> dict[str, Any]:
    """Dice (and HD95, mm) of `(z, y, x)` per class, each the mean over the raters `(m, z, y, x)` where it has a finite value."""
    found = [evaluate_case(rater, predicted, labels, spacing, surface) for rater in raters]
    out: dict[str, Any] = {}
    for metric in ("dice", "hd95") if surface else ("dice",):
        out[metric] = {name: finite_mean([f[name][metric] for f in found]) for name in labels.foreground_names}
    out["mean"] = finite_mean(list(out["dice"].values()))
    return out


def finite_mean(values: Sequence[float]) -> float:
    """Mean of what is finite; NaN of nothing."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def confidence_record(one: np.ndarray, several: Drawn, raters: np.ndarray, labels: LabelSpec, spacing: Sequence[float]) -> dict[str, float]:
    """Dice of one sample at one step and of the mean at planned steps, with the confidences of the latter.

    Softmax response: the mean top probability of all voxels, and of the predicted foreground. An empty prediction gets 0 there, and for
    its soft Dice: its reference is rarely empty, so this favours them against the agreement of samples.
    """
    whole = score(several.combined, raters, labels, spacing)["mean"]
    top = np.maximum(several.mean, 1 - several.mean).mean(0) if labels.has_regions else several.mean.max(0)
    inside = several.combined > 0
    return {
        "one": score(one, raters, labels, spacing)["mean"], "ensemble": whole, "loss": 1 - whole,
        "agreement": pairwise_dice(several.masks[:ENSEMBLE]),
        "softmax": float(top.mean()), "softmax_foreground": float(top[inside].mean()) if inside.any() else 0.0,
        "soft_dice": soft_dice(several, top, labels) if inside.any() else 0.0,
    }  # fmt: skip


def soft_dice(drawn: Drawn, top: np.ndarray, labels: LabelSpec) -> float:
    """Soft Dice confidence of the mean, as `ldseg_predict` gives it; `top` `(z, y, x)`: its largest probability."""
    score = ScoreAccumulator(labels, (1.0, 1.0, 1.0))
    score.add_together(drawn.combined[None])
    for number, p in enumerate(drawn.mean if labels.has_regions else drawn.mean[1:]):
        score.add_probability(number, p)
    score.add_confidence(top, drawn.combined)
    return score.finish().soft_dice


def volume_record(drawn: Drawn, raters: np.ndarray, labels: LabelSpec) -> dict[str, float]:
    """The span of the first ENSEMBLE samples' volumes against the raters' `(m, z, y, x)`, over classes that a sample shows.

    Returns:
        `inside`: share of (class, rater) whose volume lies in the span, ends included; `width`: the span by the mean volume. NaN without
        such a class.
    """
    axes = (-3, -2, -1)
    ours, theirs = drawn.masks[:ENSEMBLE].sum(axes, dtype=float), masks(raters, labels).sum(axes)
    low, high, mean = ours.min(0), ours.max(0), ours.mean(0)
    shown = mean > 0
    inside = ((theirs >= low) & (theirs <= high))[:, shown]
    return {"inside": finite_mean(inside.mean(0)), "width": finite_mean((high - low)[shown] / mean[shown])}


def rater_record(named: Mapping[str, Drawn], raters: np.ndarray, labels: LabelSpec, samples: int) -> dict[str, Any]:
    """Samples against raters `(m, z, y, x)`; voxels that any rater ignores count for nobody."""
    valid = np.ones(raters.shape[1:], bool) if labels.ignore_index is None else (raters != labels.ignore_index).all(0)
    theirs = masks(raters, labels) & valid
    ours = {k: d.masks[:samples] & valid for k, d in named.items()}
    return {
        "ged": {k: generalised_energy_distance(m, theirs) for k, m in ours.items()},
        "pairwise": {k: pairwise_dice(m) for k, m in ours.items()}, "agreement": rater_agreement(theirs),
        "empty": {k: float((~m.any(tuple(range(1, m.ndim)))).mean()) for k, m in ours.items()},
        "empty_raters": float((~theirs.any(tuple(range(1, theirs.ndim)))).mean()),
    }  # fmt: skip


def case_reliability(draws: Drawn, raters: np.ndarray, labels: LabelSpec) -> Reliability:
    """Reliability of the mean near the foreground, against every rater; regions count one by one as yes or no."""
    found = []
    for rater in raters:
        valid = np.ones(rater.shape, bool) if labels.ignore_index is None else rater != labels.ignore_index
        near = near_foreground(np.where(valid, draws.combined, 0), np.where(valid, rater, 0), MARGIN) & valid
        if labels.has_regions:
            truth = masks(rater[None], labels)[0]
            pairs = [(np.stack([1 - p, p]), t.astype(np.int16)) for p, t in zip(draws.mean, truth, strict=True)]
        else:
            pairs = [(draws.mean, rater)]
        found += [reliability(p, t, mask=near) for p, t in pairs]
    return sum(found[1:], found[0])
