"""Cross-entropy and soft Dice for classes (softmax) and regions (sigmoid), with an ignore mask."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SMOOTH = 1e-5


def segmentation_loss(
    logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, regions: bool, batch_dice: bool, dice_weight: float = 1.0
) -> torch.Tensor:
    """`CE + dice_weight * (1 - Dice)`.

    Args:
        logits: `(b, heads, *spatial)`.
        onehot: the same shape; multi-hot for regions.
        valid: `(b, 1, *spatial)`, 0 where the label is to be ignored.
        regions: sigmoid heads instead of softmax; background has no head then.
        batch_dice: Dice over the whole batch as one volume, instead of per sample.
    """
    logits = logits.float()
    if regions:
        entropy = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none").mean(1, keepdim=True)
        probabilities = logits.sigmoid()
    else:
        log_probabilities = logits.log_softmax(1)
        entropy = -(onehot * log_probabilities).sum(1, keepdim=True)
        probabilities = log_probabilities.exp()[:, 1:]
        onehot = onehot[:, 1:]
    cross_entropy = (entropy * valid).sum() / valid.sum().clamp_min(1)
    return cross_entropy + dice_weight * (1 - soft_dice(probabilities, onehot, valid, batch_dice))


def soft_dice(probabilities: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, batch_dice: bool) -> torch.Tensor:
    """Mean over classes of `(2 sum(p y) + s) / (sum p + sum y + s)`; shapes as in segmentation_loss."""
    axes = [*([0] if batch_dice else []), *range(2, probabilities.ndim)]
    p, y = probabilities * valid, onehot * valid
    return ((2 * (p * y).sum(axes) + SMOOTH) / (p.sum(axes) + y.sum(axes) + SMOOTH)).mean()
