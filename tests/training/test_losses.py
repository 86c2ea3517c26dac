"""The segmentation loss and the energy score against numpy."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from ldseg_auto.training.losses import energy_loss, foreground, jaccard_distance, segmentation_loss, soft_dice

SMOOTH = 1e-5


def reference(logits: np.ndarray, onehot: np.ndarray, valid: np.ndarray, regions: bool, batch_dice: bool, dice_weight: float) -> float:
    """CE + w (1 - Dice) in float64, one sample and class at a time."""
    b, heads = logits.shape[:2]
    mask = valid[:, 0] > 0
    if regions:
        p = 1 / (1 + np.exp(-logits))
        entropy = np.mean(-onehot * np.log(p) - (1 - onehot) * np.log(1 - p), axis=1)
    else:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        entropy = -np.sum(onehot * np.log(p), axis=1)
    groups = [range(b)] if batch_dice else [[i] for i in range(b)]
    dice = []
    for group in groups:
        for k in range(0 if regions else 1, heads):
            q = np.concatenate([p[i, k][mask[i]] for i in group])
            y = np.concatenate([onehot[i, k][mask[i]] for i in group])
            dice.append((2 * (q * y).sum() + SMOOTH) / (q.sum() + y.sum() + SMOOTH))
    return float(entropy[mask].mean() + dice_weight * (1 - np.mean(dice)))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_against_numpy(regions: bool, batch_dice: bool, ignored: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 5, 6)) * 3
    onehot = (rng.random((3, 4, 5, 6)) < 0.4) if regions else np.eye(4)[rng.integers(4, size=(3, 5, 6))].transpose(0, 3, 1, 2)
    valid = (rng.random((3, 1, 5, 6)) >= ignored).astype(float)
    expected = reference(logits, onehot.astype(float), valid, regions, batch_dice, 2.0)
    tensors = [torch.from_numpy(np.asarray(a, np.float32)) for a in (logits, onehot, valid)]
    assert float(segmentation_loss(*tensors, regions, batch_dice, 2.0)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_class_weights_against_torch(batch_dice: bool) -> None:
    """Classes: torch's weighted cross-entropy over the annotated voxels, and the weighted mean of the classes' Dice."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=rng)
    label = torch.randint(4, (3, 5, 6), generator=rng)
    valid = (torch.rand(3, 1, 5, 6, generator=rng) < 0.7).float()
    weights, onehot = torch.tensor([1.0, 5.0, 0.25]), torch.eye(4)[label].movedim(-1, 1)
    annotated = torch.where(valid[:, 0] > 0, label, -100)
    entropy = torch.nn.functional.cross_entropy(logits, annotated, weight=torch.tensor([1.0, 1.0, 5.0, 0.25]))
    p = logits.softmax(1)
    dice = [float(soft_dice(p[:, k : k + 1], onehot[:, k : k + 1], valid, batch_dice)) for k in (1, 2, 3)]
    expected = float(entropy) + 2 * (1 - np.average(dice, weights=weights.numpy()))
    assert float(segmentation_loss(logits, onehot, valid, False, batch_dice, 2.0, weights)) == pytest.approx(expected, rel=1e-5)


def test_region_weights_against_torch() -> None:
    """Regions: a voxel inside counts `weight` times, each region by itself."""
    rng = torch.Generator().manual_seed(0)
    logits, onehot = torch.randn(2, 3, 5, 6, generator=rng), (torch.rand(2, 3, 5, 6, generator=rng) < 0.3).float()
    valid, weights = (torch.rand(2, 1, 5, 6, generator=rng) < 0.7).float(), torch.tensor([1.0, 5.0, 0.25])
    keep = valid[:, 0] > 0
    entropy = []
    for k, w in enumerate(weights):
        x, y = logits[:, k][keep], onehot[:, k][keep]
        each = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        entropy.append(float(np.average(each.numpy(), weights=torch.where(y > 0, w, 1.0).numpy())))
    found = segmentation_loss(logits, onehot, valid, True, True, 0.0, weights)
    assert float(found) == pytest.approx(np.mean(entropy), rel=1e-5)


@pytest.mark.parametrize("regions", [False, True])
def test_equal_weights_are_no_weights(regions: bool) -> None:
    """And the scale of Dice's and the energy score's weights does not matter."""
    rng = torch.Generator().manual_seed(0)
    logits, label = torch.randn(4, 3, 5, 6, generator=rng), torch.randint(3, (2, 5, 6), generator=rng)
    onehot, valid = torch.eye(3)[label].movedim(-1, 1), torch.ones(2, 1, 5, 6)
    count = 3 if regions else 2
    for loss in (
        lambda w: segmentation_loss(logits[:2], onehot, valid, regions, True, 1.0, w),
        lambda w: torch.stack(energy_loss(logits, onehot, valid, regions, 0.5, w)).sum(),
    ):
        torch.testing.assert_close(loss(torch.ones(count)), loss(None))
    a, b = torch.rand(2, 3, 9, generator=rng), torch.rand(2, 3, 9, generator=rng)
    torch.testing.assert_close(jaccard_distance(a, b, torch.full((3,), 7.0)), jaccard_distance(a, b))


def test_ignored_voxels_have_no_gradient() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    onehot, valid = torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 4, 4)
    onehot[:, 1], valid[..., :2] = 1, 0
    segmentation_loss(logits, onehot, valid, False, True).backward()
    assert not logits.grad[..., :2].any() and logits.grad[..., 2:].all()


def test_nothing_annotated_is_finite() -> None:
    loss = segmentation_loss(torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), False, True)
    assert loss.isfinite() and float(loss) == pytest.approx(0, abs=1e-6)


def test_perfect_and_worst_masks() -> None:
    y = torch.zeros(1, 1, 10)
    y[..., :4] = 1
    valid = torch.ones(1, 1, 10)
    assert float(soft_dice(y, y, valid, True)) == pytest.approx(1)
    assert float(soft_dice(1 - y, y, valid, True)) == pytest.approx(0, abs=1e-5)


def test_half_precision_logits_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 64, 64).bfloat16()
    onehot = torch.eye(2)[torch.randint(2, (1, 64, 64))].movedim(-1, 1)
    valid = torch.ones(1, 1, 64, 64)
    half, full = (segmentation_loss(x, onehot, valid, False, True) for x in (logits, logits.float()))
    assert half.dtype == torch.float32 and float(half) == float(full)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Soft Jaccard distance of one sample `(classes, voxels)`, one voxel at a time, with one shared voxel added."""
    values = []
    for p, q in zip(a, b, strict=True):
        shared, union = 1.0, 1.0
        for x, y in zip(p, q, strict=True):
            shared, union = shared + min(x, y), union + max(x, y)
        values.append(1 - shared / union)
    return float(np.mean(values))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_energy_loss_against_a_loop(regions: bool, diversity: float, ignored: float) -> None:
    rng = np.random.default_rng(0)
    b, heads, voxels, first = 3, 4, 12, 0 if regions else 1
    logits = rng.normal(size=(2 * b, heads, voxels)) * 3
    classes = np.eye(heads)[rng.integers(heads, size=(b, voxels))].swapaxes(1, 2)
    onehot = (rng.random((b, heads, voxels)) < 0.4) * 1.0 if regions else classes
    valid = (rng.random((b, 1, voxels)) >= ignored) * 1.0
    score, entropy = 0.0, 0.0
    for i in range(b):
        seen = valid[i, 0] > 0
        draws, crosses = [], []
        for x in (logits[i], logits[b + i]):
            p = 1 / (1 + np.exp(-x)) if regions else np.exp(x) / np.exp(x).sum(0)
            per_voxel = np.mean(-onehot[i] * np.log(p) - (1 - onehot[i]) * np.log(1 - p), 0) if regions else -np.log((p * onehot[i]).sum(0))
            draws.append(p[first:, seen])
            crosses.append(per_voxel[seen].mean())
        to_label = [distance(draw, onehot[i, first:, seen].T) for draw in draws]
        score += (sum(to_label) - diversity * distance(*draws)) / 2 / b
        near = int(to_label[1] < to_label[0])
        entropy += (crosses[near] + (1 - diversity) * crosses[1 - near]) / 2 / b
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (logits, onehot, valid)]
    found = energy_loss(*tensors, regions, diversity)
    assert [float(f) for f in found] == pytest.approx([score, entropy], rel=1e-4)


def masks(*rows: list[int]) -> torch.Tensor:
    """Class maps `(b, 2, voxels)`, one-hot."""
    return torch.eye(2)[torch.tensor(rows)].movedim(-1, 1)


@pytest.mark.parametrize("p", [0.15, 0.5, 0.7])
def test_the_energy_score_is_proper_and_the_plain_distance_seeks_the_mode(p: float) -> None:
    """Truth a with probability p, else b; two independent draws are a with probability q: enumerated, lowest expectation at q = p."""
    a, b = masks([1, 1, 1, 0, 0, 0, 0]), masks([0, 0, 1, 1, 0, 0, 1])
    valid, sure = torch.ones(1, 1, 7), 60.0
    qs = np.linspace(0, 1, 101)
    expected = {0.0: np.zeros(101), 1.0: np.zeros(101)}
    for diversity, curve in expected.items():
        for (truth, weight), first, second in product(((a, p), (b, 1 - p)), (0, 1), (0, 1)):
            logits = sure * torch.cat([(a, b)[first], (a, b)[second]])
            value = float(energy_loss(logits, truth, valid, False, diversity)[0])
            curve += weight * np.where(first, 1 - qs, qs) * np.where(second, 1 - qs, qs) * value
    assert qs[expected[1.0].argmin()] == pytest.approx(p)
    if p != 0.5:
        assert qs[expected[0.0].argmin()] == round(p)
    else:
        np.testing.assert_allclose(expected[0.0], expected[0.0][0], rtol=1e-5)  # any mixture is as good


def test_cross_entropy_pulls_the_nearer_draw_only() -> None:
    """As far as diversity is wanted; of two equally near ones the first."""
    y = masks([1, 1, 0, 0], [0, 1, 1, 0])
    near, far = 2 * y - 1, 1 - 2 * y
    for draws, weights in (((near, far), (1.0, 0.0)), ((far, near), (0.0, 1.0)), ((near, near), (1.0, 0.0))):
        for diversity in (0.0, 0.25, 1.0):
            logits = torch.cat(draws).requires_grad_()
            energy_loss(logits, y, torch.ones(2, 1, 4), False, diversity)[1].backward()
            alone = torch.cat(draws).requires_grad_()
            energy_loss(alone, y, torch.ones(2, 1, 4), False, 0.0)[1].backward()
            share = torch.tensor([max(w, 1 - diversity) for w in weights]).repeat_interleave(2).view(4, 1, 1)
            torch.testing.assert_close(logits.grad, alone.grad * share)


def test_ignored_voxels_have_no_gradient_in_the_energy_score() -> None:
    torch.manual_seed(0)
    logits, valid = torch.randn(4, 3, 6, requires_grad=True), torch.ones(2, 1, 6)
    valid[..., :2] = 0
    onehot = torch.eye(3)[torch.randint(3, (2, 6))].movedim(-1, 1)
    sum(energy_loss(logits, onehot, valid, False, 0.5)).backward()
    assert not logits.grad[..., :2].any() and logits.grad[..., 2:].all()
    score, entropy = energy_loss(logits.detach(), onehot, torch.zeros(2, 1, 6), False, 1.0)
    assert float(score) == float(entropy) == 0  # nothing annotated


@pytest.mark.parametrize("seed", range(5))
def test_jaccard_distance_is_a_metric_on_soft_masks(seed: int) -> None:
    """The added voxel is one that all masks share: it leaves the Ruzicka distance a metric, exactly."""
    rng = np.random.default_rng(seed)
    sets = torch.from_numpy(rng.random((40, 2, 5)) ** rng.integers(1, 9) * (rng.random((40, 2, 5)) < 0.7))
    table = torch.stack([jaccard_distance(sets, other.expand_as(sets)) for other in sets])
    assert torch.equal(table.diagonal(), torch.zeros(40, dtype=table.dtype))
    assert torch.equal(table, table.T)
    assert (table >= 0).all() and (table < 1).all()
    assert (table[:, None] <= table[:, :, None] + table.T[None] + 1e-12).all()  # d(i, k) <= d(i, j) + d(j, k)
    assert (table[~torch.eye(40, dtype=torch.bool)] > 0).any()


def test_jaccard_distance_of_large_masks_is_one_minus_iou() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 2, 100, 100)) < np.array([0.3, 0.6]).reshape(2, 1, 1, 1, 1)
    iou = (a & b).sum((2, 3)) / (a | b).sum((2, 3))
    found = jaccard_distance(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    np.testing.assert_allclose(found.numpy(), (1 - iou).mean(1), atol=2e-4)
    empty = torch.zeros(1, 1, 100)
    sizes = [float(jaccard_distance(empty, (torch.arange(100) < n).float().expand(1, 1, -1))) for n in (0, 1, 4, 99)]
    assert sizes == pytest.approx([0, 1 / 2, 4 / 5, 99 / 100]) and all(x < y for x, y in pairwise(sizes))  # an absent structure pulls


def test_foreground_drops_the_background_head_of_classes_only() -> None:
    onehot = torch.arange(6.0).view(1, 3, 2)
    assert torch.equal(foreground(onehot, False), onehot[:, 1:]) and torch.equal(foreground(onehot, True), onehot)
