"""Means, intervals and differences, against plain loops and formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldseg_auto.evaluation.bootstrap import paired_difference
from ldseg_auto.selection.scores import Sample, array_of, difference, interval, mean

NAN = math.nan


def sample(n: int) -> Sample:
    return Sample.of({f"c{i:03d}": f"c{i:03d}" for i in range(n)})


def test_raters_then_cases_then_classes() -> None:
    table = {
        "y": {"0": {"a": {"dice": 1.0}, "b": {"dice": NAN}}, "1": {"a": {"dice": 0.5}, "b": {"dice": 0.2}}},
        "x": {"0": {"a": {"dice": NAN}, "b": {"dice": 0.6}}},
    }
    found = array_of(table, "dice", ["a", "b"], Sample.of({"y": "y", "x": "x"}))
    np.testing.assert_allclose(found, [[NAN, 0.6], [0.75, 0.2]])  # cases sorted
    assert mean(found) == pytest.approx((0.75 + (0.6 + 0.2) / 2) / 2)


def test_one_class_is_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((30, 1)), rng.random((30, 1))
    assert difference(a, b, sample(30)) == pytest.approx(paired_difference(a[:, 0], b[:, 0]))


def test_a_constant_gain_has_no_width_and_a_difference_turns_round() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((25, 3)), rng.random((25, 3))
    assert difference(a + 0.1, a, sample(25)) == pytest.approx((0.1, 0.1, 0.1))
    forth, back = difference(a, b, sample(25)), difference(b, a, sample(25))
    assert forth == pytest.approx((-back[0], -back[2], -back[1]))
    assert interval(a, sample(25))[0] == pytest.approx(mean(a))


def test_what_one_invents_counts_against_it() -> None:
    """In the second case nobody has the class; a invents it (0), b does not (no value)."""
    a, b = np.array([[0.8], [0.0], [0.8]]), np.array([[0.8], [NAN], [0.8]])
    value, low, high = difference(a, b, sample(3))
    assert value == pytest.approx(1.6 / 3 - 0.8) and low < value < high and high == 0


def test_patients_are_drawn_whole() -> None:
    """Ten cases of one patient and one of another: draws are both, the first twice or the second twice."""
    cases = {**{f"a{i}": "a" for i in range(10)}, "b": "b"}
    scores = np.array([[0.0]] * 10 + [[1.0]])
    value, low, high = interval(scores, Sample.of(cases))
    assert (value, low, high) == (pytest.approx(1 / 11), 0.0, 1.0)
    one_by_one = interval(scores, sample(11))
    assert one_by_one[2] < 0.5


def test_nothing_to_compare() -> None:
    nothing = np.full((4, 2), NAN)
    assert all(math.isnan(v) for v in (*interval(nothing, sample(4)), *difference(nothing, nothing, sample(4))))
