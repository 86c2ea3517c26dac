"""Validation on whole cases."""

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
from ldseg_auto.training.validation import validate_cases

CPU = torch.device("cpu")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


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
