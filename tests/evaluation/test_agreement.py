"""Agreement against loops over pairs of sets of voxels, closed forms, and the laws of a distance between distributions."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldseg_auto.errors import InputError
from ldseg_auto.evaluation import agreement
from ldseg_auto.evaluation.agreement import generalised_energy_distance, jaccard_distances, pairwise_dice, rater_agreement


@st.composite
def two_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Samples (n, classes, *spatial) and raters (m, classes, *spatial); small, so that empty masks are common."""
    behind = draw(st.sampled_from([(1, 3), (2, 2, 2), (3, 1, 2, 2)]))
    return tuple(draw(arrays(bool, (draw(st.integers(1, 4)), *behind))) for _ in range(2))  # type: ignore[return-value]


def voxels(mask: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(v) for v in np.argwhere(mask)}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - IoU by sets."""
    x, y = voxels(a), voxels(b)
    return 1 - len(x & y) / len(x | y) if x | y else 0.0


def ged_by_loops(samples: np.ndarray, raters: np.ndarray) -> float:
    def expectation(a: np.ndarray, b: np.ndarray, c: int) -> float:
        return math.fsum(distance(x[c], y[c]) for x, y in itertools.product(a, b)) / (len(a) * len(b))

    values = [
        2 * expectation(samples, raters, c) - expectation(samples, samples, c) - expectation(raters, raters, c)
        for c in range(samples.shape[1])
    ]
    return math.fsum(values) / len(values)


@settings(max_examples=60, deadline=None)
@given(two_sets())
def test_distances_equal_those_of_sets(sets: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = sets
    expected = [[distance(x, y) for y in b] for x in a]
    np.testing.assert_allclose(jaccard_distances(a, b), expected, atol=1e-12)


def test_distances_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).random((2, 3, 5, 7)) < 0.4
    whole = jaccard_distances(a, b)
    monkeypatch.setattr(agreement, "CHUNK", 4)  # 35 voxels: eight chunks and a rest
    np.testing.assert_array_equal(jaccard_distances(a, b), whole)


def test_empty_masks_are_equal_to_each_other_and_far_from_the_rest() -> None:
    masks = np.zeros((2, 4), bool)
    masks[1, 0] = True
    assert jaccard_distances(masks, masks).tolist() == [[0, 1], [1, 0]]


@settings(max_examples=60, deadline=None)
@given(two_sets())
def test_ged_equals_loops_over_all_pairs(sets: tuple[np.ndarray, np.ndarray]) -> None:
    assert generalised_energy_distance(*sets) == pytest.approx(ged_by_loops(*sets), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(two_sets(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_ged_of_one_distribution_is_zero_and_else_within_0_and_2(sets: tuple[np.ndarray, np.ndarray], copies: int, random: Random) -> None:
    samples, raters = sets
    order = list(range(len(raters))) * copies
    random.shuffle(order)
    assert generalised_energy_distance(raters[order], raters) == pytest.approx(0, abs=1e-12)
    ged = generalised_energy_distance(samples, raters)
    assert -1e-12 <= ged <= 2  # 1 - IoU is of negative type, so GED^2 is not negative
    assert generalised_energy_distance(raters, samples) == pytest.approx(ged, abs=1e-12)


def test_ged_of_known_sets() -> None:
    """Half of the raters see an object, the model never: 2 x 1/2 - 0 - 1/2; twice as far where all raters see it."""
    seen = np.ones((1, 1, 4), bool)
    raters = np.concatenate([seen, seen, ~seen, ~seen])
    assert generalised_energy_distance(~seen, raters) == 0.5
    assert generalised_energy_distance(~seen, seen) == 2.0
    both_classes = np.concatenate([np.concatenate([raters, raters]), np.repeat(seen, 8, 0)], axis=1)
    assert generalised_energy_distance(np.zeros((1, 2, 4), bool), both_classes) == (0.5 + 2.0) / 2


@settings(max_examples=60, deadline=None)
@given(two_sets().filter(lambda s: len(s[0]) > 1), st.randoms(use_true_random=False))
def test_pairwise_dice_equals_loops_in_any_order(sets: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    masks = sets[0]
    values = []
    for a, b in itertools.combinations(masks, 2):
        for c in range(masks.shape[1]):
            x, y = voxels(a[c]), voxels(b[c])
            if x or y:
                values.append(2 * len(x & y) / (len(x) + len(y)))
    expected = math.fsum(values) / len(values) if values else 1.0
    assert pairwise_dice(masks) == pytest.approx(expected)
    order = list(range(len(masks)))
    random.shuffle(order)
    assert rater_agreement(masks[order]) == pytest.approx(expected)


def test_a_class_that_nobody_sees_does_not_raise_the_agreement() -> None:
    masks = np.zeros((2, 2, 6), bool)
    assert pairwise_dice(masks) == 1.0  # all agree that nothing is there
    masks[0, 0, :4] = masks[1, 0, 2:] = True
    assert pairwise_dice(masks) == 0.5
    masks[1, 1, 0] = True  # seen by one alone: a class of Dice 0
    assert pairwise_dice(masks) == 0.25


def test_what_is_refused() -> None:
    masks = np.zeros((2, 1, 4), bool)
    with pytest.raises(InputError, match="n >= 2"):
        pairwise_dice(masks[:1])
    with pytest.raises(InputError, match="n >= 2"):
        rater_agreement(masks[:1])
    with pytest.raises(InputError, match=r"raters have shape \(0, 1, 4\)"):
        generalised_energy_distance(masks, masks[:0])
    with pytest.raises(InputError, match="agree behind the first axis"):
        generalised_energy_distance(masks, np.zeros((2, 2, 4), bool))
    with pytest.raises(InputError, match="agree behind the first axis"):
        jaccard_distances(masks, np.zeros((2, 1, 5), bool))
    with pytest.raises(InputError, match="int64.*expected bool"):
        jaccard_distances(masks, masks.astype(np.int64))
