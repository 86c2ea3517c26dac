"""Cross-entropy and soft Dice for classes (softmax) and regions (sigmoid), with an ignore mask."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SMOOTH = 1e-5
ONE_VOXEL = 1.0  # added to both sides of a Jaccard index: an absent structure then pulls back the last voxels, too


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
    entropy, probabilities = _entropy(logits, onehot, regions)
    cross_entropy = (entropy * valid).sum() / valid.sum().clamp_min(1)
    return cross_entropy + dice_weight * (1 - soft_dice(probabilities, foreground(onehot, regions), valid, batch_dice))


def foreground(onehot: torch.Tensor, regions: bool) -> torch.Tensor:
    """Without the background's head, which regions do not have: `(b, classes, *spatial)`."""
    return onehot if regions else onehot[:, 1:]


def _entropy(logits: torch.Tensor, onehot: torch.Tensor, regions: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each voxel `(b, 1, *spatial)` and foreground probabilities `(b, classes, *spatial)`."""
    logits = logits.float()
    if regions:
        return F.binary_cross_entropy_with_logits(logits, onehot, reduction="none").mean(1, keepdim=True), logits.sigmoid()
    log_probabilities = logits.log_softmax(1)
    return -(onehot * log_probabilities).sum(1, keepdim=True), log_probabilities.exp()[:, 1:]


def energy_loss(
    logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, regions: bool, diversity: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy score of two draws per sample under the Jaccard distance, and a cross-entropy that does not pull both to one mask.

    `(d(a, y) + d(b, y) - diversity d(a, b)) / 2`: with diversity 1 a proper scoring rule (Gneiting and Raftery 2007, section 4.3),
    whose expectation over raters is half the generalised energy distance, but for a constant. Cross-entropy is no distance: it acts
    on the draw that is nearer to y, and by `1 - diversity` on the other one.

    Args:
        logits: `(2 b, heads, *spatial)`: first draw of every sample, then the second.
        onehot, valid: of the b samples, as in segmentation_loss.

    Returns:
        Both terms, means over samples.
    """
    size = len(onehot)
    onehot, valid = torch.cat([onehot, onehot]), torch.cat([valid, valid])
    entropy, p = _entropy(logits, onehot, regions)
    y = foreground(onehot, regions)
    to_label = jaccard_distance(p * valid, y * valid)
    apart = jaccard_distance(p[:size] * valid[:size], p[size:] * valid[:size])
    score = to_label.mean() - diversity * apart.mean() / 2
    first = (to_label[:size] <= to_label[size:]).detach()
    weight = torch.where(torch.cat([first, ~first]), 1.0, 1 - diversity)
    per_sample = (entropy * valid).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)
    return score, (weight * per_sample).mean()


def jaccard_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`1 - sum min(a, b) / sum max(a, b)`, mean over classes: `(b, classes, *spatial)` in [0, 1] to (b,); a metric (Ruzicka)."""
    a, b = a.flatten(2), b.flatten(2)
    shared, union = torch.minimum(a, b).sum(-1), torch.maximum(a, b).sum(-1)
    return (1 - (shared + ONE_VOXEL) / (union + ONE_VOXEL)).mean(1)


def soft_dice(probabilities: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, batch_dice: bool) -> torch.Tensor:
    """Mean over classes of `(2 sum(p y) + s) / (sum p + sum y + s)`; shapes as in segmentation_loss."""
    axes = [*([0] if batch_dice else []), *range(2, probabilities.ndim)]
    p, y = probabilities * valid, onehot * valid
    return ((2 * (p * y).sum(axes) + SMOOTH) / (p.sum(axes) + y.sum(axes) + SMOOTH)).mean()
