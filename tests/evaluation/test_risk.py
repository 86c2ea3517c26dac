"""Risk against sums over thresholds, over all orders of ties, and against the closed form by AUROC."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.risk import augrc, augrc_bounds, risk_coverage

CASES = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=12)  # few confidences, so that ties are common
Cases = list[tuple[int, float]]


def split(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    return np.array([c for c, _ in cases], float), np.array([x for _, x in cases])


def area_of_order(losses: list[float]) -> float:
    """Trapezoids over the thresholds between cases accepted one by one, from (0, 0)."""
    n = len(losses)
    risk = [sum(losses[:k]) / n for k in range(n + 1)]
    return sum((risk[k] + risk[k + 1]) / 2 for k in range(n)) / n


@settings(max_examples=100, deadline=None)
@given(CASES)
def test_curve_equals_a_loop_over_thresholds(cases: Cases) -> None:
    confidence, loss = split(cases)
    found = risk_coverage(confidence, loss)
    thresholds = sorted(set(confidence), reverse=True)
    accepted = [[x for c, x in cases if c >= t] for t in thresholds]
    np.testing.assert_allclose(found.coverage, [len(a) / len(cases) for a in accepted])
    np.testing.assert_allclose(found.selective_risk, [sum(a) / len(a) for a in accepted], atol=1e-12)
    np.testing.assert_allclose(found.generalised_risk, [sum(a) / len(cases) for a in accepted], atol=1e-12)
    np.testing.assert_allclose(found.generalised_risk, found.coverage * found.selective_risk, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_area_without_ties_equals_a_loop_over_thresholds(losses: list[float]) -> None:
    assert augrc(-np.arange(len(losses)), np.array(losses)) == pytest.approx(area_of_order(losses), abs=1e-12)


def test_area_with_ties_is_the_mean_over_all_orders_that_keep_the_confidence_falling() -> None:
    confidence = np.array([2, 1, 1, 1, 0, 0])
    loss = np.array([0.3, 1.0, 0.0, 0.2, 0.9, 0.1])
    allowed = [list(o) for o in itertools.permutations(range(6)) if (np.diff(confidence[list(o)]) <= 0).all()]
    assert len(allowed) == 6 * 2
    assert augrc(confidence, loss) == pytest.approx(np.mean([area_of_order(list(loss[o])) for o in allowed]))


def test_area_with_many_ties_is_near_the_mean_over_random_orders() -> None:
    generator = np.random.default_rng(0)
    confidence, loss = generator.integers(0, 4, 60), generator.random(60)
    areas = [area_of_order(list(loss[np.lexsort((generator.random(60), -confidence))])) for _ in range(400)]
    assert augrc(confidence, loss) == pytest.approx(np.mean(areas), abs=5 * np.std(areas) / np.sqrt(400))


@settings(max_examples=50, deadline=None)
@given(CASES.filter(lambda cases: len({x > 0.5 for _, x in cases}) == 2))
def test_area_of_failures_follows_their_auroc(cases: Cases) -> None:
    """Losses 0 and 1: p (1 - p) (1 - AUROC) + p^2 / 2, AUROC over all pairs of a good and a failed case."""
    confidence, loss = split(cases)
    failed = loss > 0.5
    pairs = np.sign(confidence[~failed][:, None] - confidence[failed][None])
    auroc, p = ((pairs + 1) / 2).mean(), failed.mean()
    assert augrc(confidence, failed) == pytest.approx(p * (1 - p) * (1 - auroc) + p**2 / 2)


@settings(max_examples=100, deadline=None)
@given(CASES, st.randoms(use_true_random=False))
def test_area_lies_between_best_and_worst_in_any_order_of_the_input(cases: Cases, random: Random) -> None:
    confidence, loss = split(cases)
    value, (best, chance) = augrc(confidence, loss), augrc_bounds(loss)
    assert best - 1e-12 <= value <= augrc(loss, loss) + 1e-12
    assert value <= 0.5 + 1e-12
    assert chance == pytest.approx(loss.mean() / 2, abs=1e-12)
    assert best == pytest.approx(area_of_order(sorted(loss)), abs=1e-12)
    assert (value + augrc(-confidence, loss)) / 2 == pytest.approx(chance, abs=1e-12)  # as much better as its reverse is worse
    assert augrc(np.exp(confidence), loss) == pytest.approx(value, abs=1e-12)  # only the order of confidences counts
    order = list(range(len(cases)))
    random.shuffle(order)
    assert augrc(confidence[order], loss[order]) == pytest.approx(value, abs=1e-12)


def test_figures_by_hand() -> None:
    """Losses 0, 0.4, 1 in the right order: (0 + 0.4 / 2 + (0.4 + 1.4) / 2) / 9; in the wrong one (0.5 + 1.2 + 1.4) / 9."""
    loss = np.array([0.4, 1.0, 0.0])
    assert augrc(-loss, loss) == pytest.approx(1.1 / 9)
    assert augrc(loss, loss) == pytest.approx(3.1 / 9)
    assert augrc_bounds(loss) == pytest.approx((1.1 / 9, 1.4 / 6))
    assert augrc(np.array([np.inf, 0, -np.inf]), np.array([0, 0.4, 1.0])) == pytest.approx(1.1 / 9)


def test_what_is_refused() -> None:
    two = np.array([0.1, 0.2])
    with pytest.raises(InputError, match=r"confidence \(2,\) and loss \(1,\)"):
        augrc(two, two[:1])
    with pytest.raises(InputError, match="one case or more"):
        augrc_bounds(two[:0])
    with pytest.raises(InputError, match="confidence of case 1 is NaN"):
        risk_coverage(np.array([0.1, np.nan]), two)
    with pytest.raises(InputError, match="loss of case 1 is nan"):
        augrc(two, np.array([0.1, np.nan]))
    with pytest.raises(InputError, match="loss of case 0 is 1.5"):
        augrc(two, np.array([1.5, 0.1]))
