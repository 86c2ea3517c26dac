"""Validation on patches and on whole cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.inference.window import SlidingWindow
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.preprocessing.store import load_case, save_reference
from ldseg_auto.training.validation import mean_dice, patch_dice, step_curve, validate_cases

CPU = torch.device("cpu")
CLASSES = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2, "rare": 3})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, [1, 2])


class Scripted:
    """A model that predicts given logits, whatever the image; with few steps they are wrong in a few voxels."""

    def __init__(self, logits: list[torch.Tensor], errors: dict[int, int] | None = None) -> None:
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
    assert curve["chosen"] == chosen


def test_whole_cases_against_every_rater(
    tmp_path: Path, store: Callable[..., list[str]], make_configuration: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that returns the stored labels scores 1, or what the second rater's shift by one voxel leaves."""
    configuration = make_configuration(patch=(4, 8, 8))
    names = store(tmp_path / "data", (4, 12, 12))
    spec = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
    truth = {n: load_case(tmp_path / "data", n).labels[:] for n in names}
    for name, label in truth.items():
        save_reference(tmp_path / "gt_segmentations", name, np.concatenate([label, np.roll(label, 1, -1)]), (1.0, 1.0, 1.0))
    order = iter(names)

    def probabilities(self: SlidingWindow, models: list, image: np.ndarray, case: str, *rest: object) -> np.ndarray:
        assert image.shape == (1, 4, 12, 12) and case == next(order)
        return np.moveaxis(spec.table[truth[case][0]], -1, 0)

    monkeypatch.setattr(SlidingWindow, "probabilities", probabilities)
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    plans = Plans("Dataset001_Toy", "ldsegPlans", "abc", ".nii.gz", (0, 1, 2), (intensities,), {"3d": configuration}, "3d")
    result = validate_cases(None, names, tmp_path, plans, configuration, spec, 2, CPU, 0)  # type: ignore[arg-type]
    organ = (truth[names[0]][0] == 1, np.roll(truth[names[0]][0] == 1, 1, -1))
    first = result["cases"][names[0]]
    assert set(result["cases"]) == set(names) and set(first) == {"0", "1"}
    assert first["0"]["organ"]["dice"] == 1 and first["0"]["lesion"]["dice"] == 1
    assert first["1"]["organ"]["dice"] == pytest.approx(dice(*organ)) and first["1"]["lesion"]["dice"] == 0
    assert result["per_rater"] == {"0": 1, "1": pytest.approx(dice(*organ) / 2)}
    assert result["per_class"] == {"organ": pytest.approx((1 + dice(*organ)) / 2), "lesion": 0.5}
    assert result["mean"] == pytest.approx((result["per_class"]["organ"] + 0.5) / 2) and result["steps"] == 2
