"""Cross-entropy and soft Dice for classes (softmax) and regions (sigmoid), with an ignore mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Total = Callable[[torch.Tensor], torch.Tensor]  # the sum over the processes that train, see ranks.Ranks.total

SMOOTH = 1e-5
TINY = 1e-6  # below a sum of voxels' weights: zero over zero is zero
ONE_VOXEL = 1.0  # added to both sides of a Jaccard index: an absent structure then pulls back the last voxels, too


def alone(x: torch.Tensor) -> torch.Tensor:
    """The `Total` of a single process."""
    return x


def segmentation_loss(
    logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, regions: bool, batch_dice: bool, dice_weight: float = 1.0,
    weights: torch.Tensor | None = None, total: Total = alone,
) -> torch.Tensor:  # fmt: skip
    """`CE + dice_weight * (1 - Dice)`, each a mean weighted by class.

    Args:
        logits: `(b, heads, *spatial)`.
        onehot: the same shape; multi-hot for regions.
        valid: `(b, 1, *spatial)`, 0 where the label is to be ignored.
        regions: sigmoid heads instead of softmax; background has no head then.
        batch_dice: Dice over the whole batch as one volume, instead of per sample.
        weights: `(classes,)`, above 0: of each foreground class or region. In cross-entropy a voxel of a class counts so many times as
            much as one of background (torch's `cross_entropy(weight=)`; for a region as one outside it), in Dice the class itself among
            the classes. None: all 1.
        total: where several processes hold parts of the batch, the loss is that of all parts.
    """
    entropy, probabilities = _entropy(logits, onehot, regions)
    count = voxel_weights(onehot, valid, regions, weights)
    axes = [0, *range(2, entropy.ndim)]
    cross_entropy = (total((entropy * count).sum(axes)) / total(count.sum(axes)).clamp_min(TINY)).mean()
    return cross_entropy + dice_weight * (1 - soft_dice(probabilities, foreground(onehot, regions), valid, batch_dice, weights, total))


def voxel_weights(onehot: torch.Tensor, valid: torch.Tensor, regions: bool, weights: torch.Tensor | None) -> torch.Tensor:
    """How much each voxel counts in cross-entropy: `(b, 1, *spatial)`, with weighted regions `(b, regions, *spatial)`.

    1, or the weight of its class (region) where it is of one, times `valid`.
    """
    if weights is None:
        return valid
    more = foreground(onehot, regions) * (weights - 1).view(-1, *[1] * (onehot.ndim - 2))
    return valid * (1 + (more if regions else more.sum(1, keepdim=True)))


def foreground(onehot: torch.Tensor, regions: bool) -> torch.Tensor:
    """Without the background's head, which regions do not have: `(b, classes, *spatial)`."""
    return onehot if regions else onehot[:, 1:]


def _entropy(logits: torch.Tensor, onehot: torch.Tensor, regions: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each voxel `(b, 1, *spatial)` (regions: of each, `(b, regions, *spatial)`) and foreground probabilities."""
    logits = logits.float()
    if regions:
        return F.binary_cross_entropy_with_logits(logits, onehot, reduction="none"), logits.sigmoid()
    log_probabilities = logits.log_softmax(1)
    return -(onehot * log_probabilities).sum(1, keepdim=True), log_probabilities.exp()[:, 1:]


def energy_loss(
    logits: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, regions: bool, diversity: float, weights: torch.Tensor | None = None,
    total: Total = alone,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Energy score of two draws per sample under the Jaccard distance, and a cross-entropy that does not pull both to one mask.

    `(d(a, y) + d(b, y) - diversity d(a, b)) / 2`: with diversity 1 a proper scoring rule (Gneiting and Raftery 2007, section 4.3),
    whose expectation over raters is half the generalised energy distance, but for a constant. Cross-entropy is no distance: it acts
    on the draw that is nearer to y, and by `1 - diversity` on the other one.

    Args:
        logits: `(2 b, heads, *spatial)`: first draw of every sample, then the second.
        onehot, valid, weights, total: of the b samples, as in segmentation_loss.

    Returns:
        Both terms, means over samples.
    """
    size = len(onehot)
    onehot, valid = torch.cat([onehot, onehot]), torch.cat([valid, valid])
    entropy, p = _entropy(logits, onehot, regions)
    y = foreground(onehot, regions)
    to_label = jaccard_distance(p * valid, y * valid, weights)
    apart = jaccard_distance(p[:size] * valid[:size], p[size:] * valid[:size], weights)
    score = sample_mean(to_label, total) - diversity * sample_mean(apart, total) / 2
    first = (to_label[:size] <= to_label[size:]).detach()
    weight = torch.where(torch.cat([first, ~first]), 1.0, 1 - diversity)
    count = voxel_weights(onehot, valid, regions, weights)
    per_sample = ((entropy * count).flatten(2).sum(2) / count.flatten(2).sum(2).clamp_min(TINY)).mean(1)
    return score, sample_mean(weight * per_sample, total)


def sample_mean(values: torch.Tensor, total: Total) -> torch.Tensor:
    """Mean of `(b,)` over the samples of all processes."""
    summed, count = total(torch.stack([values.sum(), values.new_full((), len(values))])).unbind()
    return summed / count.detach()


def jaccard_distance(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """`1 - sum min(a, b) / sum max(a, b)`, (weighted) mean over classes: `(b, classes, *spatial)` to (b,) in [0, 1].

    For a and b in [0, 1] a metric (Ruzicka), and so is a mean of metrics with weights above 0.
    """
    a, b = a.flatten(2), b.flatten(2)
    shared, union = torch.minimum(a, b).sum(-1), torch.maximum(a, b).sum(-1)
    return _class_mean(1 - (shared + ONE_VOXEL) / (union + ONE_VOXEL), weights)


def soft_dice(
    probabilities: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, batch_dice: bool, weights: torch.Tensor | None = None,
    total: Total = alone,
) -> torch.Tensor:  # fmt: skip
    """(Weighted) mean over classes of `(2 sum(p y) + s) / (sum p + sum y + s)`; shapes as in segmentation_loss."""
    axes = [*([0] if batch_dice else []), *range(2, probabilities.ndim)]
    p, y = probabilities * valid, onehot * valid
    shared, size = (p * y).sum(axes), p.sum(axes) + y.sum(axes)
    if batch_dice:
        shared, size = total(torch.stack([shared, size])).unbind()
        return _class_mean((2 * shared + SMOOTH) / (size + SMOOTH), weights)
    return sample_mean(_class_mean((2 * shared + SMOOTH) / (size + SMOOTH), weights), total)


def _class_mean(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Mean over the last axis, the classes."""
    return values.mean(-1) if weights is None else (values * weights).sum(-1) / weights.sum()
