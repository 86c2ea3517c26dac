"""Fixed patches: pseudo-Dice, the label autoencoder, the number of steps, and the latent's calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.patches import (
    Patches,
    calibrate_latent,
    distance_curve,
    foreground_masks,
    mean_dice,
    patch_dice,
    predicted_masks,
    reconstruction_dice,
    step_counts,
    step_curve,
)  # fmt: skip

CPU = torch.device("cpu")
CLASSES = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2, "rare": 3})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, [1, 2])


class Scripted:
    """A model that predicts given logits, whatever the image; with few steps they are wrong in a few voxels."""

    centre = False

    def __init__(self, logits: list[torch.Tensor], errors: dict[int, int] | None = None, averaged: bool = False) -> None:
        self.parts = SimpleNamespace(average_steps=averaged)
        self.logits, self.errors, self.noises, self.calls = logits, errors or {}, [], 0  # type: ignore[var-annotated]

    def latent_shape(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *(s // 2 for s in spatial))

    def predict(self, image: torch.Tensor, noise: torch.Tensor, steps: int, fresh: object) -> torch.Tensor:
        self.noises.append(noise)
        logits = self.logits[self.calls % len(self.logits)].clone()
        self.calls += 1
        logits.flatten(2)[:, :, : self.errors.get(steps, 0)] *= -1
        return logits


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_classes_as_if_one_image_and_absent_ones_as_nan() -> None:
    torch.manual_seed(0)
    labels = [torch.randint(3, (2, 8, 8)) for _ in range(2)]
    logits = [torch.randn(2, 4, 8, 8) for _ in range(2)]
    for x in logits:
        x[:, 3] = -9
    found = patch_dice(Scripted(logits), [(torch.zeros(2, 1, 8, 8), y) for y in labels], CLASSES, 1, CPU)  # type: ignore[arg-type]
    predicted, true = torch.cat(logits).argmax(1).numpy(), torch.cat(labels).numpy()
    assert found[:2] == pytest.approx([dice(predicted == c, true == c) for c in (1, 2)])
    assert np.isnan(found[2])
    assert mean_dice(found) == pytest.approx(found[:2].mean())
    assert mean_dice(np.array([np.nan])) == 0


def test_regions_with_ignored_voxels() -> None:
    torch.manual_seed(0)
    label, logits = torch.randint(4, (2, 8, 8)), torch.randn(2, 2, 8, 8)
    found = patch_dice(Scripted([logits]), [(torch.zeros(2, 1, 8, 8), label)], REGIONS, 1, CPU)  # type: ignore[arg-type]
    seen, p = (label != 3).numpy(), (logits > 0).numpy()
    whole, core = ((label == 1) | (label == 2)).numpy(), (label == 2).numpy()
    assert found == pytest.approx([dice(p[:, 0] & seen, whole), dice(p[:, 1] & seen, core)])


def test_noise_is_fixed_by_the_number_of_the_patch() -> None:
    model = Scripted([torch.zeros(1, 4, 8, 8)])
    patches = [(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))] * 2
    for _ in range(2):
        patch_dice(model, patches, CLASSES, 1, CPU)  # type: ignore[arg-type]
    assert torch.equal(model.noises[0], model.noises[2]) and not torch.equal(model.noises[0], model.noises[1])


def test_one_step_starts_from_the_centre_where_one_sample_does() -> None:
    model = Scripted([torch.zeros(1, 4, 8, 8)])
    model.centre = True
    for steps in (1, 2):
        patch_dice(model, [(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))], CLASSES, steps, CPU)  # type: ignore[arg-type]
    assert not model.noises[0].any() and model.noises[1].any()


@pytest.mark.parametrize(
    ("planned", "errors", "counts", "chosen"),
    [
        (8, {1: 30, 2: 10, 4: 0, 8: 0}, [1, 2, 4, 8], 4),
        (6, {1: 0, 2: 0, 4: 0, 6: 0}, [1, 2, 4, 6], 1),
        (3, {1: 30, 2: 30, 3: 0}, [1, 2, 3], 3),
        (1, {1: 5}, [1], 1),
    ],
)
def test_step_curve(planned: int, errors: dict[int, int], counts: list[int], chosen: int) -> None:
    torch.manual_seed(0)
    label = torch.randint(1, 4, (1, 16, 16))
    logits = torch.from_numpy(CLASSES.table)[label].movedim(-1, 1) - 0.5
    curve = step_curve(Scripted([logits], errors), [(torch.zeros(1, 1, 16, 16), label)], CLASSES, planned, CPU)  # type: ignore[arg-type]
    assert list(curve["dice"]) == [str(n) for n in counts]
    assert curve["chosen"] == chosen and "chosen_for_samples" not in curve


@pytest.mark.parametrize(
    ("planned", "errors", "chosen"),
    [(8, {1: 0, 2: 10, 4: 0, 8: 0}, 4), (6, {1: 0, 2: 20, 4: 20, 6: 20}, 2), (3, {1: 30, 2: 30, 3: 0}, 3), (1, {1: 5}, None)],
)
def test_averaged_steps_of_several_samples(planned: int, errors: dict[int, int], chosen: int | None) -> None:
    """Two at least, since samples may be equal after one; else the fewest near the best of the others, however good one step is."""
    torch.manual_seed(0)
    label = torch.randint(1, 4, (1, 16, 16))
    model = Scripted([torch.from_numpy(CLASSES.table)[label].movedim(-1, 1) - 0.5], errors, averaged=True)
    curve = step_curve(model, [(torch.zeros(1, 1, 16, 16), label)], CLASSES, planned, CPU)  # type: ignore[arg-type]
    assert curve.get("chosen_for_samples") == chosen


@pytest.mark.parametrize(("planned", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])])
def test_step_counts(planned: int, counts: list[int]) -> None:
    assert step_counts(planned) == counts


def test_masks_of_classes_and_regions() -> None:
    label = torch.tensor([[[0, 1], [2, 3]]])
    assert foreground_masks(label, CLASSES)[0].tolist() == [[[False, True], [False, False]], [[False, False], [True, False]],
                                                            [[False, False], [False, True]]]  # fmt: skip
    assert foreground_masks(label, REGIONS)[0].tolist() == [[[False, True], [True, False]], [[False, False], [True, False]]]
    logits = torch.tensor([0.1, -2.0]).view(1, 2, 1, 1)
    assert predicted_masks(logits, REGIONS).flatten().tolist() == [True, False]
    assert predicted_masks(torch.tensor([0.1, 0.3, -2.0, 0.2]).view(1, 4, 1, 1), CLASSES).flatten().tolist() == [True, False, False]


class Drawing:
    """Its samples are given label maps in turn; with fewer than `enough` steps always the first one."""

    channels = 1

    def __init__(self, by_patch: Sequence[Sequence[torch.Tensor]], labels: LabelSpec, enough: int) -> None:
        self.by_patch, self.labels, self.enough, self.drawn = by_patch, labels, enough, 0
        self.noises: list[torch.Tensor] = []

    def latent_shape(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *(s // 2 for s in spatial))

    def condition(self, image: torch.Tensor) -> torch.Tensor:
        self.drawn = 0
        return image

    def sample(self, noise: torch.Tensor, condition: torch.Tensor, steps: int, fresh: object) -> torch.Tensor:
        self.noises.append(noise)
        raters = self.by_patch[int(condition.flatten()[0])]
        self.drawn += 1
        return raters[(self.drawn - 1) % len(raters) if steps >= self.enough else 0]

    def decode(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.labels.table)[z].movedim(-1, 1) - 0.5


def raters_of(labels: LabelSpec, raters: int) -> tuple[list[list[torch.Tensor]], list[Patches]]:
    """Label maps by patch and rater, and patches by rater; each patch's image is its number."""
    generator = torch.Generator().manual_seed(0)
    by_patch = [[torch.randint(3, (2, 8, 8), generator=generator) for _ in range(raters)] for _ in range(3)]
    by_rater = [[(torch.full((2, 1, 8, 8), float(i)), maps[r]) for i, maps in enumerate(by_patch)] for r in range(raters)]
    return by_patch, by_rater


def iou_distance(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - (a & b).sum() / (a | b).sum() if (a | b).any() else 0.0


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
@pytest.mark.parametrize("raters", [2, 4])
def test_samples_that_are_the_raters_have_distance_zero(labels: LabelSpec, raters: int) -> None:
    """And one mask drawn eight times has twice its mean distance to the raters less theirs among each other."""
    by_patch, by_rater = raters_of(labels, raters)
    model = Drawing(by_patch, labels, enough=2)
    curve = distance_curve(model, by_rater, labels, 4, CPU)  # type: ignore[arg-type]
    assert list(curve["distance"]) == ["1", "2", "4"] and curve["chosen_for_samples"] == 2
    assert [curve["distance"][n] for n in ("2", "4")] == pytest.approx([0, 0], abs=1e-12)
    values = []
    for maps in by_patch:
        for sample in range(2):
            masks = [foreground_masks(m, labels)[sample].numpy() for m in maps]
            for c in range(masks[0].shape[0]):
                to_raters = np.mean([iou_distance(masks[0][c], m[c]) for m in masks])
                values.append(2 * to_raters - np.mean([iou_distance(a[c], b[c]) for a in masks for b in masks]))
    assert curve["distance"]["1"] == pytest.approx(np.mean(values)) and curve["distance"]["1"] > 0.1


def test_raters_count_where_they_drew_and_annotated() -> None:
    """Of four raters one did not draw the first sample and one ignores all of it; the two others are compared on what both annotated."""
    by_patch, by_rater = raters_of(REGIONS, 4)
    for patches in by_rater:
        for _, label in patches:
            label[1] = -1  # the second sample: nobody
    for i, maps in enumerate(by_patch):
        maps[1][0], maps[2][0] = -1, 3
        maps[0][0, :2], maps[3][0, :, i] = 3, 3
    model = Drawing([[m.clamp_min(0) for m in maps] for maps in by_patch], REGIONS, enough=9)
    curve = distance_curve(model, by_rater, REGIONS, 1, CPU)  # type: ignore[arg-type]
    values = []
    for i, maps in enumerate(by_patch):
        seen = np.ones((8, 8), bool)
        seen[:2], seen[:, i] = False, False
        a, b = (foreground_masks(m, REGIONS)[0].numpy()[:, seen] for m in (maps[0], maps[3]))
        values += [iou_distance(x, y) - iou_distance(x, y) / 2 for x, y in zip(a, b, strict=True)]  # the samples are the first of both
    assert curve["distance"]["1"] == pytest.approx(np.mean(values)) and np.mean(values) > 0.1


def test_no_distance_where_nobody_annotated() -> None:
    by_patch, by_rater = raters_of(REGIONS, 2)
    nobody = [[(image, torch.full_like(y, value)) for image, y in patches] for patches, value in zip(by_rater, (-1, 3), strict=True)]
    assert distance_curve(Drawing(by_patch, REGIONS, 1), nobody, REGIONS, 4, CPU) == {}  # type: ignore[arg-type]


def test_samples_have_their_own_noise_and_step_counts_share_it() -> None:
    by_patch, by_rater = raters_of(CLASSES, 2)
    model = Drawing(by_patch, CLASSES, enough=1)
    distance_curve(model, by_rater, CLASSES, 2, CPU)  # type: ignore[arg-type]
    assert len(model.noises) == 2 * 3 * 8 and len({n.numpy().tobytes() for n in model.noises}) == 3 * 8
    torch.testing.assert_close(model.noises[:24], model.noises[24:], rtol=0, atol=0)


class Coder:
    """An autoencoder that gives labels back, but for the first voxels, where it says the opposite."""

    def __init__(self, errors: int) -> None:
        self.errors = errors

    def encode_label(self, onehot: torch.Tensor) -> torch.Tensor:
        return onehot

    def decode(self, z: torch.Tensor, condition: None) -> torch.Tensor:
        logits = z - 0.5
        logits.flatten(2)[:, :, : self.errors] *= -1
        return logits


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
def test_reconstruction_of_a_perfect_and_of_a_wrong_autoencoder(labels: LabelSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    top = 3 if labels is CLASSES else 4  # no `rare`; or ignored voxels, which do not count
    patches = [(torch.zeros(2, 1, 8, 8), torch.randint(top, (2, 8, 8), generator=generator)) for _ in range(2)]
    perfect, wrong = (reconstruction_dice(Coder(errors), patches, labels, CPU) for errors in (0, 10))  # type: ignore[arg-type]
    names = ("organ", "lesion") if labels is CLASSES else ("whole", "core")
    assert [perfect[n] for n in names] == [1, 1] and set(perfect) == set(labels.foreground_names)
    assert labels is REGIONS or np.isnan(perfect["rare"])
    label = torch.cat([y for _, y in patches])
    true, seen = foreground_masks(label, labels).numpy(), (label != 3).numpy() | (labels is CLASSES)
    onehot = torch.from_numpy(labels.table)[label].movedim(-1, 1)
    predicted = predicted_masks(torch.where(torch.arange(64).view(8, 8) < 10, 0.5 - onehot, onehot - 0.5), labels).numpy()
    assert [wrong[n] for n in names] == pytest.approx([dice(predicted[:, c] & seen, true[:, c] & seen) for c in (0, 1)])
    assert all(wrong[n] < 1 for n in names)


@pytest.mark.parametrize("split", [1, 2, 6])
def test_the_calibrated_latent_is_standard_on_its_patches(make_configuration: Callable[..., Configuration], split: int) -> None:
    """Over all patches as one, however they are batched; the number of updates stays."""
    torch.manual_seed(0)
    model = LDSeg(make_configuration(), 4).eval()
    model.standardise.mean.fill_(7)
    model.standardise.updates.fill_(3)
    label = torch.randint(4, (6, 16, 16))
    calibrate_latent(model, [(torch.zeros(len(y), 1, 16, 16), y) for y in label.split(split)], CLASSES, CPU)
    z = model.encode_label(torch.from_numpy(CLASSES.table)[label].movedim(-1, 1)).detach().double()
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.var((0, 2, 3), unbiased=False), torch.ones(4).double(), rtol=1e-3, atol=0)
    assert int(model.standardise.updates) == 3


def test_a_latent_standardised_per_sample_needs_no_calibration(make_configuration: Callable[..., Configuration]) -> None:
    model = LDSeg(make_configuration("paper"), 4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calibrate_latent(model, [(torch.zeros(1, 1, 16, 16), torch.zeros(1, 16, 16, dtype=torch.long))], CLASSES, CPU)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
