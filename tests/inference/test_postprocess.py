"""Connected components that are left out, against voxels placed by hand and an independent flood fill."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import measure

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import PlansError
from ldseg_auto.inference.case_score import CaseScore, Volume
from ldseg_auto.inference.postprocess import LARGEST, SMALLEST, Rule, check_rules, clean, components, with_mask

CLASSES = LabelSpec(("a", "b"), (0, 1, 2))
REGIONS = LabelSpec(("whole", "core", "active"), (0, 1, 2, 3), regions=((1, 2, 3), (2, 3), (3,)), paint=(1, 2, 3))
SPACING = (2.0, 1.0, 1.0)  # a voxel is 2 mm3


def row(text: str) -> np.ndarray:
    """One line of voxels, as digits, in a volume of two empty planes around it."""
    out = np.zeros((3, 3, len(text)), np.int16)
    out[1, 1] = [int(c) for c in text]
    return out


def line(indices: np.ndarray) -> str:
    return "".join(str(v) for v in indices[1, 1])


@pytest.mark.parametrize(
    ("before", "rules", "after"),
    [
        ("0110111022", [Rule(LARGEST, "a")], "0000111022"),
        ("0110110022", [Rule(LARGEST, "a")], "0110000022"),  # the first of equals
        ("0110222010", [Rule(LARGEST)], "0000222000"),
        ("1120222201", [Rule(LARGEST)], "0000222200"),  # whatever the class: 3 voxels against 4
        ("0110111022", [Rule(SMALLEST, "a", 0.006)], "0000111022"),  # 3 voxels of 2 mm3
        ("0110111022", [Rule(SMALLEST, "a", 0.0061)], "0000000022"),
        ("0110111022", [Rule(SMALLEST, None, 0.005)], "0000111000"),
        ("1102202221", [Rule(LARGEST, "b"), Rule(LARGEST)], "0000002221"),
        ("0000000000", [Rule(LARGEST), Rule(LARGEST, "a"), Rule(SMALLEST, "b", 1.0)], "0000000000"),
    ],
)
def test_classes(before: str, rules: list[Rule], after: str) -> None:
    given = row(before)
    assert line(clean(given, CLASSES, SPACING, rules)) == after
    assert line(given) == before


@pytest.mark.parametrize(
    ("before", "rule", "after"),
    [
        ("1121122311", Rule(LARGEST, "core"), "1111122311"),  # what leaves the core is tumour
        ("1321133111", Rule(LARGEST, "active"), "1221133111"),  # ... and what is not active is core
        ("1321133111", Rule(LARGEST, "core"), "1321111111"),  # a region holds those inside it
        ("0320133111", Rule(LARGEST, "whole"), "0000133111"),
        ("0320133111", Rule(LARGEST), "0000133111"),
    ],
)
def test_what_leaves_a_region_is_what_lies_around_it(before: str, rule: Rule, after: str) -> None:
    assert line(clean(row(before), REGIONS, SPACING, [rule])) == after


def test_no_change_gives_the_very_map() -> None:
    given = row("0111022200")
    assert clean(given, CLASSES, SPACING, [Rule(LARGEST, "a"), Rule(LARGEST, "b")]) is given


@pytest.mark.parametrize("shape", [(1, 24, 20), (9, 12, 10)])
def test_components_are_those_of_skimage(shape: tuple[int, ...]) -> None:
    """Neighbours share a corner: skimage's full connectivity."""
    mask = np.random.default_rng(0).random(shape) < 0.15
    found, expected = components(mask), measure.label(mask, connectivity=3)
    sizes = sorted(np.bincount(expected.ravel())[1:].tolist())
    assert len(sizes) > 5 and sorted(found.sizes.tolist()) == sizes
    assert found.numbers.shape == tuple(s.stop - s.start for s in found.box)
    inside = mask[found.box]
    assert ((found.numbers > 0) == inside).all() and mask.sum() == inside.sum()


@pytest.mark.parametrize("seed", range(4))
def test_largest_is_idempotent_and_one_component(seed: int) -> None:
    given = np.random.default_rng(seed).choice([0, 0, 0, 1, 2], (6, 12, 10)).astype(np.int16)
    rules = [Rule(LARGEST, "a"), Rule(LARGEST, "b")]
    once = clean(given, CLASSES, SPACING, rules)
    for value in (1, 2):
        assert measure.label(once == value, connectivity=3).max() == 1
        assert ((once == value) <= (given == value)).all()
    assert clean(once, CLASSES, SPACING, rules) is once


def test_sizes_of_the_cleaned_map() -> None:
    volumes = {name: Volume(5.0, 4.0, 6.0, 9.0) for name in ("whole", "core", "active")}
    score = CaseScore(4, 0.5, 0.9, 0.85, volumes, foreground=9.0, predicted_dice=0.8)
    found = with_mask(score, row("0111223000"), REGIONS, SPACING)
    assert {n: v.mask for n, v in found.volumes.items()} == pytest.approx({"whole": 0.012, "core": 0.006, "active": 0.002})
    assert found.foreground == pytest.approx(0.012)
    assert (found.volumes["core"].low, found.agreement, found.softmax, found.predicted_dice) == (4.0, 0.5, 0.9, 0.8)


@pytest.mark.parametrize("bad", [("smallest", None, 0.0), (LARGEST, None, 1.0), (SMALLEST, "a", 0.0), (SMALLEST, "a", float("inf"))])
def test_impossible_rules(bad: tuple) -> None:
    with pytest.raises(PlansError, match="is not possible: expected"):
        Rule(*bad)


def test_classes_of_rules_are_looked_up() -> None:
    assert check_rules([Rule(LARGEST), Rule(LARGEST, "b")], CLASSES) is None
    assert check_rules([Rule(LARGEST, "core"), Rule(LARGEST, "b")], CLASSES) == "core"
