"""Which post-processing helps: tried on cross-validated predictions, kept only where it does.

A rule is kept if it raises the mean Dice, the lower bound of its paired bootstrap interval is 0 or above, and no class loses more than
HARM. Rules are tried in this order: the largest component of all foreground; then for each class its largest component, and three
minimum sizes. What is kept is measured once more together, with NSD too; rules of classes that lose there are dropped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.inference.case_score import voxel_size
from ldseg_auto.inference.postprocess import LARGEST, SMALLEST, Rule, clean, components, kept, member_mask
from ldseg_auto.selection.candidates import Candidate
from ldseg_auto.selection.crossval import CrossValidation, Table
from ldseg_auto.selection.scores import METRICS, Interval, Sample, array_of, class_means, difference, nan_mean

logger = logging.getLogger(__name__)
HARM = 0.001  # Dice or NSD that a class may lose on average
QUANTILES = (0.5, 0.9, 1.0)  # of the sizes of false components: minimum sizes to try
DIGITS = 3  # of a minimum size


@dataclass(frozen=True)
class Trial:
    """One rule, or several together, and what it changes."""

    rules: tuple[Rule, ...]
    gain: Interval  # of the mean Dice; of a class's for a rule of one class
    harm: float  # the largest loss of a class, Dice
    kept: bool


@dataclass(frozen=True)
class Outcome:
    """What to do, and what was tried."""

    rules: tuple[Rule, ...]
    trials: tuple[Trial, ...]
    unit: str  # of minimum sizes
    table: dict[str, Table]  # case -> rater -> class -> metric after the rules


@dataclass(frozen=True, eq=False)
class Parts:
    """Components of one class in one case."""

    sizes: np.ndarray  # (n,) in the unit of rules
    counted: np.ndarray  # (n, raters) voxels that are not ignored
    hits: np.ndarray  # (n, raters) voxels that the rater has too
    reference: np.ndarray  # (raters,) voxels

    def dice(self, keep: np.ndarray) -> float:
        """Mean over raters of the Dice with the components `keep` `(n,)` alone; NaN where both are empty for all."""
        total = self.reference + self.counted[keep].sum(0)
        with np.errstate(invalid="ignore"):
            return float(nan_mean(np.where(total > 0, 2 * self.hits[keep].sum(0) / total, np.nan)))


def find_rules(validation: CrossValidation, candidate: Candidate, sample: Sample, table: dict[str, Table]) -> Outcome:
    """The rules that help a candidate.

    Args:
        table: its scores, as CrossValidation.table gives them.
    """
    labels, trials = candidate.models[0].folder.description.labels, []
    everything = _whole(validation, candidate, labels, sample, table)
    trials.append(everything)
    chosen, unit = list(everything.rules if everything.kept else ()), "ml"
    parts: list[list[Parts]] = [[] for _ in labels.foreground_names]
    for _, indices, reference, spacing in validation.maps(candidate):
        indices, unit = clean(indices, labels, spacing, chosen), voxel_size(spacing)[1]
        for found, name in zip(parts, labels.foreground_names, strict=True):
            found.append(parts_of(indices, reference, labels, name, voxel_size(spacing)[0]))
    for found, name in zip(parts, labels.foreground_names, strict=True):
        tried = [_of_class(rule, found, sample) for rule in options_of(found, name)]
        trials += tried
        good = [t for t in tried if t.kept]
        chosen += max(good, key=lambda t: t.gain[0]).rules if good else ()
    rules, after, last = _harmless(validation, candidate, sample, table, chosen)
    trials += last
    return Outcome(tuple(rules), tuple(trials), unit, after)


def parts_of(indices: np.ndarray, reference: np.ndarray, labels: LabelSpec, name: str, voxel: float) -> Parts:
    """Components of a class in label indices `(z, y, x)`, with what references `(raters, z, y, x)` say of them; `voxel` is one's size."""
    found = components(member_mask(indices, labels, name))
    n, columns = len(found.sizes) + 1, []
    for one in reference:
        true, counted = member_mask(one, labels, name), found.sizes
        if labels.ignore_index is not None:
            counted = np.bincount(found.numbers[one[found.box] != labels.ignore_index], minlength=n)[1:]
        columns.append((counted, np.bincount(found.numbers[true[found.box]], minlength=n)[1:], true.sum()))
    counts, hit, sizes = zip(*columns, strict=True)
    return Parts(found.sizes * voxel, np.stack(counts, 1), np.stack(hit, 1), np.array(sizes))


def options_of(cases: Sequence[Parts], name: str) -> Iterator[Rule]:
    """Rules to try for a class: the largest component, and minimum sizes just above quantiles of the components that no rater has."""
    if any(len(p.sizes) > 1 for p in cases):
        yield Rule(LARGEST, name)
    false = np.concatenate([p.sizes[~p.hits.any(1)] for p in cases])
    sizes = {_above(float(np.quantile(false, q, method="higher"))) for q in QUANTILES} if len(false) else set()
    for size in sorted(sizes):
        yield Rule(SMALLEST, name, size)


def helps(gain: Interval, harm: float) -> bool:
    """Whether a rule is kept."""
    return gain[0] > 0 and gain[1] >= 0 and harm <= HARM


def _above(size: float) -> float:
    """The next number of DIGITS digits above a size."""
    step = 10.0 ** (math.floor(math.log10(size)) - DIGITS + 1)
    return float(f"{(math.floor(size / step) + 1) * step:.{DIGITS}g}")


def _of_class(rule: Rule, cases: Sequence[Parts], sample: Sample) -> Trial:
    """A class's Dice with and without, from its components alone."""
    before = np.array([[p.dice(np.ones(len(p.sizes), bool))] for p in cases])
    after = np.array([[p.dice(kept(rule, p.sizes))] for p in cases])
    gain = difference(after, before, sample)
    harm = max(0.0, -gain[0])
    return Trial((rule,), gain, harm, helps(gain, harm))


def _whole(validation: CrossValidation, candidate: Candidate, labels: LabelSpec, sample: Sample, table: dict[str, Table]) -> Trial:
    """The largest component of all foreground."""
    rule, after = Rule(LARGEST), {}
    for case, indices, reference, spacing in validation.maps(candidate):
        cleaned = clean(indices, labels, spacing, [rule])
        same = cleaned is indices
        after[case] = table[case] if same else {
            str(r): evaluate_case(one, cleaned, labels, spacing, surface=False) for r, one in enumerate(reference)
        }  # fmt: skip
    return _compare((rule,), after, labels, sample, table, ("dice",))


def _harmless(
    validation: CrossValidation, candidate: Candidate, sample: Sample, table: dict[str, Table], rules: Sequence[Rule]
) -> tuple[list[Rule], dict[str, Table], list[Trial]]:
    """The rules together, without those of classes that lose by them; scores after them, and what was tried."""
    labels, left, trials = candidate.models[0].folder.description.labels, list(rules), []
    while left:
        after = _cleaned(validation, candidate, labels, left, table)
        trials.append(_compare(tuple(left), after, labels, sample, table, METRICS))
        if trials[-1].kept:
            return left, after, trials
        losing = {n for metric in METRICS for n, lost in _losses(after, table, labels, sample, metric).items() if lost > HARM}
        left = [r for r in left if r.of is not None and r.of not in losing] if losing else []
    if rules:
        logger.info("%s: post-processing that helped rule by rule did not help together: none is kept.", candidate.name)
    return [], table, trials


def _losses(after: dict[str, Table], table: dict[str, Table], labels: LabelSpec, sample: Sample, metric: str) -> dict[str, float]:
    """Class -> what its mean lost; NaN where it has no value."""
    names = labels.foreground_names
    lost = class_means(array_of(table, metric, names, sample)) - class_means(array_of(after, metric, names, sample))
    return dict(zip(names, lost.tolist(), strict=True))


def _cleaned(
    validation: CrossValidation, candidate: Candidate, labels: LabelSpec, rules: Sequence[Rule], table: dict[str, Table]
) -> dict[str, Table]:
    """Scores after the rules; cases that they leave alone keep theirs."""
    after = dict(table)
    for case, indices, reference, spacing in validation.maps(candidate) if rules else ():
        cleaned = clean(indices, labels, spacing, rules)
        if cleaned is not indices:
            after[case] = validation.score(reference, cleaned, labels, spacing)
    return after


def _compare(
    rules: tuple[Rule, ...], after: dict[str, Table], labels: LabelSpec, sample: Sample, table: dict[str, Table], metrics: Sequence[str]
) -> Trial:
    """Gain in Dice; harm in all of `metrics`."""
    names = labels.foreground_names
    lost = [v for metric in metrics for v in _losses(after, table, labels, sample, metric).values() if not math.isnan(v)]
    harm = max([0.0, *lost])
    gain = difference(array_of(after, "dice", names, sample), array_of(table, "dice", names, sample), sample)
    return Trial(rules, gain, harm, helps(gain, harm))
