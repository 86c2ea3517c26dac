"""Calibration against figures by hand, a loop over voxels, and the law that cases add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.calibration import Reliability, near_foreground, reliability


def softmax(shape: tuple[int, ...], seed: int) -> np.ndarray:
    raw = np.exp(2 * np.random.default_rng(seed).standard_normal(shape))
    return raw / raw.sum(0)


def binary(confidence: list[float]) -> np.ndarray:
    """Two classes, class 1 the more probable: (2, voxels)."""
    return np.array([[1 - c for c in confidence], confidence])


def test_figures_by_hand() -> None:
    """Five bins of 0.2: (0.4, 0.6] holds 0.6 (right); (0.6, 0.8] holds 0.7, 0.7 (one right); (0.8, 1] holds 0.9, 1.0 (both right)."""
    found = reliability(binary([0.6, 0.7, 0.7, 0.9, 1.0]), np.array([1, 1, 0, 1, 1]), bins=5)
    assert found.count.tolist() == [0, 0, 1, 2, 2]
    np.testing.assert_allclose(found.confidence, [math.nan, math.nan, 0.6, 0.7, 0.95])
    np.testing.assert_allclose(found.accuracy, [math.nan, math.nan, 1.0, 0.5, 1.0])
    assert found.ece == pytest.approx(1 / 5 * 0.4 + 2 / 5 * 0.2 + 2 / 5 * 0.05)
    assert found.mce == pytest.approx(0.4)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_ece_equals_a_loop_over_voxels(bins: int) -> None:
    probabilities = softmax((3, 6, 7), 0)
    label = np.random.default_rng(1).integers(0, 3, (6, 7))
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for voxel in np.ndindex(6, 7):
        column = [float(p) for p in probabilities[(slice(None), *voxel)]]
        top = max(column)
        m = next(m for m in range(bins) if m / bins < top <= (m + 1) / bins)
        members[m].append((top, column.index(top) == label[voxel]))
    gaps = [abs(np.mean([c for c, _ in b]) - np.mean([r for _, r in b])) for b in members if b]
    found = reliability(probabilities, label, bins)
    assert found.count.tolist() == [len(b) for b in members]
    assert found.ece == pytest.approx(sum(g * len(b) for g, b in zip(gaps, [b for b in members if b], strict=True)) / 42)
    assert found.mce == pytest.approx(max(gaps))


def test_a_calibrated_model_has_no_error_and_a_sure_one_that_of_its_mistakes() -> None:
    generator = np.random.default_rng(2)
    p = generator.random(200_000)
    truth = (generator.random(p.size) < p).astype(int)
    assert reliability(np.stack([1 - p, p]), truth).ece < 0.005  # about 15 bins of standard error 0.5 / sqrt(200000 / 15) at most
    sure = np.stack([np.zeros(10), np.ones(10)])
    assert reliability(sure, np.array([1] * 7 + [0] * 3)).ece == pytest.approx(0.3)


@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_cases_add_up_to_all_voxels_together(cut: int) -> None:
    probabilities, label = softmax((4, 40), 3), np.random.default_rng(4).integers(0, 4, 40)
    whole = reliability(probabilities, label)
    first, second = (reliability(probabilities[:, part], label[part]) for part in (slice(cut), slice(cut, None)))
    for added in (first + second, second + first):
        np.testing.assert_array_equal(added.count, whole.count)
        np.testing.assert_allclose(added.confidence, whole.confidence)
        np.testing.assert_allclose(added.accuracy, whole.accuracy)
        assert (added.ece, added.mce) == pytest.approx((whole.ece, whole.mce))


def test_mask_selects_voxels_and_hides_the_ignore_label() -> None:
    probabilities, label = softmax((2, 5, 6), 5), np.random.default_rng(6).integers(0, 2, (5, 6))
    keep = np.random.default_rng(7).random((5, 6)) < 0.5
    label[~keep] = 255
    found, alone = reliability(probabilities, label, mask=keep), reliability(probabilities[:, keep], label[keep])
    np.testing.assert_array_equal(found.count, alone.count)
    assert found.ece == alone.ece
    nothing = reliability(probabilities, label, mask=np.zeros((5, 6), bool))
    assert math.isnan(nothing.ece) and math.isnan(nothing.mce) and nothing.count.sum() == 0


def test_background_swamps_the_figure() -> None:
    """Ten sure and wrong voxels: error 1 where they lie, 1 % among a thousand easy ones."""
    sure_background = np.stack([np.ones(1000), np.zeros(1000)])
    label = np.zeros(1000, int)
    label[500:510] = 1
    assert reliability(sure_background, label).ece == pytest.approx(0.01)
    near = near_foreground(np.zeros(1000, int), label, 0)
    assert reliability(sure_background, label, mask=near).ece == 1.0


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("shape", [(9, 11), (5, 8, 7)])
def test_near_foreground_equals_city_block_distance(shape: tuple[int, ...], margin: int) -> None:
    generator = np.random.default_rng(margin)
    predicted, reference = (generator.random((2, *shape)) < 0.01) * 3
    predicted[(0,) * len(shape)] = 2
    reference[tuple(s - 1 for s in shape)] = 1
    seeds = np.argwhere((predicted > 0) | (reference > 0))
    everywhere = np.argwhere(np.ones(shape, bool))
    expected = cdist(everywhere, seeds, "cityblock").min(1).reshape(shape) <= margin
    before = predicted.copy()
    np.testing.assert_array_equal(near_foreground(predicted, reference, margin), expected)
    np.testing.assert_array_equal(predicted, before)


def test_near_nothing_is_nothing() -> None:
    assert not near_foreground(np.zeros((4, 5), bool), np.zeros((4, 5), bool), 2).any()


def test_what_is_refused() -> None:
    p, label = softmax((2, 4), 8), np.zeros(4, int)
    with pytest.raises(InputError, match=r"label \(5,\)"):
        reliability(p, np.zeros(5, int))
    with pytest.raises(InputError, match="bins is 0"):
        reliability(p, label, bins=0)
    with pytest.raises(InputError, match="mask is int64"):
        reliability(p, label, mask=np.ones(4, np.int64))
    with pytest.raises(InputError, match="expected a softmax"):
        reliability(2 * p, label)
    with pytest.raises(InputError, match="expected a softmax"):
        reliability(np.where(label == 0, math.nan, p), label)
    with pytest.raises(InputError, match="label holds 0 to 2: expected 0 to 1"):
        reliability(p, np.array([0, 1, 2, 1]))
    with pytest.raises(InputError, match="15 and 5 bins"):
        reliability(p, label) + reliability(p, label, bins=5)
    with pytest.raises(InputError, match=r"three times \(bins,\)"):
        Reliability(np.zeros(3), np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match="one shape"):
        near_foreground(label, np.zeros(5, int), 1)
    with pytest.raises(InputError, match="margin is -1"):
        near_foreground(label, label, -1)
