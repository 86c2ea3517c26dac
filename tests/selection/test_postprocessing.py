"""Which rules are kept: on label maps drawn for it, against a full evaluation of each rule."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.inference.postprocess import LARGEST, SMALLEST, Rule, clean, kept
from ldseg_auto.selection.postprocessing import find_rules, helps, options_of, parts_of
from ldseg_auto.selection.scores import Sample, nan_mean

CLASSES = LabelSpec(("a", "b"), (0, 1, 2))
IGNORING = LabelSpec(("a", "b"), (0, 1, 2), ignore_value=3)
REGIONS = LabelSpec(("whole", "core"), (0, 1, 2), regions=((1, 2), (2,)), paint=(1, 2))
SPACING, SHAPE, N = (2.0, 1.0, 1.0), (6, 16, 16), 8


class Maps:
    """Stands in for CrossValidation: label maps and references in memory."""

    def __init__(self, labels: LabelSpec, cases: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        self.labels, self.cases = labels, cases

    def maps(self, candidate: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, ...]]]:
        for case, (indices, reference) in sorted(self.cases.items()):
            yield case, indices, reference, SPACING

    def score(self, reference: np.ndarray, indices: np.ndarray, labels: LabelSpec, spacing: Any) -> dict[str, Any]:
        return {str(r): evaluate_case(one, indices, labels, spacing) for r, one in enumerate(reference)}


def run(labels: LabelSpec, cases: dict[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    maps: Any = Maps(labels, cases)
    candidate: Any = SimpleNamespace(name="m", models=[SimpleNamespace(folder=SimpleNamespace(description=SimpleNamespace(labels=labels)))])
    table = {case: maps.score(reference, indices, labels, SPACING) for case, indices, reference, _ in maps.maps(candidate)}
    return find_rules(maps, candidate, Sample.of({c: c for c in cases}), table), table


def organ(value: int = 1) -> np.ndarray:
    out = np.zeros(SHAPE, np.int16)
    out[1:5, 4:10, 4:10] = value
    return out


def with_spots(truth: np.ndarray, value: int, sizes: tuple[int, ...]) -> np.ndarray:
    """False components of some voxels in a row each, far from the organ."""
    out = truth.copy()
    for place, size in enumerate(sizes):
        out[0, 12 + 2 * place, 0:size] = value
    return out


def test_false_spots_are_removed_by_the_whole_foreground() -> None:
    cases = {f"c{i}": (with_spots(organ(), 1, (3,)), organ()[None]) for i in range(N)}
    outcome, table = run(CLASSES, cases)
    assert outcome.rules == (Rule(LARGEST),)
    assert all(raters["0"]["a"]["dice"] == 1 and raters["0"]["a"]["nsd"] == 1 for raters in outcome.table.values())
    assert table["c0"]["0"]["a"]["dice"] < 1


def test_a_class_of_two_parts_keeps_both_and_loses_its_spots() -> None:
    """Class b lies in two equal parts, apart from a: its largest component, and that of the foreground, may not be all that is kept."""
    truth = organ()
    truth[1:5, 0:2, 0:2], truth[1:5, 0:2, 13:15] = 2, 2
    cases = {f"c{i}": (with_spots(with_spots(truth, 1, (3,)), 2, (0, 2)), truth[None]) for i in range(N)}
    outcome, _ = run(CLASSES, cases)
    assert [(r.kind, r.of) for r in outcome.rules] == [(LARGEST, "a"), (SMALLEST, "b")]
    assert outcome.unit == "ml" and 2 * 0.002 < outcome.rules[1].size <= 16 * 0.002
    assert all(m["dice"] == 1 for raters in outcome.table.values() for m in raters["0"].values())


def test_a_rule_that_harms_one_case_more_than_it_helps_is_not_kept() -> None:
    """In two of eight cases the larger part is the false one."""
    cases = {}
    for i in range(N):
        truth = organ()
        found = with_spots(truth, 1, (3,))
        if i < 2:
            found[:, 12:, 3:] = 1  # 6 x 4 x 13 voxels against 4 x 6 x 6
        cases[f"c{i}"] = (found, truth[None])
    outcome, table = run(CLASSES, cases)
    assert not any(r.kind == LARGEST for r in outcome.rules)
    assert any(t.rules == (Rule(LARGEST),) and not t.kept for t in outcome.trials)


def test_nothing_to_do() -> None:
    outcome, table = run(CLASSES, {f"c{i}": (organ(), organ()[None]) for i in range(N)})
    assert outcome.rules == () and outcome.table == table


def test_regions() -> None:
    """A false core inside the tumour becomes tumour."""
    truth = organ()
    truth[2, 5:7, 5:7] = 2
    found = truth.copy()
    found[4, 9, 9] = 2
    outcome, _ = run(REGIONS, {f"c{i}": (found, truth[None]) for i in range(N)})
    assert outcome.rules == (Rule(LARGEST, "core"),)
    assert all(m["dice"] == 1 for raters in outcome.table.values() for m in raters["0"].values())


@pytest.mark.parametrize("labels", [CLASSES, IGNORING, REGIONS], ids=["classes", "ignore", "regions"])
@pytest.mark.parametrize("seed", range(3))
def test_dice_of_components_is_that_of_the_cleaned_map(labels: LabelSpec, seed: int) -> None:
    """Tables of components against cleaning and evaluating: two raters, random masks."""
    rng = np.random.default_rng(seed)
    indices = rng.choice([0, 0, 0, 0, 1, 2], SHAPE).astype(np.int16)
    values = [0, 0, 1, 2, 3] if labels.ignore_index is not None else [0, 0, 1, 2]
    reference = np.where(rng.random((2, *SHAPE)) < 0.5, indices, rng.choice(values, (2, *SHAPE))).astype(np.int16)
    for name in labels.foreground_names:
        parts = parts_of(indices, reference, labels, name, 0.002)
        for rule in (Rule(LARGEST, name), Rule(SMALLEST, name, 0.0059), Rule(SMALLEST, name, 5.0)):
            cleaned = clean(indices, labels, SPACING, [rule])
            expected = [evaluate_case(one, cleaned, labels, SPACING, surface=False)[name]["dice"] for one in reference]
            assert parts.dice(kept(rule, parts.sizes)) == pytest.approx(float(nan_mean(np.array(expected))))


def test_sizes_to_try_lie_just_above_false_components() -> None:
    truth = organ()
    parts = [parts_of(with_spots(truth, 1, (2, 5)), truth[None], CLASSES, "a", 0.002)]
    assert list(options_of(parts, "a")) == [Rule(LARGEST, "a"), Rule(SMALLEST, "a", 0.0101)]  # 2 and 5 voxels of 0.002 ml
    assert list(options_of([parts_of(truth, truth[None], CLASSES, "a", 0.002)], "a")) == []


@pytest.mark.parametrize(
    ("gain", "harm", "expected"),
    [((0.1, 0.0, 0.2), 0.001, True), ((0.1, -0.01, 0.2), 0.0, False), ((0.0, 0.0, 0.0), 0.0, False), ((0.1, 0.05, 0.2), 0.0011, False)],
)
def test_helps(gain: tuple[float, float, float], harm: float, expected: bool) -> None:
    assert helps(gain, harm) == expected
