"""The case score against loops over voxels, and its laws: pieces, chunks and packing change nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.agreement import pairwise_dice
from ldseg_auto.inference import case_score
from ldseg_auto.inference.case_score import CaseScore, ScoreAccumulator, voxel_size

CLASSES = LabelSpec.from_dict({"background": 0, "liver": 1, "tumour": 7})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}, [1, 2, 3])
MANY = LabelSpec.from_dict({"background": 0, **{f"bone {i}": i for i in range(1, 104)}})
IGNORED = LabelSpec.from_dict({"background": 0, "liver": 1, "ignore": 2})
SPACING = (2.0, 0.5, 0.5)  # a voxel of 0.5 mm3


def score(labels: LabelSpec, draws: np.ndarray, label: np.ndarray, top: np.ndarray, spacing: tuple[float, ...] = SPACING) -> CaseScore:
    accumulator = ScoreAccumulator(labels, spacing)
    for draw in draws:
        accumulator.add(draw)
    accumulator.add_confidence(top, label)
    return accumulator.finish()


def sets(labels: LabelSpec, indices: np.ndarray) -> list[set[int]]:
    """Voxel numbers of each class or region, by the raw values that dataset.json names."""
    groups = labels.regions or [(v,) for v in labels.values[1:]]
    return [{i for i, index in enumerate(indices.ravel()) if labels.values[index] in group} for group in groups]


def agreement_by_loops(labels: LabelSpec, draws: np.ndarray) -> float:
    found = []
    for a, b in itertools.combinations(draws, 2):
        for x, y in zip(sets(labels, a), sets(labels, b), strict=True):
            found += [2 * len(x & y) / (len(x) + len(y))] if x or y else []
    return sum(found) / len(found) if found else 1.0


@st.composite
def cases(draw: st.DrawFn) -> tuple[LabelSpec, np.ndarray]:
    labels = draw(st.sampled_from([CLASSES, REGIONS, MANY, IGNORED]))
    shape = (draw(st.integers(2, 4)), *draw(st.sampled_from([(1, 3, 4), (2, 2, 3)])))
    return labels, draw(arrays(np.int16, shape, elements=st.integers(0, len(labels.values) - 1)))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_agreement_and_volumes_equal_those_of_sets(case: tuple[LabelSpec, np.ndarray]) -> None:
    labels, draws = case
    found = score(labels, draws, draws[0], np.ones(draws[0].shape))
    assert found.draws == len(draws)
    assert found.agreement == pytest.approx(agreement_by_loops(labels, draws))
    for i, name in enumerate(labels.foreground_names):
        sizes = [len(sets(labels, d)[i]) * 0.0005 for d in draws]
        volume = found.volumes[name]
        assert volume.mean == pytest.approx(np.mean(sizes))
        assert (volume.low, volume.high) == pytest.approx((np.quantile(sizes, 0.05), np.quantile(sizes, 0.95)))
        assert volume.mask == pytest.approx(sizes[0])
        assert min(sizes) <= volume.low <= volume.high <= max(sizes) + 1e-12
    assert found.foreground == pytest.approx(np.count_nonzero(draws[0]) * 0.0005)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_agreement_is_the_pairwise_dice_of_evaluation(case: tuple[LabelSpec, np.ndarray]) -> None:
    labels, draws = case
    members = (labels.table.T if labels.has_regions else labels.table.T[1:]) > 0
    masks = np.stack([m[draws] for m in members], axis=1)
    assert score(labels, draws, draws[0], np.ones(draws[0].shape)).agreement == pytest.approx(pairwise_dice(masks))


@pytest.mark.parametrize("chunk", [1, 5, 8, 64])
@pytest.mark.parametrize("labels", [CLASSES, REGIONS, MANY])
def test_chunks_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int, labels: LabelSpec) -> None:
    rng = np.random.default_rng(chunk)
    draws = rng.integers(0, len(labels.values), (3, 4, 3, 5)).astype(np.int16) * (rng.random((3, 4, 3, 5)) < 0.4)
    draws, top = draws.astype(np.int16), rng.random((4, 3, 5)).astype(np.float32)
    whole = score(labels, draws, draws[0], top)
    monkeypatch.setattr(case_score, "CHUNK", chunk)
    pieces = ScoreAccumulator(labels, SPACING)
    for z in (slice(0, 1), slice(1, 4)):
        pieces.add_together(draws[:, z])
        pieces.add_confidence(top[z], draws[0, z])
    for other in (score(labels, draws, draws[0], top), pieces.finish()):
        assert other.softmax == pytest.approx(whole.softmax, rel=1e-12)
        assert (other.agreement, other.volumes, other.foreground) == (whole.agreement, whole.volumes, whole.foreground)


def test_one_draw_has_no_agreement_and_no_interval() -> None:
    draw = np.array([[[0, 1, 1, 2]]], np.int16)
    found = score(CLASSES, draw[None], draw, np.array([[[0.9, 0.6, 0.8, 1.0]]]))
    assert found.agreement is None
    assert found.volumes["liver"] == case_score.Volume(0.001, 0.001, 0.001, 0.001)
    assert found.softmax == pytest.approx(0.8)  # (0.6 + 0.8 + 1.0) / 3: the background's 0.9 is left out
    assert found.predicted_dice is None


def test_equal_draws_agree_and_disjoint_ones_do_not() -> None:
    a, b = np.array([[[1, 0, 2]]], np.int16), np.array([[[0, 1, 0]]], np.int16)
    ones = np.ones(a.shape)
    assert score(CLASSES, np.stack([a, a, a]), a, ones).agreement == 1
    assert score(CLASSES, np.stack([a, b]), a, ones).agreement == 0
    assert score(CLASSES, np.stack([a * 0, a * 0]), a, ones).agreement == 1


def soft_dice(labels: LabelSpec, probabilities: np.ndarray, chunk: int = 99) -> float:
    """Of mean probabilities `(heads, n)` in pieces of `chunk` voxels."""
    accumulator = ScoreAccumulator(labels, SPACING)
    for start in range(0, probabilities.shape[1], chunk):
        piece = probabilities[:, None, None, start : start + chunk]
        indices = labels.assign(piece - 0.5 if labels.has_regions else piece)
        accumulator.add_together(indices[None])
        for number, p in enumerate(piece if labels.has_regions else piece[1:]):
            accumulator.add_probability(number, p)
        accumulator.add_confidence(piece.max(0), indices)
    return accumulator.finish().soft_dice


def test_soft_dice_of_classes_by_hand() -> None:
    """liver: mask of voxels 1 and 2, p 0.6 + 0.9 in it and 0.3 outside, 0.05 is faint; tumour: nothing predicted, so no value."""
    liver, tumour = np.array([0.05, 0.6, 0.9, 0.3]), np.array([0.0, 0.3, 0.05, 0.2])
    p = np.stack([1 - liver - tumour, liver, tumour])
    assert soft_dice(CLASSES, p) == pytest.approx(2 * 1.5 / (1.8 + 2))
    assert soft_dice(CLASSES, p, 1) == pytest.approx(2 * 1.5 / (1.8 + 2))
    p = p[[0, 2, 1]]
    assert soft_dice(CLASSES, np.concatenate([p, np.array([[0.1], [0.8], [0.1]])], 1)) == pytest.approx(
        np.mean([2 * 0.8 / (0.8 + 0.3 + 0.2 + 1), 2 * 1.5 / (1.8 + 0.1 + 2)])
    )


def test_soft_dice_of_regions_takes_each_region_by_itself() -> None:
    whole, core, rim = np.array([0.9, 0.8, 0.2]), np.array([0.6, 0.4, 0.05]), np.array([0.1, 0.2, 0.3])
    assert soft_dice(REGIONS, np.stack([whole, core, rim])) == pytest.approx(np.mean([2 * 1.7 / (1.9 + 2), 2 * 0.6 / (1.0 + 1)]))


def test_soft_dice_of_many_classes_counts_faint_winners() -> None:
    """Of 104 classes the winner may have less than 0.1: what is in a mask counts in both sums, so that it stays below 1."""
    p = np.full((104, 1), 0.92 / 103)
    p[7] = 0.08
    assert soft_dice(MANY, p) == pytest.approx(2 * 0.08 / (0.08 + 1))


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (3, 6), elements=st.floats(-6, 6)), st.integers(1, 6))
def test_soft_dice_is_at_most_1_and_reaches_it_where_nothing_is_in_doubt(logits: np.ndarray, chunk: int) -> None:
    p = np.exp(logits) / np.exp(logits).sum(0)
    whole = soft_dice(CLASSES, p)
    assert 0 < whole <= 1
    assert soft_dice(CLASSES, p, chunk) == pytest.approx(whole, rel=1e-12)
    sure = np.eye(3)[p.argmax(0)].T
    assert soft_dice(CLASSES, sure) == 1


def test_nothing_predicted() -> None:
    empty = np.zeros((1, 2, 2), np.int16)
    found = score(CLASSES, np.stack([empty, empty]), empty, np.full(empty.shape, 0.7))
    assert (found.softmax, found.soft_dice, found.foreground, found.volumes["tumour"].high) == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("spacing", "size", "unit"),
    [
        ((2.0, 0.5, 0.5), 0.0005, "ml"),
        ((999.0, 1.0, 1.0), 1.0, "mm2"),
        ((999 * 0.25, 0.25, 0.2), 0.05, "mm2"),
        ((1.0, 1.0, 1.0), 0.001, "ml"),
    ],
)
def test_size_of_a_voxel(spacing: tuple[float, ...], size: float, unit: str) -> None:
    assert voxel_size(spacing) == (pytest.approx(size), unit)


def test_draws_wait_in_few_bytes() -> None:
    """104 classes need 7 bits a voxel; a smooth label map is stored in far less."""
    label = np.zeros((64, 128, 128), np.int16)
    for i in range(1, 104):
        label[(i // 16) * 8 : (i // 16) * 8 + 6, (i % 16) * 8 : (i % 16) * 8 + 7, 10:90] = i
    accumulator = ScoreAccumulator(MANY, SPACING)
    accumulator.add(label)
    assert sum(len(c) for c in accumulator.draws[0] if c) < label.size / 50
    noise = np.random.default_rng(0).integers(0, 104, label.shape).astype(np.int16)
    accumulator.add(noise)
    assert sum(len(c) for c in accumulator.draws[1] if c) < label.size * 7 / 8 * 1.01  # the worst case: 7 bits


def test_misuse_is_refused() -> None:
    label = np.zeros((1, 2, 2), np.int16)
    with pytest.raises(ValueError, match="finish"):
        ScoreAccumulator(CLASSES, SPACING).finish()
    accumulator = ScoreAccumulator(CLASSES, SPACING)
    accumulator.add(label)
    with pytest.raises(ValueError, match="same shape"):
        accumulator.add(label[:, :1])
    with pytest.raises(ValueError, match="not both"):
        accumulator.add_together(label[None])
