"""Fixed patches of the validation cases: pseudo-Dice each epoch, and what the label autoencoder and the number of steps are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.agreement import generalised_energy_distance
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.networks.standardise import Running
from ldseg_auto.training.ranks import ALONE, Ranks

NEAR_BEST = 0.001  # Dice: the fewest steps within this of the best are chosen (design.md 4)
NEAR_DISTANCE = 0.005  # of the generalised energy distance, likewise
SAMPLES = 8  # for it
Patches = Sequence[tuple[torch.Tensor, torch.Tensor]]  # image (b, c, *patch), label indices (b, *patch)


class Overlap:
    """Voxels of intersection, reference and prediction per foreground head, summed over patches as if they were one image."""

    def __init__(self, labels: LabelSpec) -> None:
        self.labels, self.counts = labels, np.zeros((3, len(labels.foreground_names)))

    def add(self, logits: torch.Tensor, label: torch.Tensor) -> None:
        """`logits` `(b, heads, *patch)` and label indices `(b, *patch)`, on the CPU."""
        ignored = self.labels.ignore_index
        valid = (label != ignored)[:, None] if ignored is not None else torch.ones_like(label[:, None], dtype=torch.bool)
        true, predicted = foreground_masks(label, self.labels), predicted_masks(logits, self.labels)
        axes = (0, *range(2, true.ndim))
        for row, mask in enumerate((true & predicted, true, predicted)):
            self.counts[row] += (mask & valid).sum(axes).numpy()

    def add_up(self, ranks: Ranks) -> None:
        """The counts of all ranks instead of this one's; whole numbers, so that their order does not matter."""
        self.counts = ranks.numbers(*self.counts.ravel()).sum(0).numpy().reshape(self.counts.shape)

    @property
    def dice(self) -> np.ndarray:
        """Per foreground head; NaN where a class is in neither."""
        with np.errstate(invalid="ignore"):
            return 2 * self.counts[0] / (self.counts[1] + self.counts[2])


def foreground_masks(label: torch.Tensor, labels: LabelSpec) -> torch.Tensor:
    """Bool masks `(b, classes, *patch)` of label indices `(b, *patch)`."""
    first = 0 if labels.has_regions else 1
    return torch.from_numpy(labels.table)[label].movedim(-1, 1)[:, first:] > 0


def predicted_masks(logits: torch.Tensor, labels: LabelSpec) -> torch.Tensor:
    """Bool masks `(b, classes, *patch)` of logits `(b, heads, *patch)`."""
    return logits > 0 if labels.has_regions else foreground_masks(logits.argmax(1), labels)


@torch.inference_mode()
def patch_dice(model: LDSeg, patches: Patches, labels: LabelSpec, steps: int, device: torch.device, ranks: Ranks = ALONE) -> np.ndarray:
    """Pseudo-Dice per foreground head of one draw, as one sample is predicted; noise is fixed by the patch's number.

    Here and below, `ranks` share the patches.
    """
    overlap = Overlap(labels)
    for i in ranks.mine(len(patches)):
        image, label = patches[i]
        draw = _noise(i, (len(image), *model.latent_shape(tuple(image.shape[2:]))), device)
        start = draw(-1)
        start = torch.zeros_like(start) if model.centre and steps == 1 else start
        overlap.add(model.predict(image.to(device), start, steps, draw).cpu(), label)
    overlap.add_up(ranks)
    return overlap.dice


@torch.inference_mode()
def reconstruction_dice(model: LDSeg, patches: Patches, labels: LabelSpec, device: torch.device, ranks: Ranks = ALONE) -> dict[str, float]:
    """Dice per class of the label autoencoder with the image switched off (gate G0)."""
    overlap, table = Overlap(labels), torch.from_numpy(labels.table)
    for i in ranks.mine(len(patches)):
        label = patches[i][1]
        z0 = model.encode_label(table[label].movedim(-1, 1).contiguous().to(device))
        overlap.add(model.decode(z0, None).float().cpu(), label)
    overlap.add_up(ranks)
    return {name: float(d) for name, d in zip(labels.foreground_names, overlap.dice, strict=True)}


@torch.no_grad()
def calibrate_latent(model: LDSeg, patches: Patches, labels: LabelSpec, device: torch.device, ranks: Ranks = ALONE) -> None:
    """Sets the latent's mean and deviation to those of the model's own label encoder on `patches`.

    Averaged weights (EMA) give latents of another scale than the weights whose statistics were averaged along with them.
    """
    if not isinstance(model.standardise, Running):
        return
    table, sums, number = torch.from_numpy(labels.table), torch.zeros(2, model.channels, dtype=torch.float64), 0
    for i in ranks.mine(len(patches)):
        label = patches[i][1]
        raw = model.raw_latent(table[label].movedim(-1, 1).contiguous().to(device))
        raw = raw.cpu().double().movedim(1, 0).flatten(1)
        sums += torch.stack([raw.sum(1), raw.square().sum(1)])
        number += raw.shape[1]
    *added, number = ranks.numbers(*sums.ravel().tolist(), number).sum(0).tolist()
    mean, square = torch.tensor(added, dtype=torch.float64).view_as(sums) / max(1, number)
    model.standardise.mean.copy_(mean)
    model.standardise.variance.copy_((square - mean.square()).clamp_min(0))


def step_curve(
    model: LDSeg, patches: Patches, labels: LabelSpec, planned: int, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Mean Dice over 1, 2, 4, ... planned steps, and the fewest steps within 0.1 Dice points of the best.

    Where steps are averaged, further ones work a sample out and keep no more of its spread: several samples take the fewest of 2 and more.
    """
    curve = {n: mean_dice(patch_dice(model, patches, labels, n, device, ranks)) for n in step_counts(planned)}
    found = {"dice": {str(n): d for n, d in curve.items()}, "chosen": _fewest(curve)}
    more = {n: d for n, d in curve.items() if n > 1}
    return {**found, "chosen_for_samples": _fewest(more)} if model.parts.average_steps and more else found


def _fewest(curve: dict[int, float]) -> int:
    """The first number of steps whose Dice is near the best."""
    best = max(curve.values())
    return next(n for n, dice in curve.items() if dice >= best - NEAR_BEST)


@torch.inference_mode()
def distance_curve(
    model: LDSeg, by_rater: Sequence[Patches], labels: LabelSpec, planned: int, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Generalised energy distance of 8 samples over 1, 2, 4, ... planned steps, and the fewest steps within 0.005 of the best.

    A patch is compared with the raters who drew it, on the voxels that all of them annotated.

    Args:
        by_rater: the same patches with each rater's labels; -1 where a rater did not draw the case.

    Returns:
        Empty where no patch is annotated.
    """
    curve = {}
    for steps in step_counts(planned):
        values: list[float] = []
        for i in ranks.mine(len(by_rater[0])):
            raters = [patches[i] for patches in by_rater]
            image = raters[0][0]
            draw = _noise(i, (len(image), *model.latent_shape(tuple(image.shape[2:]))), device)
            condition = model.condition(image.to(device))
            drawn = [model.decode(model.sample(draw(-1), condition, steps, draw), condition).float().cpu() for _ in range(SAMPLES)]
            samples = torch.stack([predicted_masks(logits, labels) for logits in drawn], 1)  # (b, samples, classes, *patch)
            truths = torch.stack([label for _, label in raters], 1)  # (b, raters, *patch)
            distances = [_distance(s, y, labels) for s, y in zip(samples, truths, strict=True)]
            values += [d for d in distances if d is not None]
        values = [d for part in ranks.gathered(values) for d in part]
        if not values:
            return {}
        curve[steps] = float(np.mean(values))
    near = min(curve.values()) + NEAR_DISTANCE
    return {"distance": {str(n): d for n, d in curve.items()}, "chosen_for_samples": next(n for n in curve if curve[n] <= near)}


def _distance(samples: torch.Tensor, truths: torch.Tensor, labels: LabelSpec) -> float | None:
    """Generalised energy distance of masks `(samples, classes, *patch)` to label indices `(raters, *patch)`, -1 who did not draw it.

    Only voxels count that all raters annotated, but for those who annotated none. None where nothing is left.
    """
    annotated = (truths != labels.ignore_index) & (truths >= 0) if labels.ignore_index is not None else truths >= 0
    who = annotated.flatten(1).any(1)
    everywhere = annotated[who].all(0)
    if not who.any() or not everywhere.any():
        return None
    masks = foreground_masks(truths[who], labels)
    return generalised_energy_distance(samples[..., everywhere].numpy(), masks[..., everywhere].numpy())


def step_counts(planned: int) -> list[int]:
    """1, 2, 4, ... and `planned`."""
    return sorted({min(2**i, planned) for i in range(planned.bit_length() + 1)})


def mean_dice(per_class: np.ndarray) -> float:
    """Mean over the classes that are there; 0 when none is."""
    present = per_class[~np.isnan(per_class)]
    return float(present.mean()) if len(present) else 0.0


def _noise(seed: int, shape: tuple[int, ...], device: torch.device) -> Callable[[int], torch.Tensor]:
    """Standard normal noise of `shape` for the start (-1) and each step, drawn in the order of the calls."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(shape, generator=generator).to(device)
