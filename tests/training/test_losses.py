"""The segmentation loss against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ldseg_auto.training.losses import segmentation_loss, soft_dice

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
