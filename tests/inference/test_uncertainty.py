"""Entropy and mutual information: closed forms, the Kullback-Leibler form of the latter, and laws over random draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ldseg_auto.inference.uncertainty import entropy, mutual_information


def from_draws(draws: np.ndarray, regions: bool) -> tuple[np.ndarray, np.ndarray]:
    """Predictive entropy and mutual information of draws (count, heads, *spatial)."""
    total = entropy(np.mean(draws, axis=0, dtype=np.float32), regions)
    return total, mutual_information(total, np.mean([entropy(d, regions) for d in draws], axis=0))


def draws_of(seed: int, regions: bool, count: int = 4, heads: int = 3, sharpness: float = 1.0) -> np.ndarray:
    """(count, heads, 2, 3, 4) float32; a softmax over heads, or sigmoids."""
    logits = sharpness * np.random.default_rng(seed).standard_normal((count, heads, 2, 3, 4))
    if regions:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("heads", [2, 5, 104])
def test_entropy_of_uniform_and_certain(heads: int) -> None:
    np.testing.assert_allclose(entropy(np.full((heads, 2), 1 / heads, np.float32), False), math.log(heads), rtol=1e-5)
    certain = np.eye(heads, dtype=np.float32)
    np.testing.assert_array_equal(entropy(certain, False), np.zeros(heads))
    np.testing.assert_array_equal(entropy(certain, True), np.zeros(heads))
    np.testing.assert_allclose(entropy(np.full((heads, 2), 0.5, np.float32), True), heads * math.log(2), rtol=1e-5)


def test_entropy_equals_scipys() -> None:
    p = draws_of(0, regions=False)[0]
    np.testing.assert_allclose(entropy(p, False), stats.entropy(p, axis=0), rtol=1e-5)
    q = draws_of(0, regions=True)[0]
    np.testing.assert_allclose(entropy(q, True), stats.entropy(np.stack([q, 1 - q]), axis=0).sum(0), rtol=1e-5)


def test_two_certain_draws_that_differ() -> None:
    """One voxel, two classes, each draw sure of another: all of the entropy log 2 is disagreement."""
    total, information = from_draws(np.array([[[1.0], [0.0]], [[0.0], [1.0]]], np.float32), False)
    np.testing.assert_allclose([total[0], information[0]], [math.log(2)] * 2, rtol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_mutual_information_is_the_mean_divergence_from_the_mean(seed: int, regions: bool) -> None:
    """I = mean_d KL(p_d || mean p): another formula for the same number."""
    draws = draws_of(seed, regions).astype(float)
    both = np.stack([draws, 1 - draws]) if regions else draws[None]  # (1 or 2, count, heads, ...)
    mean = both.mean(1, keepdims=True)
    divergence = (both * np.log(both / mean)).sum((0, 2)).mean(0)
    np.testing.assert_allclose(from_draws(draws, regions)[1], divergence, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_laws(seed: int, sharpness: float, regions: bool) -> None:
    draws = draws_of(seed, regions, sharpness=sharpness)
    total, information = from_draws(draws, regions)
    assert (information >= 0).all() and (information <= total).all()
    assert (total <= (3 * math.log(2) if regions else math.log(3)) + 1e-5).all()
    assert total.dtype == information.dtype == np.float32
    np.testing.assert_allclose(from_draws(draws[::-1], regions), (total, information), atol=2e-6)  # the order of draws
    np.testing.assert_allclose(from_draws(draws[:, ::-1], regions), (total, information), atol=2e-6)  # the order of heads


@pytest.mark.parametrize("regions", [False, True])
def test_equal_draws_have_no_mutual_information(regions: bool) -> None:
    draw = draws_of(1, regions)[0]
    total, information = from_draws([draw] * 5, regions)
    np.testing.assert_allclose(information, 0, atol=1e-6)
    np.testing.assert_allclose(total, entropy(draw, regions), atol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_heads_and_slabs_add_up(regions: bool) -> None:
    draw = draws_of(2, regions)[0]
    by_head = sum(entropy(head[None], regions) for head in draw)
    np.testing.assert_allclose(by_head, entropy(draw, regions), rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([entropy(draw[:, :1], regions), entropy(draw[:, 1:], regions)]), entropy(draw, regions))


def test_rounding_outside_the_bounds_counts_as_the_end() -> None:
    p = np.array([[1.0000001, 0.5], [-1e-7, 0.5]], np.float32)
    np.testing.assert_allclose(entropy(p, False), [0, math.log(2)], atol=1e-6)
    assert (entropy(p, True) >= 0).all()
    np.testing.assert_array_equal(mutual_information(np.array([1.0, 0.5, 0.0]), np.array([1.1, -0.1, 0.0])), [0, 0.5, 0])
