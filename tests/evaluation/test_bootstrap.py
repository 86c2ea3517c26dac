"""Bootstrap intervals against the normal theory of a mean, exact small cases, and the laws of pairing and seeds."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.bootstrap import mean_interval, paired_difference, statistic_interval
from ldseg_auto.evaluation.risk import augrc


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_of_a_mean_has_the_width_of_its_standard_error(level: float) -> None:
    values = np.random.default_rng(0).normal(3, 2, 300)
    mean, low, high = mean_interval(values, level=level)
    expected = NormalDist().inv_cdf((1 + level) / 2) * values.std() / math.sqrt(300)
    assert mean == pytest.approx(values.mean())
    assert mean - low == pytest.approx(expected, rel=0.1)
    assert high - mean == pytest.approx(expected, rel=0.1)


def test_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        _, low, high = mean_interval(generator.normal(0, 1, 40), seed=seed, draws=200, level=0.9)
        inside += low <= 0 <= high
    assert 0.82 <= inside / 200 <= 0.95  # 0.9 less the bias of small n, with a binomial standard error of 0.02


def test_two_cases_have_three_possible_means() -> None:
    """Cases 0 and 1: means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    values = np.array([0.0, 1.0])
    assert mean_interval(values, level=0.9) == (0.5, 0.0, 1.0)  # 5 % of the draws lie within the quarter of zeros
    assert mean_interval(values, level=0.4) == (0.5, 0.5, 0.5)  # 30 % do not
    drawn = []
    statistic_interval(lambda cases: drawn.append(values[cases].mean()) or 0.0, 2, draws=4000)  # type: ignore[func-returns-value]
    shares = [np.mean(np.array(drawn) == m) for m in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_constant_values_have_an_interval_of_one_point() -> None:
    assert mean_interval(np.full(7, 0.25)) == (0.25, 0.25, 0.25)
    assert mean_interval(np.array([0.5])) == (0.5, 0.5, 0.5)


def test_seeds_share_their_cases() -> None:
    """Two trainings that differ by a constant tell nothing new about the cases: the same width. Independent draws would narrow it."""
    values = np.random.default_rng(2).random(50)
    one = mean_interval(values)
    two = mean_interval(np.stack([values, values + 0.2]))
    assert two == pytest.approx([v + 0.1 for v in one])
    mirrored = mean_interval(np.stack([values, 1 - values]))
    assert mirrored == pytest.approx((0.5, 0.5, 0.5))


def test_cases_without_a_value_are_left_out() -> None:
    values = np.random.default_rng(3).random((2, 20))
    gaps = values.copy()
    gaps[0, 4] = gaps[1, 9] = math.nan
    keep = np.delete(np.arange(20), [4, 9])
    assert mean_interval(gaps) == mean_interval(values[:, keep])
    assert mean_interval(gaps[0]) == mean_interval(np.delete(values[0], 4))
    assert paired_difference(gaps[0], gaps[1]) == mean_interval((values[0] - values[1])[keep])


def test_pairing_removes_what_the_cases_share() -> None:
    generator = np.random.default_rng(4)
    hard = generator.normal(0, 1, 100)
    noise = generator.normal(0, 0.05, (2, 100))
    a, b = hard + 0.1 + noise[0], hard + noise[1]
    mean, low, high = paired_difference(a, b)
    assert mean == pytest.approx((a - b).mean())
    assert 0 < low < mean < high
    assert high - low == pytest.approx(2 * NormalDist().inv_cdf(0.975) * (a - b).std() / 10, rel=0.1)
    assert paired_difference(b, a) == pytest.approx((-mean, -high, -low))
    assert paired_difference(np.stack([a, b]), np.stack([b, a])) == pytest.approx((0, 0, 0), abs=1e-12)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(5).random(30)
    assert mean_interval(values, seed=7) == mean_interval(values, seed=7)
    assert mean_interval(values, seed=7) != mean_interval(values, seed=8)


def test_interval_of_a_statistic_holds_its_value() -> None:
    generator = np.random.default_rng(6)
    loss = generator.random(60)
    confidence = -loss + generator.normal(0, 0.1, 60)
    value, low, high = statistic_interval(lambda cases: augrc(confidence[cases], loss[cases]), 60, draws=300)
    assert value == augrc(confidence, loss)
    assert low < value < high < augrc(loss, loss)
    mean = statistic_interval(lambda cases: loss[cases].mean(), 60, seed=3, draws=100, level=0.8)
    assert mean == mean_interval(loss, seed=3, draws=100, level=0.8)


def test_draws_without_a_value_are_left_out() -> None:
    """The statistic is 1 where case 0 is drawn, else NaN."""
    assert statistic_interval(lambda cases: 1.0 if 0 in cases else math.nan, 3) == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="NaN in all 10 draws of 3 cases"):
        statistic_interval(lambda cases: math.nan, 3, draws=10)


def test_what_is_refused() -> None:
    values = np.array([0.1, 0.2])
    with pytest.raises(InputError, match="all 3 cases are NaN"):
        mean_interval(np.full((2, 3), math.nan))
    with pytest.raises(InputError, match=r"expected \(n,\) or \(seeds, n\)"):
        mean_interval(np.zeros((1, 2, 3)))
    with pytest.raises(InputError, match=r"shape \(0,\)"):
        mean_interval(values[:0])
    with pytest.raises(InputError, match="1 of 2 values are infinite"):
        mean_interval(np.array([1, math.inf]))
    with pytest.raises(InputError, match="a holds 1 infinite values and b 1"):
        paired_difference(np.array([1, math.inf]), np.array([1, math.inf]))
    with pytest.raises(InputError, match="one shape"):
        paired_difference(values, values[:1])
    with pytest.raises(InputError, match="level is 95"):
        mean_interval(values, level=95)
    with pytest.raises(InputError, match="draws is 0"):
        mean_interval(values, draws=0)
    with pytest.raises(InputError, match="n is 0"):
        statistic_interval(lambda cases: 0.0, 0)
